"""Checks of everything a run needs, before anything costs money. Nothing is trained, nothing is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from loracle.config import RunConfig
from loracle.errors import LoracleError
from loracle.language import load_language_model
from loracle.model import Base
from loracle.objective import TrainingObjective
from loracle.optimizer import get_preset
from loracle.space import SearchSpace
from loracle.tune import run_prompt, search_space

_FEW_STEPS = 20  # below this many optimizer steps a trial says little (fact 29: 100 and more are better)
_ADAPTER_BYTES = 16  # a parameter in float32: weight, gradient and two Adam moments (fact 41)


@dataclass(frozen=True)
class Check:
    """One finding: `ok`, `note` (worth reading) or `bad` (the run would fail)."""

    name: str
    state: Literal["ok", "note", "bad"]
    text: str


def examine(config: RunConfig) -> Iterator[Check]:
    """Checks device, data, model, space, prompts, memory and output, in that order.

    What cannot be used ends the examination with a `bad` check; no exception is raised for bad input.
    """
    yield Check("device", "ok", _device(config))
    try:
        objective = TrainingObjective.from_config(config)
        yield from _data(objective)
        yield Check("model", "ok", _model(objective.base))
        space = search_space(config, objective.n_proxy)
        yield from _space(config, objective, space)
        yield _prompts(config, objective, space)
    except LoracleError as error:
        yield Check("input", "bad", str(error))
        return
    yield _memory(config, objective.base, space)
    yield _output(config.output)


def _device(config: RunConfig) -> str:
    text = f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)}; {text}"
    if torch.backends.mps.is_available():
        return f"Apple GPU; {text}"
    return f"no GPU here, so trials run on the CPU; {text} (config: device {config.device})"


def _data(objective: TrainingObjective) -> Iterator[Check]:
    splits = objective.splits
    yield Check(
        "data",
        "ok",
        f"{objective.n_train:,} training, {len(splits.validation):,} validation, {len(splits.test):,} test "
        f"examples; a trial trains on {objective.n_proxy:,}",
    )
    dropped = {name: n for name, n in objective.dropped.items() if n}
    if dropped:
        parts = ", ".join(f"{n:,} of {name}" for name, n in dropped.items())
        yield Check("length", "note", f"longer than data.max_length tokens and left out: {parts}")


def _model(base: Base) -> str:
    count = sum(parameter.numel() for parameter in base.model.parameters())
    return (
        f"{base.name}: {_count(count)} parameters, {str(base.dtype).removeprefix('torch.')} on {base.device}"
    )


def _space(config: RunConfig, objective: TrainingObjective, space: SearchSpace) -> Iterator[Check]:
    yield Check("space", "ok", f"{len(space.candidates):,} candidates of {space.size:,} configs")
    if "batch_size" not in space.names:
        return
    epochs = config.training.epochs
    largest = space.realised_batch(int(space["batch_size"].values[-1]))
    steps = int(objective.n_proxy * epochs / largest)
    if steps < _FEW_STEPS:
        yield Check(
            "steps",
            "note",
            f"batch_size {largest} gives only {steps} optimizer steps in a trial; "
            "raise data.proxy, or leave large batches out of the space",
        )


def _prompts(config: RunConfig, objective: TrainingObjective, space: SearchSpace) -> Check:
    preset = get_preset(config.search.preset, language=config.language.model != "none")
    if not preset.reads:
        return Check("prompts", "ok", f"preset {config.search.preset}: numbers only, no language model")
    base = objective.base
    model = load_language_model(
        config.language,
        tuned=(base.model, base.tokenizer),
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    assert model is not None  # `get_preset` refuses `none` here
    prompt = run_prompt(config, space, model, objective.n_proxy)
    sample = [space.config(int(index)) for index in space.candidates[:: max(1, len(space.candidates) // 200)]]
    longest = max(len(ids) for ids in model.token_ids([prompt.text(config) for config in sample]))
    limit = "" if model.limit is None else f" of {model.limit:,}"
    if model.limit is not None and longest >= model.limit:
        text = (
            f"a prompt of {prompt.version} has {longest:,} tokens, {model.name} reads at most {model.limit:,}"
        )
        return Check("prompts", "bad", f"{text}; choose a shorter language.prompt")
    return Check("prompts", "ok", f"{prompt.version} read by {model.name}, {longest:,}{limit} tokens at most")


def _memory(config: RunConfig, base: Base, space: SearchSpace) -> Check:
    """Compares an estimate of the largest trial with what the device has."""
    needed = estimate_memory(config, base, space)
    if base.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(base.device)
        free += sum(p.numel() * p.element_size() for p in base.model.parameters())  # it is loaded already
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"the largest trial needs about {_gigabytes(needed)} of {_gigabytes(free)}"
    if needed < 0.9 * free:
        return Check("memory", "ok", text)
    return Check(
        "memory", "note", f"{text}; lower training.micro_batch or data.max_length, or leave high ranks out"
    )


def estimate_memory(config: RunConfig, base: Base, space: SearchSpace) -> int:
    """Bytes of the largest trial: weights, adapter with optimizer state, activations, logits.

    Activations per layer in a 16-bit run: s b h (34 + 5 a s / h) bytes (Korthikanti et al. 2022,
    arXiv 2205.05198, eq. 1), twice that in float32; with checkpointing 2 s b h. Logits and their gradient: 3
    float32 copies.
    """
    model_config = base.model.config.get_text_config()
    rank = int(space["rank"].values[-1]) if "rank" in space.names else 0
    weights = sum(p.numel() * p.element_size() for p in base.model.parameters())
    adapter = _ADAPTER_BYTES * rank * _width_of_linear_layers(base.model)
    length = min(config.data.max_length, base.max_positions or config.data.max_length)
    tokens = config.training.micro_batch * length
    hidden, heads = int(model_config.hidden_size), int(model_config.num_attention_heads)
    factor = base.model.dtype.itemsize / 2
    per_token = 2 * hidden if config.training.gradient_checkpointing else hidden * 34 + 5 * heads * length
    activations = factor * tokens * per_token * int(model_config.num_hidden_layers)
    return int(weights + adapter + activations + 3 * 4 * tokens * int(model_config.vocab_size))


def _width_of_linear_layers(model: Any) -> int:
    """Adapter parameters per rank with all-linear targets: inputs plus outputs of every linear layer."""
    head = model.get_output_embeddings()
    layers = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return sum(layer.in_features + layer.out_features for layer in layers)


def _output(folder: Path) -> Check:
    if (folder / "journal.log").exists():
        return Check("output", "note", f"{folder} holds a run already; tune continues it")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Check("output", "bad", f"{existing} cannot be written; name another output")
    return Check("output", "ok", f"{folder}, {_gigabytes(shutil.disk_usage(existing).free)} free")


def _count(n: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
