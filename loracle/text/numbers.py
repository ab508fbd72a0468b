"""Numbers as people's code gives them: Python's own, numpy's, torch's, decimals, fractions, numbers in text.

Nothing of these libraries is imported: an array of one element says itself which number it holds.
"""

from __future__ import annotations

import operator
from typing import Any

_WHOLE = 2**63  # whole numbers are smaller
_SHOWN = 100  # characters of what is no number


class NotANumber(ValueError):
    """What was given, in a few words, and that it is no number."""


def as_number(value: Any) -> float:
    """A number as a float; NaN and infinities are numbers, `True` and arrays of several are not.

    Raises:
        NotANumber: it is none, or too large for a float.
    """
    item = _item(value)
    try:
        if isinstance(item, bool):
            raise TypeError
        return float(item)
    except OverflowError:
        raise NotANumber(f"{shown(value)}, too large for a number") from None
    except Exception:  # `__float__` of foreign code
        raise NotANumber(f"{shown(value)}, not a number") from None


def as_count(value: Any) -> int:
    """A whole number, also where it is spelt `3.0`. Raises NotANumber."""
    item = _item(value)
    try:
        if isinstance(item, bool | str | bytes):
            raise TypeError
        try:
            count = operator.index(item)
        except TypeError:
            count = int(item)
            if count != item:
                raise
        if not -_WHOLE <= count < _WHOLE:
            raise OverflowError
        return count
    except Exception:  # NaN, infinities, foreign code
        raise NotANumber(f"{shown(value)}, not a whole number") from None


def shown(value: Any) -> str:
    """A value in quotes, short; what is large or cannot be shown is called by its type."""
    try:
        if isinstance(value, str | bytes | int | float | complex | None):
            return f"{str(value)[:_SHOWN]!r}"
        size = len(value) if hasattr(value, "__len__") else 0
        if size <= _SHOWN and len(text := str(value)) <= 10 * _SHOWN:
            return f"{text[:_SHOWN]!r}"
    except Exception:  # thousands of digits, `__str__` of foreign code, arrays without a length
        pass
    return f"an object of type {type(value).__name__}"


def _item(value: Any) -> Any:
    """The Python number in an array of one element, on whatever device; anything else as it is."""
    if isinstance(value, str | bytes | int | float):
        return value if type(value).__module__ == "builtins" else _of_library(value)
    return _of_library(value)


def _of_library(value: Any) -> Any:
    try:
        return value.item()
    except Exception:  # no array, or one of several
        return value
