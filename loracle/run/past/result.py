"""What is read of a past run, whatever wrote it: settings and scores by the names that they have there."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from loracle.config.spellings import ACCUMULATION, MICRO_BATCH, meant_by
from loracle.records.space import Config, with_alpha
from loracle.text.numbers import NotANumber, as_number

Direction = Literal["maximize", "minimize"]

# The batch of one optimizer step, whatever it is made of, before one that has to be multiplied.
_EFFECTIVE = ("effective_batch_size", "total_train_batch_size", "total_batch_size", "global_batch_size")
_MICRO = (*MICRO_BATCH, "per_gpu_train_batch_size", "per_device_batch_size", "train_batch_size")
_DEVICES = ("num_devices", "world_size", "n_gpu", "n_gpus", "num_gpus")
_HEAD = re.compile(r"^(config|cfg|params?|args|hparams?|training_args|training|train_args)[./]", re.I)
# What a training logs while it runs is no setting: `train/learning_rate` is the last one of a schedule.
_LOGGED = re.compile(
    r"^(metrics|summary|train|eval|test|val|validation|system|perf|profiling|model)[./]", re.I
)
_LONGEST = 100_000  # characters of a mapping in a cell
_ADAPTER = re.compile(r"(^|[._/])(lora|peft|adapter)", re.I)


@dataclass(frozen=True)
class Result:
    """One training that is over.

    Attributes:
        settings: as its file names them, numbers and others.
        scores: what was measured, as the metric reads; NaN where it diverged.
    """

    settings: Mapping[str, Any]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Source:
    """Trainings of which the scores compare.

    Attributes:
        name: for people.
        results: the trainings.
        directions: of scores for which the source itself says it.
        only: the score, where the source has one and no name for it.
    """

    name: str
    results: Sequence[Result]
    directions: Mapping[str, Direction] = field(default_factory=dict)
    only: str | None = None

    @property
    def measured(self) -> list[str]:
        """Names of all scores, each once."""
        return list(dict.fromkeys(name for result in self.results for name in result.scores))


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings of nested mappings under names with dots."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def number(value: Any) -> float | None:
    """What a setting or a cell says, `NaN` and infinities included; None where it is no number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return as_number(value.strip() if isinstance(value, str) else value)
    except NotANumber:
        return None


def mapping_in(text: Any) -> Mapping[str, Any] | None:
    """The mapping that a cell holds, as JSON or as Python shows it; None where it holds none."""
    if not isinstance(text, str) or len(text) > _LONGEST or not text.lstrip().startswith("{"):
        return None
    for reading in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            content = reading(text)
            return content if isinstance(content, dict) else None
    return None


def knobs_of(settings: Mapping[str, Any], names: Collection[str]) -> Config:
    """The values of some knobs that settings state under whatever usual name, with alpha and alpha_ratio.

    The batch is the effective one: of a step, over all devices.
    """
    wanted = frozenset({*names, "rank", "alpha", "alpha_ratio"} - {"batch_size"})
    found: dict[str, float] = {}
    for name in sorted(settings, key=lambda name: (not _ADAPTER.search(name), not _HEAD.match(name))):
        if _LOGGED.match(name) or (value := number(settings[name])) is None:
            continue
        knob = _knob(name, wanted)
        if knob is not None:
            found.setdefault(knob, value)
    if found.get("rank", 1) <= 0:
        del found["rank"]
    if {"alpha", "alpha_ratio", "rank"} <= found.keys():
        del found["alpha_ratio"]
    if "batch_size" in names and (batch := _batch(settings)) is not None:
        found["batch_size"] = batch
    return with_alpha({name: _whole(value) for name, value in found.items()})


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value


@lru_cache(maxsize=4096)
def _knob(name: str, wanted: frozenset[str]) -> str | None:
    meant, usual = meant_by(name.replace(".default.", "."), wanted)
    return meant if usual else None


def _batch(settings: Mapping[str, Any]) -> float | None:
    plain = {_last(name): number(value) for name, value in settings.items() if not _LOGGED.match(name)}
    stated = next((plain[name] for name in (*_EFFECTIVE, "batch_size") if plain.get(name) is not None), None)
    if stated is not None:
        return stated
    micro = next((plain[name] for name in _MICRO if plain.get(name) is not None), None)
    if micro is None:
        return _batch_by_any_name(plain)
    times = [next((plain[n] for n in names if plain.get(n)), 1.0) for names in (ACCUMULATION, _DEVICES)]
    return micro * (times[0] or 1.0) * (times[1] or 1.0)


def _batch_by_any_name(plain: Mapping[str, float | None]) -> float | None:
    only = frozenset({"batch_size"})
    return next((v for name, v in plain.items() if v is not None and _knob(name, only)), None)


def _last(name: str) -> str:
    """A name without what scripts put before it."""
    return re.split(r"[./]", name)[-1].lower()
