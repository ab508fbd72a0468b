"""One call of a user's own trainer, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.own_trainer.items import Results
from loracle.records.curves.recorder import CurveRecorder
from loracle.records.space import Config
from loracle.records.trial import ITEMS, Failure
from loracle.text.escape import printable
from loracle.text.numbers import NotANumber, as_number

if TYPE_CHECKING:
    from loracle.records.objective import Progress

_NUMBERS = 1000  # beside a result
_NAME = 200  # characters of a metric's name
_OURS = ("result", "attempts", "low", "high", ITEMS)  # metrics that Loracle adds


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
    """What a trainer found: the number that is asked for, as it was given, and others.

    Attributes:
        result: that number.
        metrics: the finite numbers beside it.
        beside, content: what stood beside the result, and all that it stood in, as they came.
        items: results of its items, of which it is the mean; None: the trainer gives none.
        rows: of files of items that must not be lost, by their name.
    """

    result: float
    metrics: Mapping[str, float]
    beside: Mapping[str, Any] = field(default_factory=dict, compare=False)
    content: Any = field(default=None, compare=False)
    items: Results | None = None
    rows: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def given(self, key: str) -> Any:
        """What a file of this name has, or what stands at this path from the top.

        Raises:
            ValueError: there is nothing.
        """
        if key in self.rows:
            return self.rows[key]
        try:
            return look_up(self.content, key)[0]
        except KeyError:
            raise ValueError(f"the trainer gives no {key}") from None

    def number(self, key: str) -> float:
        """The number of this name beside the result, or at this path from the top; it may be NaN or infinite.

        Raises:
            ValueError: there is none.
        """
        try:
            found = self.beside[key] if key in self.beside else look_up(self.content, key)[0]
        except KeyError:
            known = ", ".join(self.metrics) or "nothing"
            raise ValueError(f"the trainer gives no {key} beside its result; it gives {known}") from None
        try:
            return as_number(found)
        except NotANumber as error:
            raise ValueError(f"{key} beside the result is {error}") from None


Trainer = Callable[[Call], Measured | Failure]


def measured(
    result: Any, what: str, beside: Any = None, leave_out: str = "", content: Any = None
) -> Measured:
    """What a trainer found, where `result` is a number; `what` says where it comes from.

    Args:
        result: the number that is asked for.
        what: where it comes from, in words.
        beside: the mapping that it stands in, under the name `leave_out`, if it does.
        content: all that this stands in; None: nothing more.

    Raises:
        ValueError: it is none, or there are too many numbers beside it.
    """
    around = beside if isinstance(beside, Mapping) else {}
    numbers = numbers_beside(around, leave_out)
    try:
        return Measured(as_number(result), numbers, around, around if content is None else content)
    except NotANumber as error:
        raise ValueError(f"{what} is {error}") from None


def look_up(content: Any, key: str) -> tuple[Any, Any]:
    """What stands at `a.b.-1.c`, and the mapping or list it stands in. Raises KeyError."""
    around, rest = content, key
    while True:
        if isinstance(around, Mapping) and rest in around:
            return around[rest], around
        part, _, rest = rest.partition(".")
        try:
            inside = around[part] if isinstance(around, Mapping) else around[int(part)]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(key) from None
        if not rest:
            return inside, around
        around = inside


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
