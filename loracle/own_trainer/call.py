"""One call of a user's own trainer, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.records.curves.recorder import CurveRecorder
from loracle.records.space import Config
from loracle.records.trial import Failure
from loracle.text.escape import printable
from loracle.text.numbers import NotANumber, as_number

if TYPE_CHECKING:
    from loracle.records.objective import Progress

_NUMBERS = 1000  # beside a result
_NAME = 200  # characters of a metric's name
_OURS = ("result", "attempts")  # metrics that Loracle adds


@dataclass(frozen=True)
class Call:
    """One run of the user's trainer.

    Attributes:
        config: with `alpha` and `alpha_ratio` both, where there is a rank.
        folder: the trial's, absolute.
        phase: `search` in a trial, `final` for the winner and the standard settings at the end.
        fraction: of the training data that should be used.
        progress: told of what is printed.
        curve: takes the learning curve in, as far as the trainer tells it.
    """

    config: Config
    seed: int
    folder: Path
    phase: str
    fraction: float
    progress: Progress | None
    curve: CurveRecorder = field(default_factory=CurveRecorder, compare=False)

    @property
    def number(self) -> int | str:
        """The trial's number; `winner` or `standard` in a final run."""
        return int(self.folder.name) if self.folder.name.isdecimal() else self.folder.name

    def values(self) -> dict[str, Any]:
        """What a command or a function may ask for, by name."""
        names = ("seed", "folder", "number", "phase", "fraction")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Measured:
    """What a trainer found: the number that is asked for, as it was given, and others."""

    result: float
    metrics: Mapping[str, float]


Trainer = Callable[[Call], Measured | Failure]


def measured(result: Any, what: str, metrics: Mapping[str, float]) -> Measured:
    """What a trainer found, where `result` is a number; `what` says where it comes from.

    Raises:
        ValueError: it is none.
    """
    try:
        return Measured(as_number(result), metrics)
    except NotANumber as error:
        raise ValueError(f"{what} is {error}") from None


def numbers_beside(content: Any, leave_out: str) -> dict[str, float]:
    """The finite numbers of a mapping, but one, by names that are harmless wherever they are shown.

    A name that another has already, or that Loracle uses itself, gets a number: `loss`, `loss~2`.

    Raises:
        ValueError: there are too many to be kept.
    """
    numbers: dict[str, float] = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, str | bytes) or str(name) == leave_out:
            continue
        try:
            number = as_number(value)
        except NotANumber:
            continue
        if isfinite(number):
            numbers[_free(printable(str(name), _NAME), numbers)] = number
        if len(numbers) > _NUMBERS:
            raise ValueError(f"there are more than {_NUMBERS:,} numbers beside it, too many for metrics")
    return numbers


def _free(name: str, taken: Mapping[str, float]) -> str:
    if name not in taken and name not in _OURS:
        return name
    n = 2
    while f"{name}~{n}" in taken:
        n += 1
    return f"{name}~{n}"
