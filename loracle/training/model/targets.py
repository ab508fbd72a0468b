"""What is trained of a model: the words of the settings, found among the model's own modules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from loracle.config.training.settings import TARGET_GROUPS, TrainingConfig
from loracle.errors import ConfigError
from loracle.training.model.base_model import Base

_LINEAR = (nn.Linear, Conv1D)
# A module belongs to a group if it, or what it is a part of, has such a name or such a class.
_GROUPS = {
    "attention": re.compile(r"attn|attention|^(q|k|v|o)_proj$", re.IGNORECASE),
    "mlp": re.compile(r"mlp|feed_?forward|ffn|expert|moe|^fc(_?\d|_in|_out)?$|^linear_?[12]$", re.IGNORECASE),
}


def linear_modules(model: Any) -> list[str]:
    """What `all-linear` stands for: every linear module but the output layer, as PEFT has it."""
    output = model.get_output_embeddings()
    return [name for name, m in model.named_modules() if isinstance(m, _LINEAR) and m is not output]


def is_named(name: str, own: str) -> bool:
    """Whether a module or weight is meant by `own`: its name, or the last parts of it."""
    return f".{name}".endswith(f".{own}")


def resolved_targets(base: Base, settings: TrainingConfig) -> TrainingConfig:
    """Settings whose `targets` PEFT understands, and that only name what the model has.

    Names, alone or the last parts of them, and `all-linear` stay as they are. `attention`, `mlp` and regular
    expressions become the names of the linear modules and embeddings that they stand for.

    Raises:
        ConfigError: one of them stands for nothing.
    """
    _check_saved(base, settings)
    if settings.targets == "all-linear":
        return settings
    if not settings.targets:
        raise ConfigError("training.targets: the list is empty; name modules, or set all-linear")
    found: dict[str, None] = {}
    for target in settings.targets:
        found |= dict.fromkeys(_resolved(base, target))
    kept: list[str] = list(found)
    if kept != settings.targets:
        kept = _shortest(base.model, kept)
    return settings.model_copy(update={"targets": kept})


def _resolved(base: Base, target: str) -> Iterable[str]:
    """The names that one entry stands for; a name is itself."""
    if target in TARGET_GROUPS:
        names = linear_modules(base.model)
        if target != "all-linear":
            names = [name for name in names if _group(base.model, name) == target]
        if not names:
            raise ConfigError(
                f"training.targets: no linear module of {base.name} is known for one of {target!r}; "
                f"{_its_own(base)}"
            )
        return names
    places = chain(base.model.named_modules(), base.model.named_parameters())
    if any(is_named(name, target) for name, _ in places):
        return [target]
    fits = _matcher(target)
    kinds = (*_LINEAR, nn.Embedding)
    names = [name for name, m in base.model.named_modules() if isinstance(m, kinds) and fits(name)]
    if not names:
        raise ConfigError(f"training.targets: the model has no module {target!r}; {_hint(base, target)}")
    return names


def _matcher(pattern: str) -> Callable[[str], Any]:
    """Whether a whole name fits, as in PEFT."""
    try:
        return re.compile(pattern).fullmatch
    except re.error:
        return lambda name: None


def _group(model: Any, name: str) -> str | None:
    """Which group a linear module belongs to, by the innermost part of its place that says so."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        kind = type(model.get_submodule(".".join(parts[:n]))).__name__ if n < len(parts) else ""
        for group, words in _GROUPS.items():
            if words.search(parts[n - 1]) or (words.search(kind) and not parts[n - 1].isdigit()):
                return group
    return None


def _shortest(model: Any, names: list[str]) -> list[str]:
    """The last parts of the names, where these stand for the same modules; else the names."""
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    wanted = {name for name, _ in model.named_modules() if any(is_named(name, own) for own in names)}
    meant = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in leaves}
    return leaves if wanted == meant else names


def _check_saved(base: Base, settings: TrainingConfig) -> None:
    for target in settings.modules_to_save:
        if not any(is_named(name, target) for name, _ in base.model.named_modules()):
            hint = _hint(base, target)
            raise ConfigError(f"training.modules_to_save: the model has no module {target!r}; {hint}")


def _hint(base: Base, target: str) -> str:
    close = difflib.get_close_matches(target, {*_last_parts(base), *TARGET_GROUPS}, n=1)
    return f"did you mean {close[0]!r}?" if close else _its_own(base)


def _its_own(base: Base) -> str:
    return f"it has {', '.join(sorted(_last_parts(base)))}"


def _last_parts(base: Base) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in base.model.named_modules() if name}
