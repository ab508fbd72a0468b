"""The frozen records that the search half and the work half exchange. They keep what they promise, no more.

A *trial* is one training of one config; an *outcome* is what it gave: a value, or a typed failure.
Values are scores, and larger is better everywhere inside the code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from loracle.records.curves.curve import Curve
from loracle.text.escape import printable

_LINE = 600  # characters of a message

# The beginning of the message of a trial that was taken back; its own message follows.
TAKEN_BACK = "it crashed as all did around it, so it does not count, and is run again"

# Metric of a trainer of the user's own that gives results of items: how many they are.
ITEMS = "items"

# Where an Optuna trial keeps what Loracle knows of it.
INDEX_KEY = "loracle:index"
TOGETHER_KEY = "loracle:together"
FAILURE_KEY = "loracle:failure"


class FailureKind(StrEnum):
    """Why a trial gave no value. How the search treats each is decided in `optimizer.py`."""

    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    LOST = "lost"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Failure:
    """A typed failure: its kind, one line for people, and the end of the traceback if there was one.

    The line is harmless wherever it is shown, whatever a program printed; the traceback is as it came.
    """

    kind: FailureKind
    message: str
    traceback_tail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message, _LINE))
        object.__setattr__(self, "traceback_tail", _spelt(self.traceback_tail))


@dataclass(frozen=True)
class GuardReading:
    """What a training did to something that must not be lost, on the same items as the base model.

    Attributes:
        metric: by which it is scored.
        base, value: what the base model and the trained one score; larger is better.
        change, low, high: value less base, with its paired 95 % interval over items.
        allowed: how much may go, in units of the value.
        items: how many.
    """

    metric: str
    base: float
    value: float
    change: float
    low: float
    high: float
    allowed: float
    items: int

    @property
    def slack(self) -> float:
        """How far it is from being broken: below 0, more is lost than is allowed, beyond noise."""
        return self.high + self.allowed

    @property
    def kept(self) -> bool:
        """Whether it is not lost as far as these items tell."""
        return self.slack >= 0

    @property
    def relative_slack(self) -> float:
        """The slack in units of what is allowed or, where that is less, of the noise: so guards compare."""
        return self.slack / max(self.allowed, (self.high - self.low) / 2, 1e-12)


@dataclass(frozen=True)
class Tokens:
    """What a training took, and what a whole one would; kept among the metrics of its outcome.

    Attributes:
        trained: tokens that were trained on, repeats included, padding left out.
        read: for scoring: references and choices, a prompt that choices share once.
        generated: written for scoring, and the prompts that this was written behind.
        full: that one training on all data with the standard settings trains on.
        full_scoring: that scoring it takes on all examples of the split, where a trial has some of them.
    """

    trained: int
    read: int
    generated: int
    full: int
    full_scoring: int

    @property
    def metrics(self) -> dict[str, float]:
        """As `Outcome.metrics` has them."""
        counts = (self.trained, self.read, self.generated, self.full, self.full_scoring)
        return dict(zip((*_TOKENS, _FULL_SCORING), map(float, counts), strict=True))

    @classmethod
    def of(cls, outcome: Outcome) -> Tokens | None:
        """Of an outcome; None where the trainer does not say, or the run was begun before it did."""
        if any(name not in outcome.metrics for name in _TOKENS):
            return None
        trained, read, generated, full = (int(outcome.metrics[name]) for name in _TOKENS)
        scoring = outcome.metrics.get(_FULL_SCORING, read + generated)  # of trials of before: as they were
        return cls(trained, read, generated, full, int(scoring))


_TOKENS = ("tokens", "read_tokens", "generated_tokens", "full_training_tokens")
_FULL_SCORING = "full_scoring_tokens"


@dataclass(frozen=True)
class Outcome:
    """What a trial gave. Exactly one of `value` and `failure` is set.

    Attributes:
        value: the score to maximise.
        metrics: every scalar that was measured, by name (`validation_loss`, `exact_match`, ...).
        seconds: wall-clock time of the whole trial, in seconds.
        failure: why there is no value.
        seconds_by_part: what they went into (`training`, `scoring`, `other`), in seconds; empty where the
            trainer does not say.
        guards: what became of each guard, by its name.
        curve: how the training went, also of one that failed; None: the trainer does not say, or the run was
            begun before curves were kept.
    """

    value: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: Failure | None = None
    seconds_by_part: Mapping[str, float] = field(default_factory=dict)
    guards: Mapping[str, GuardReading] = field(default_factory=dict)
    curve: Curve | None = None

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the guards that it breaks."""
        return tuple(name for name, reading in self.guards.items() if not reading.kept)

    @property
    def slack(self) -> float:
        """That of the guard nearest to being broken, in units that compare; infinite without guards."""
        return min((reading.relative_slack for reading in self.guards.values()), default=math.inf)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", {_spelt(name): x for name, x in self.metrics.items()})
        if isinstance(self.value, float) and self.value == 0:
            object.__setattr__(self, "value", 0.0)  # no zero has a sign
        if (self.value is None) == (self.failure is None):
            raise ValueError(
                f"an outcome has either a value or a failure; got value={self.value}, failure={self.failure}"
            )
        if self.value is not None and not isfinite(self.value):
            raise ValueError(f"a value must be finite; got {self.value}: record it as a diverged failure")


@dataclass(frozen=True)
class Trial:
    """One training of one config. `outcome` is None while it is pending.

    Attributes:
        number: position in the run, from 0.
        index: the config's index in its search space, which is its identity.
        outcome: what it gave.
        together: indices of all configs that share its forward pass, its own among them; none where it
            trains alone.
    """

    number: int
    index: int
    outcome: Outcome | None = None
    together: tuple[int, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether it was cut short from outside: then it says nothing and counts for nothing."""
        failure = self.outcome.failure if self.outcome else None
        return failure is not None and failure.kind is FailureKind.INTERRUPTED


@dataclass(frozen=True)
class History:
    """All trials so far, in the order they were started."""

    trials: tuple[Trial, ...] = ()

    @property
    def pending(self) -> tuple[Trial, ...]:
        """Trials that are still running."""
        return tuple(t for t in self.trials if t.outcome is None)

    @property
    def finished(self) -> tuple[Trial, ...]:
        """Trials with an outcome, good or failed."""
        return tuple(t for t in self.trials if t.outcome is not None)

    @property
    def counted(self) -> tuple[Trial, ...]:
        """Trials that count towards the budget: finished, and not interrupted."""
        return tuple(t for t in self.finished if not t.interrupted)

    @property
    def succeeded(self) -> tuple[Trial, ...]:
        """Trials with a value."""
        return tuple(t for t in self.trials if t.outcome is not None and t.outcome.value is not None)


def _spelt(text: str) -> str:
    """Half of a character, as broken programs print it, spelt out: no file could hold it."""
    return text.encode("utf-8", "backslashreplace").decode()
