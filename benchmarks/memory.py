"""How well peak memory is predicted: against what the allocator gave out, and what the system counted.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --out benchmarks/results/memory.json
    OMP_NUM_THREADS=1 python benchmarks/memory.py --model ~/.cache/loracle/real/gemma-3-270m-float32 \\
        --out benchmarks/results/real-memory.json

Every case trains a random model of a real architecture in a process of its own, or the real one, with the
heap of a worker. `allocated` is the peak of the tensors alone, added up from the profiler's record of every
allocation: what `torch.cuda.max_memory_allocated` is on a GPU. `resident` is how much the process grows, at
its peak, in its first training, beyond what it had with the model loaded and free memory given back: what a
run records of each trial. `again` is the same in a second training. Both hold what the allocator keeps, and
code that is used for the first time. `predicted` is what a run expects of it before any trial corrects it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from speed import about

from loracle.config.execution.heap import lean_heap
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import train_adapter
from loracle.training.memory.counting import count_footprint
from loracle.training.memory.equations import Sizes, training_growth, training_tensors
from loracle.training.memory.measurement import meter_of, release
from loracle.training.model.base_model import Base, _has_masked_logits, load_base
from loracle.training.model.checksum import weights_checksum, weights_fingerprint
from loracle.training.model.output.layer import observed_output

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 16_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8}
    | {"num_attention_heads": 6, "num_key_value_heads": 2},
    "qwen3": {"vocab_size": 64_000, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
    "gpt2": {"vocab_size": 16_000, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 1024}
    | {"bos_token_id": 0, "eos_token_id": 0},
    "gpt_neox": {"vocab_size": 16_000, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    | {"num_attention_heads": 6},
}
# Architecture, dtype, rank, micro-batch, tokens, of which in the loss, dropout, changed settings.
CASES: tuple[tuple[str, str, int, int, int, int, float, dict[str, Any]], ...] = (
    ("llama", "float32", 8, 4, 256, 32, 0.0, {}),
    ("llama", "float32", 64, 4, 256, 32, 0.1, {}),
    ("llama", "float32", 8, 1, 64, 16, 0.0, {}),
    ("llama", "float32", 8, 8, 256, 32, 0.0, {"gradient_checkpointing": True}),
    ("llama", "float32", 8, 4, 256, 32, 0.0, {"variant": "dora"}),
    ("llama", "float32", 8, 4, 256, 32, 0.0, {"variant": "pissa"}),
    ("llama", "bfloat16", 8, 4, 256, 32, 0.0, {}),
    ("llama", "bfloat16", 64, 8, 256, 32, 0.1, {"gradient_checkpointing": True}),
    ("qwen3", "float32", 8, 4, 128, 100, 0.0, {}),
    ("qwen3", "bfloat16", 16, 8, 128, 64, 0.05, {}),
    ("gpt2", "float32", 8, 4, 256, 32, 0.0, {}),
    ("gpt2", "bfloat16", 64, 4, 256, 32, 0.1, {}),
    ("gpt_neox", "float32", 8, 8, 128, 32, 0.0, {}),
    ("gpt_neox", "float32", 128, 2, 128, 32, 0.1, {"targets": ["query_key_value"]}),
)


# The same of a real model, Gemma 3 270M; with `--model`.
REAL_CASES: tuple[tuple[str, str, int, int, int, int, float, dict[str, Any]], ...] = (
    ("", "float32", 4, 1, 16, 4, 0.0, {}),
    ("", "float32", 8, 4, 32, 4, 0.05, {}),
    ("", "float32", 16, 16, 32, 4, 0.05, {}),
    ("", "float32", 64, 4, 32, 4, 0.1, {}),
    ("", "float32", 256, 2, 64, 8, 0.0, {}),
    ("", "float32", 16, 2, 128, 127, 0.0, {}),
    ("", "float32", 16, 4, 128, 8, 0.0, {"gradient_checkpointing": True}),
    ("", "bfloat16", 8, 4, 32, 4, 0.05, {}),
    ("", "bfloat16", 16, 16, 32, 4, 0.0, {}),
    ("", "bfloat16", 128, 4, 64, 16, 0.1, {}),
    ("", "bfloat16", 16, 4, 128, 127, 0.05, {}),
    ("", "bfloat16", 64, 16, 32, 4, 0.05, {"gradient_checkpointing": True}),
    ("", "float32", 16, 8, 24, 6, 0.0, {}),
    ("", "float32", 32, 2, 96, 95, 0.05, {}),
    ("", "float32", 128, 8, 32, 2, 0.05, {}),
    ("", "float32", 4, 16, 48, 12, 0.1, {}),
    ("", "float32", 8, 4, 64, 8, 0.0, {"variant": "rslora"}),
    ("", "float32", 32, 8, 64, 16, 0.05, {"gradient_checkpointing": True}),
    ("", "bfloat16", 4, 2, 24, 6, 0.0, {}),
    ("", "bfloat16", 32, 8, 48, 12, 0.1, {}),
    ("", "bfloat16", 256, 8, 32, 4, 0.0, {}),
    ("", "bfloat16", 16, 1, 256, 255, 0.0, {}),
    ("", "bfloat16", 64, 4, 96, 24, 0.05, {}),
    ("", "bfloat16", 8, 8, 128, 16, 0.05, {"gradient_checkpointing": True}),
    # The equations' factors for a heap were fitted to those above; these were added afterwards.
    ("", "float32", 8, 6, 40, 5, 0.05, {}),
    ("", "float32", 48, 3, 56, 20, 0.0, {}),
    ("", "float32", 96, 12, 20, 3, 0.1, {}),
    ("", "float32", 16, 1, 192, 191, 0.05, {}),
    ("", "float32", 32, 4, 40, 6, 0.0, {"variant": "rslora"}),
    ("", "float32", 8, 16, 40, 5, 0.05, {"gradient_checkpointing": True}),
    ("", "float32", 64, 2, 96, 12, 0.0, {"gradient_checkpointing": True}),
    ("", "bfloat16", 8, 2, 40, 5, 0.0, {}),
    ("", "bfloat16", 24, 16, 24, 3, 0.05, {}),
    ("", "bfloat16", 96, 6, 56, 55, 0.1, {}),
    ("", "bfloat16", 192, 3, 80, 10, 0.0, {}),
    ("", "bfloat16", 32, 8, 80, 10, 0.0, {"gradient_checkpointing": True}),
)
N_FITTED = 24


def load_real(folder: str, dtype: str) -> Base:
    """The model of a folder, as a run loads it."""
    model = {"model": folder, "data": {"train": "none"}, "device": "cpu", "dtype": dtype}
    return load_base(RunConfig.model_validate(model))


def make_base(kind: str, dtype: str) -> Base:
    """A random model of that architecture."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    options = {"max_position_embeddings": 1024} if kind != "gpt2" else {}
    config = transformers.AutoConfig.for_model(kind, **SHAPES[kind], **options)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.eval().requires_grad_(False)
    device = torch.device("cpu")
    masked, output = _has_masked_logits(model, device), observed_output(model, device)
    sums = weights_fingerprint(model), weights_checksum(model)
    return Base(kind, model, None, device, model.dtype, *sums, (0,), 0, 1024, masked, output=output)


def make_data(n: int, length: int, in_loss: int) -> Encoded:
    """`n` examples of `length` tokens, the last ones in the loss."""
    counted = np.zeros((n, length), dtype=bool)
    counted[:, -in_loss:] = True
    starts = np.arange(n) * length
    return Encoded(
        tokens=np.random.default_rng(0).integers(1, 8000, n * length).astype(np.int32),
        counted=counted.ravel(),
        starts=starts,
        ends=starts + length,
        prompt_lengths=np.full(n, length - in_loss),
        counts=counted.sum(axis=1),
        positions=np.arange(n),
        goes_on=np.zeros(n, dtype=bool),
    )


def allocated_peak(work: Callable[[], None]) -> int:
    """Bytes of tensors at the peak of `work` beyond those at its start."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = []
    waiting = list(profile.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag.name == "Allocation":
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    sizes = [size for _, size in sorted(events)]
    return int(np.cumsum(sizes).max())


def measure(number: int, profiled: bool, model: str | None) -> dict[str, float]:
    """One case in this process."""
    cases = REAL_CASES if model else CASES
    kind, dtype, rank, micro_batch, length, in_loss, dropout, changes = cases[number]
    torch.set_num_threads(1)
    base = load_real(model, dtype) if model else make_base(kind, dtype)
    settings = TrainingConfig(**changes, micro_batch=micro_batch, epochs=2)
    data = make_data(2 * micro_batch, length, in_loss)
    footprint = count_footprint(base, settings)
    config = {"rank": rank, "alpha": rank, "dropout": dropout, "learning_rate": 1e-4}
    config |= {"batch_size": 2 * micro_batch}
    meter = meter_of(base.device)
    assert meter is not None

    def train() -> int:
        with train_adapter(base, data, config, settings, seed=0) as trained:
            assert trained.peak_memory is not None
            return trained.peak_memory

    sizes = Sizes.of(data)
    predicted = float(training_growth(footprint, sizes, rank, micro_batch, dropout))
    if profiled:
        tensors = float(training_tensors(footprint, sizes, rank, micro_batch, dropout))
        return {"allocated": allocated_peak(lambda: train() and None), "predicted_tensors": tensors}
    release(base.device)  # as `build_memory_model` does
    before = meter.used()
    found = {"predicted": predicted, "loaded": float(before), "resident": float(train() - before)}
    return found if model else found | {"again": float(train() - before)}


def run_case(number: int, model: str | None, *more: str) -> dict[str, float]:
    """One case in a process of its own."""
    own = ["--model", model] if model else []
    command = [sys.executable, __file__, "--case", str(number), *own, *more]
    environment = os.environ | lean_heap()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def spread(values: list[float]) -> list[float]:
    return [min(values), median(values), max(values)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", help="folder of Gemma 3 270M: its cases instead of the random models'")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--profiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(arguments.case, arguments.profiled, arguments.model)))
        return
    rows = []
    print(f"{'case':58}{'tensors':>9}{'pred.':>9}{'ratio':>7}{'grown':>10}{'pred.':>9}{'ratio':>7}")
    for number, case in enumerate(REAL_CASES if arguments.model else CASES):
        found = run_case(number, arguments.model) | run_case(number, arguments.model, "--profiled")
        kind, dtype, rank, micro_batch, length, in_loss, dropout, changes = case
        name = f"{kind} {dtype} r{rank} {micro_batch}x{length} ({in_loss}) dropout {dropout} "
        name += " ".join(str(value) for value in changes.values())
        grown = max(found["resident"], found.get("again", 0.0))
        rows.append({"case": name.strip(), **found, "predicted_over_grown": found["predicted"] / grown})
        numbers = [found[name] / 1e6 for name in ("allocated", "predicted_tensors")]
        line = f"{name:58}{numbers[0]:>9.1f}{numbers[1]:>9.1f}{numbers[0] / numbers[1]:>7.2f}"
        line += f"{grown / 1e6:>10.1f}{found['predicted'] / 1e6:>9.1f}{found['predicted'] / grown:>7.2f}"
        print(line, flush=True)
    later = rows[N_FITTED:] if arguments.model else []
    summary = {
        "allocated_over_predicted": spread([row["allocated"] / row["predicted_tensors"] for row in rows]),
        "predicted_over_grown": spread([row["predicted_over_grown"] for row in rows]),
        **({"of_cases_not_fitted": spread([row["predicted_over_grown"] for row in later])} if later else {}),
    }
    print(json.dumps(summary))
    if arguments.out:
        content = {**about(), "minimum_median_maximum": summary, "cases": rows}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
