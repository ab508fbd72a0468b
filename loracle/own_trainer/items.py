"""Results of single items, as a trainer of the user's own gives them beside the result that is their mean."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from loracle.text.numbers import NotANumber, as_number

_MOST = 1_000_000  # items
_BYTES = 200_000_000  # of a file of them
_APART = 0.01  # of the result, or of the spread of the items, that rounding may explain

Results = Mapping[str | int, float]  # by the index of the item


class NotFinite(ValueError):
    """What an item got is NaN or infinite."""


def read_rows(path: Path, name: str) -> list[Any]:
    """What a file of JSON lines has, for `results_of` and `results_beside_base`.

    Raises:
        ValueError: it is not there or is no such file; it says why.
    """
    try:
        if path.stat().st_size > _BYTES:
            raise ValueError(f"{name} has more than {_BYTES // 1_000_000} MB")
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                raise ValueError(f"{name}, line {number} is not JSON") from None
    return rows


def results_beside_base(given: Any, name: str) -> tuple[Results, Results]:
    """Results of the trained and of the base model: of mappings with `value`, `base` and maybe `index`.

    Raises:
        NotFinite, ValueError: they are something else, are none, or two have one index.
    """
    if isinstance(given, Mapping | str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{name}: a list of mappings with index, value and base")
    rows = list(islice(given, _MOST + 1))
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping) or "base" not in row:
            raise ValueError(f"{name}: item {place} has no base, which is what the base model got on it")
    return results_of(rows, name), results_of(rows, name, "base")


def results_of(given: Any, name: str, key: str = "value") -> Results:
    """Results by index: of numbers, of mappings with `key` and maybe `index`, or of a mapping of indices.

    Raises:
        NotFinite: one of them is.
        ValueError: they are something else, are none, or two have one index.
    """
    if isinstance(given, Mapping):
        given = [{"index": index, key: value} for index, value in given.items()]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{name}: a list of numbers, or of mappings with index and value")
    found: dict[str | int, float] = {}
    for place, one in enumerate(given):
        index, value = place, one
        if isinstance(one, Mapping):
            index, value = one.get("index", place), one.get(key, "missing")
        if not isinstance(index, str | int):
            raise ValueError(f"{name}: the index of item {place} is no text and no whole number")
        try:
            number = float(value) if isinstance(value, bool) else as_number(value)
        except NotANumber as error:
            raise ValueError(f"{name}: the {key} of item {place} is {error}") from None
        if not math.isfinite(number):
            raise NotFinite(f"{name}: the {key} of item {place} is {number:g}")
        if index in found:
            raise ValueError(f"{name}: two items have the index {index!r}")
        found[index] = number
        if len(found) > _MOST:
            raise ValueError(f"{name}: there are more than {_MOST:,} items")
    if not found:
        raise ValueError(f"{name}: there are no items")
    return found


def require_mean(results: Results, result: float, name: str) -> None:
    """Raises ValueError where the result is not the mean of its items, as far as rounding explains."""
    spread = max(results.values()) - min(results.values())
    of_items = mean(results)
    if abs(of_items - result) > _APART * max(abs(result), spread):
        raise ValueError(
            f"{name}: the mean of the items is {of_items:.6g} and the result {result:.6g}; let the result be "
            "the mean of its items, or give no items"
        )


def mean(results: Results) -> float:
    """Of all items."""
    return math.fsum(results.values()) / len(results)


def as_records(results: Results, sign: float) -> Sequence[dict[str, Any]]:
    """As Loracle keeps them: larger is better."""
    return [{"index": index, "correct": sign * value} for index, value in results.items()]
