"""The adapter: put on the base model, taken off again without a trace, and saved in PEFT's layout."""

from __future__ import annotations

import copy
import difflib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file

from loracle.config import TrainingConfig
from loracle.errors import ConfigError, ModelError
from loracle.meter import release
from loracle.model import Base, weights_fingerprint
from loracle.plan import Plan


def check_targets(base: Base, settings: TrainingConfig) -> None:
    """Checks that every named target module exists. Raises ConfigError."""
    if settings.targets == "all-linear":
        return
    names = [f".{name}" for name, _ in base.model.named_modules() if name]
    known = {name.rpartition(".")[2] for name in names}
    for target in settings.targets:
        if not any(name.endswith(f".{target}") for name in names):
            close = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))}"
            raise ConfigError(f"training.targets: the model has no module {target!r}; {hint}")


@contextmanager
def adapted(base: Base, plan: Plan) -> Iterator[Any]:
    """Lends the model with a new, untrained adapter to the `with` block."""
    with restored(base, plan.settings):
        yield attach(base, plan)


@contextmanager
def restored(base: Base, settings: TrainingConfig) -> Iterator[None]:
    """Takes any adapter off at the end; then the base is as before, to the bit, or an error says so."""
    before = _structure(base.model)
    originals: dict[str, torch.Tensor] = {}
    if settings.variant == "pissa":  # it gives layers new weights, so the old ones are kept
        originals = {name: p.data for name, p in base.model.named_parameters()}
    try:
        yield
    finally:
        _detach(base.model)
        for name, weight in originals.items():
            base.model.get_parameter(name).data = weight
        if settings.gradient_checkpointing:
            _checkpointing(base.model, "disable")()
        base.model.eval()
        release(base.device)
        if _structure(base.model) != before or weights_fingerprint(base.model) != base.fingerprint:
            raise ModelError(
                f"the weights of {base.name} changed during a training, so later ones would not be "
                "comparable; start the command again"
            )


def attach(base: Base, plan: Plan) -> Any:
    """The PEFT model of a new, untrained adapter on the base. Call inside `restored`."""
    if plan.settings.gradient_checkpointing:
        _checkpointing(base.model, "enable")({"use_reentrant": False})
    with warnings.catch_warnings():  # PEFT 0.21 asks transformers 5.23 by an old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(base.model, _lora_config(plan))


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """Copies of the adapter's tensors, by PEFT's names."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def save_adapter(model: Any, start: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Writes the adapter in PEFT's layout.

    PiSSA trains on a base less its start, W - s B0 A0. It is written as a LoRA of twice the rank on W itself:
    s (B A - B0 A0) = s [B, -B0] [A; A0], which any user of the base model can load.
    """
    if not start:
        model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub
        return
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    merged = {}
    for name, tensor in state.items():
        now, before = tensor.detach().cpu(), start[name]
        is_a = "lora_A" in name
        merged[name] = torch.cat([now, before if is_a else -before], dim=0 if is_a else 1)
    config = copy.copy(model.peft_config["default"])
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    config.inference_mode = True
    save_file(merged, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def save_atomically(
    model: Any, start: Mapping[str, torch.Tensor], folder: Path, tokenizer: Any = None
) -> None:
    """Writes the adapter, and the tokenizer with its chat template, into a folder whose files are old or new,
    never half of one."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_adapter(model, start, partial)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(partial))
    move_files(partial, folder)


def move_files(source: Path, destination: Path) -> None:
    """Moves all files of a folder into another, each in one step, and removes the folder."""
    for path in sorted(source.rglob("*")):
        place = destination / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.replace(path, place)
    shutil.rmtree(source)


def _checkpointing(model: Any, action: str) -> Callable[..., None]:
    """The method that switches recomputation of activations on or off; transformers is renaming it."""
    names = (f"activation_checkpointing_{action}", f"gradient_checkpointing_{action}")
    method: Callable[..., None] = getattr(model, next(name for name in names if hasattr(model, name)))
    return method


def _detach(model: Any) -> None:
    """Puts every adapted layer's own layer back, also where attaching stopped half-way.

    PEFT's `unload` needs the finished PEFT model, which an error on the way never gives.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    vars(model).pop("peft_config", None)


def _lora_config(plan: Plan) -> LoraConfig:
    settings = plan.settings
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.rank,
        lora_alpha=int(plan.alpha) if plan.alpha.is_integer() else plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=settings.targets if settings.targets == "all-linear" else list(settings.targets),
        use_rslora=settings.variant == "rslora",
        use_dora=settings.variant == "dora",
        init_lora_weights="pissa" if settings.variant == "pissa" else True,
    )


def _structure(model: torch.nn.Module) -> list[tuple[str, Any]]:
    """What an adapter could leave behind: modules and their types, parameters, extra attributes."""
    modules: list[tuple[str, Any]] = [(name, type(module)) for name, module in model.named_modules()]
    parameters = [(name, p.requires_grad) for name, p in model.named_parameters()]
    return [*modules, *parameters, ("peft_config", hasattr(model, "peft_config"))]
