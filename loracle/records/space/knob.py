"""One hyperparameter: numbers in order on a scale, or names, which have none."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError, suggest
from loracle.records.constraints import Floats
from loracle.text.escape import printable

Number = int | float
Value = Number | str
Scale = Literal["log2", "log10", "linear", "names"]

NUMERIC = (
    "rank",
    "alpha",
    "alpha_ratio",
    "dropout",
    "batch_size",
    "learning_rate",
)  # whose values have order

_LARGEST = sys.float_info.max
MOST_NAMES = 64  # of a knob: each is a column of what a kernel sees
_NAME, _SENTENCE = 100, 1000  # characters
_APART = math.sqrt(0.5)  # of a one-hot coordinate: two names are 1 apart


@dataclass(frozen=True)
class Knob:
    """One hyperparameter.

    Attributes:
        name: the field's own word for it (`rank`, `learning_rate`, ...).
        values: its values, a tuple, list or array: numbers, strictly increasing; or, where the scale is
            `names`, names (or numbers) in any order, of which the first is the usual one.
        scale: the scale on which its steps are comparable; `names`: none, any two values are equally far from
            each other. Texts have it without saying so.
        explanation: key of its paragraph in the prompt; the name itself if empty.
        about: a sentence on some of the names, for prompts.

    Raises:
        SpaceError: no values, one text in the place of several, values not increasing or not finite, no such
            scale, a logarithmic scale with values that are not positive, or a name that is none.
    """

    name: str
    values: tuple[Value, ...]
    scale: Scale = "linear"
    explanation: str = ""
    about: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise SpaceError(f"a knob's name must be a plain word; got {printable(repr(self.name), 100)}")
        object.__setattr__(self, "values", listed(self.values, f"knob {self.name!r}: values"))
        if not self.values:
            raise SpaceError(f"knob {self.name!r} has no values; give at least one")
        if self.scale not in (scales := get_args(Scale)):
            there = ", ".join(scales)
            raise SpaceError(f"knob {self.name!r}: there is no scale {_shown(self.scale)}; there are {there}")
        texts = [value for value in self.values if isinstance(value, str)]
        if texts and len(texts) == len(self.values) and self.scale == "linear":
            object.__setattr__(self, "scale", "names")
        if texts and (len(texts) < len(self.values) or self.scale != "names"):
            raise SpaceError(
                f"knob {self.name!r}: values are numbers or names, not both, and names have no scale but "
                f"'names'; got {_shown(texts[0])}"
            )
        if self.scale == "names" and self.name in NUMERIC:
            raise SpaceError(f"knob {self.name!r}: values are numbers in order; got {_shown(self.values[0])}")
        for value in self.values:
            _check_value(self.name, value)
        if texts:
            object.__setattr__(self, "values", tuple(map(str, texts)))
        _check_sentences(self.name, self.about, self.values)
        _check_order(self.name, self.values, self.scale)

    @property
    def named(self) -> bool:
        """Whether its values have no order."""
        return self.scale == "names"

    @property
    def texts(self) -> tuple[str, ...]:
        """Its values where they are names; none where they are numbers."""
        return tuple(value for value in self.values if isinstance(value, str))

    @property
    def numbers(self) -> Floats:
        """What stands for its values in arrays, (n,): numbers for themselves, names for their positions."""
        return np.asarray(range(len(self.values)) if self.texts else self.values, dtype=np.float64)

    @property
    def usual(self) -> Value:
        """The value of who says nothing: the first name, or the middle number."""
        return self.values[0 if self.named else len(self.values) // 2]

    def scaled(self, values: npt.ArrayLike) -> Floats:
        """Numbers on the knob's own scale, moved to [0, 1] over the knob's range; same shape as given."""
        array = np.asarray(values, dtype=np.float64)
        ends = self.numbers[[0, -1]]
        if self.scale in ("log2", "log10"):
            array, ends = np.log(array), np.log(ends)
        if not math.isfinite(float(ends[1]) - float(ends[0])):
            array, ends = array / 2, ends / 2  # from -1.7e308 to 1.7e308
        width = ends[1] - ends[0]
        return (array - ends[0]) / width if width > 0 else np.zeros_like(array)

    def coordinates(self) -> Floats:
        """The n values as a kernel sees them: numbers in [0, 1], (n, 1); names one-hot, two of them 1 apart,
        (n, n)."""
        if not self.named:
            return self.scaled(self.numbers)[:, np.newaxis]
        return _APART * np.eye(len(self.values)) if len(self.values) > 1 else np.zeros((1, 1))

    def distances(self, value: Value) -> Floats:
        """How far each of the n values is from another, (n,): in units of the range, of names 0 or 1.

        Raises:
            SpaceError: a number in the place of a name, or the reverse, or one without a place on the scale.
        """
        if self.named:
            return np.array([float(not same_value(own, value)) for own in self.values])
        wanted = number(value, self.name)
        if self.scale != "linear" and wanted <= 0:
            raise SpaceError(f"{self.name}={wanted} cannot stand on a {self.scale} scale")
        return np.abs(self.scaled(self.numbers) - self.scaled(wanted))

    def position(self, value: Value) -> int:
        """Position of `value` among the knob's values.

        Raises:
            SpaceError: the value is not one of them.
        """
        for position, own in enumerate(self.values):
            if own == value:
                return position
        for position, own in enumerate(self.values):
            if same_value(own, value):
                return position
        close = suggest(value, self.texts) if isinstance(value, str) and self.texts else ""
        raise SpaceError(
            f"{self.name}={_shown(value)} is not in the space; its values are {list(self.values)}{close}"
        )


def listed(given: object, what: str) -> tuple[Any, ...]:
    """Several things as a tuple, those of an array as Python's own numbers.

    Raises:
        SpaceError: it is one thing, such as a text in brackets without a comma, or has no order.
    """
    alone = isinstance(given, str | bytes | Mapping | Set) or getattr(given, "ndim", None) == 0
    if alone or not isinstance(given, Iterable):
        one = f"; of one alone write [{_shown(given)}]" if isinstance(given, str | int | float) else ""
        raise SpaceError(f"{what} are a list or a tuple; got {_shown(given)}{one}")
    return tuple(each.item() if getattr(each, "ndim", None) == 0 else each for each in given)


def number(value: Value, name: str = "a value") -> Number:
    """A value that has to be a number. Raises SpaceError where it is a name."""
    if isinstance(value, str):
        raise SpaceError(f"{name} is a number; got {_shown(value)}")
    return value


def same_value(one: Value, other: Value) -> bool:
    """Whether two values are the same, numbers up to rounding."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)


def reads_as_number(text: str) -> bool:
    """Whether a text would be taken for a number: a name must not."""
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- helpers ----------------------------------------------------------------------------------------


def _shown(value: object) -> str:
    return printable(repr(value), 60)


def _check_value(name: str, value: object) -> None:
    if isinstance(value, str):
        _check_name(name, value)
    elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        shown = "a whole number beyond 1e308" if type(value) is int else _shown(value)
        raise SpaceError(f"knob {name!r}: values must be finite numbers; got {shown}")


def _check_name(knob: str, name: str) -> None:
    """A name is what fits a table's cell and a command's argument, and is no number."""
    problem = ""
    if not name or name != name.strip():
        problem = "a name is a text without spaces around it"
    elif name != printable(name):
        problem = "a name is one line of text without control characters"
    elif len(name) > _NAME:
        problem = f"a name has at most {_NAME} characters; say more in its sentence (about)"
    elif reads_as_number(name):
        problem = "a name does not read as a number; write numbers without quotes"
    if problem:
        raise SpaceError(f"knob {knob!r}: {problem}; got {_shown(name)}")


def _check_sentences(knob: str, about: Mapping[str, str], values: tuple[Value, ...]) -> None:
    names = [value for value in values if isinstance(value, str)]
    for name, sentence in about.items():
        if name not in names:
            raise SpaceError(f"knob {knob!r}: about: there is no name {_shown(name)}{suggest(name, names)}")
        if len(sentence) > _SENTENCE or sentence != printable(sentence):
            raise SpaceError(
                f"knob {knob!r}: about: what is said of {name!r} is one line of at most {_SENTENCE:,} "
                f"characters; got {_shown(sentence)}"
            )


def _check_order(name: str, values: tuple[Value, ...], scale: Scale) -> None:
    if scale == "names":
        if len(values) > MOST_NAMES:
            raise SpaceError(
                f"knob {name!r}: {len(values):,} names are more than {MOST_NAMES}; leave some out"
            )
        for place, value in enumerate(values):
            if any(same_value(value, other) for other in values[:place]):
                raise SpaceError(f"knob {name!r}: {_shown(value)} is given twice")
        return
    order = [number(value) for value in values]
    for low, high in pairwise(order):
        if not low < high:
            raise SpaceError(f"knob {name!r}: values must increase, without repeats; got {low} before {high}")
    if scale != "linear" and order[0] <= 0:
        raise SpaceError(
            f"knob {name!r}: scale {scale} needs values above 0; got {order[0]}. Use scale: linear"
        )
