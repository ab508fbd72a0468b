"""What must not be lost around a trainer whose `evaluate()` says it, as those of transformers and TRL do."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from loracle.config.metrics import metric_of
from loracle.config.metrics.guard import OwnGuardConfig
from loracle.errors import ConfigError
from loracle.own_trainer.direction import sign_of
from loracle.own_trainer.guards import reading_of
from loracle.records.trial import Failure, FailureKind, GuardReading, Outcome
from loracle.text.escape import printable
from loracle.text.files import write_atomically
from loracle.text.numbers import NotANumber, as_number


class Trainer(Protocol):
    """What a trainer has to have, as those of transformers and TRL do."""

    def train(self) -> Any: ...

    def evaluate(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Watched:
    """What must not be lost.

    Attributes:
        guards: by the name of their metric.
        unknown: those of which nobody said what the base model has.
        path: where that is kept, once it is measured.
    """

    guards: Mapping[str, OwnGuardConfig]
    unknown: frozenset[str]
    path: Path = Path()

    @classmethod
    def of(cls, given: Mapping[str, Mapping[str, Any]]) -> Watched:
        """Raises ConfigError."""
        if not isinstance(given, Mapping):
            raise ConfigError(f"guards: a mapping of metrics to settings; got {printable(repr(given), 60)}")
        guards = {}
        for name, settings in given.items():
            shown = f"guards: {printable(repr(name), 60)}"
            if not isinstance(settings, Mapping) or settings.keys() - {"tolerance", "direction", "base"}:
                raise ConfigError(
                    f"{shown}: a mapping of tolerance, direction and base, each of which may lack"
                )
            base = settings.get("base", 0)
            if not is_number(base) or not math.isfinite(base):
                raise ConfigError(f"{shown}: base is a number; got {printable(repr(settings['base']), 60)}")
            try:
                sign = sign_of(str(name), settings.get("direction"))
            except ConfigError as error:
                raise ConfigError(f"{shown}: {error}") from None
            direction = "minimize" if sign < 0 else "maximize"
            whole = {"base": 0.0, **settings, "key": str(name), "direction": direction}
            try:
                guards[str(name)] = OwnGuardConfig.model_validate(whole)
            except ValueError as error:
                why = printable(str(error).split("Value error, ")[-1].split(" [type=")[0], 200)
                raise ConfigError(f"{shown}: {why}") from None
        return cls(guards, frozenset(name for name in guards if "base" not in given[name]))

    @property
    def contents(self) -> dict[str, str]:
        """What a search is made of."""
        unsaid = {name: {"base": None} if name in self.unknown else {} for name in self.guards}
        return {
            f"guard {name}": json.dumps(guard.model_dump(mode="json") | unsaid[name], sort_keys=True)
            for name, guard in self.guards.items()
        }

    def bases(self, trainer: Trainer) -> dict[str, float]:
        """What the base model has, measured with a trainer that has not trained where it was not before."""
        if not self.unknown:
            return {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self.path.read_text(encoding="utf-8"))
            if self.unknown <= known.keys():
                return {name: float(known[name]) for name in self.unknown}
        metrics = evaluated(trainer)
        found = {name: float(metrics[name]) for name in self.unknown if is_number(metrics.get(name))}
        if found.keys() == self.unknown and all(map(math.isfinite, found.values())):
            write_atomically(self.path, json.dumps(found))
        return found

    def read(self, outcome: Outcome, metrics: Mapping[str, Any], bases: Mapping[str, float]) -> Outcome:
        """The outcome with what became of each guard; a failure where one is no number any more."""
        readings = {}
        for name, guard in self.guards.items():
            known = guard.model_copy(update={"base": bases.get(name, guard.base)})
            try:
                readings[name] = reading_of(name, known, lambda key: float(metrics[key]))
            except FloatingPointError as error:
                return replace(outcome, value=None, failure=Failure(FailureKind.DIVERGED, str(error)))
        return replace(outcome, guards=readings)


def went(reading: GuardReading) -> str:
    """What became of a guard, in the numbers that `evaluate()` gives."""
    sign = -1.0 if metric_of(reading.metric).less_is_better else 1.0
    base, value = sign * reading.base, sign * reading.value
    return f"{base:.4g} before training, {value:.4g} after it, {reading.allowed:.2g} may go"


def evaluated(trainer: Trainer) -> Mapping[str, Any]:
    """What `evaluate()` gives; nothing where that is no mapping."""
    found = trainer.evaluate()
    return found if isinstance(found, Mapping) else {}


def is_number(value: Any) -> bool:
    """Whether it is one, of Python, NumPy or torch; a text, True and False are none."""
    if isinstance(value, str | bytes):
        return False
    try:
        as_number(value)
    except NotANumber:
        return False
    return True
