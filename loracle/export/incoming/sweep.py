"""The values that a sweep or a tuner tries, as the values of our knobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from loracle.errors import ConfigError
from loracle.records.standard_settings import SCALES

_VALUES = 8  # of a range, at most; a candidate is a point of a grid


def knob_values(knob: str, tried: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A knob as our files have it, of what an axolotl sweep (`choices`) or oumi says of it.

    A range becomes at most eight values: powers of two for ranks and batches, evenly spaced otherwise.

    Raises:
        ConfigError: it is neither a list of numbers nor a range.
    """
    kind = str(tried.get("type", "categorical")).lower()
    if "choices" in tried:
        values = _numbers(tried["choices"], place)
    elif {"low", "high"} <= set(tried):
        low, high = _numbers([tried["low"], tried["high"]], place, keep_order=True)
        values = _grid(low, high, kind, log=kind == "loguniform" or knob in SCALES)
    else:
        raise ConfigError(f"{place}: neither choices nor low and high")
    return {"values": values, "scale": SCALES.get(knob, "linear") if values[0] > 0 else "linear"}


def _numbers(given: Any, place: str, *, keep_order: bool = False) -> list[int | float]:
    found = []
    for value in given if isinstance(given, list) else [given]:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise ConfigError(f"{place}: {value!r} is no number")
        found.append(int(number) if number.is_integer() else number)
    if not found:
        raise ConfigError(f"{place}: no values")
    return found if keep_order else sorted(set(found))


def _grid(low: float, high: float, kind: str, *, log: bool) -> list[int | float]:
    if not low < high:
        return [low]
    if kind == "int" and log and low > 0:
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        return sorted({int(low), *(2**power for power in range(first, last + 1)), int(high)})
    if log and low > 0:
        step = (math.log(high) - math.log(low)) / (_VALUES - 1)
        return [float(f"{low * math.exp(i * step):.3g}") for i in range(_VALUES)]
    count = min(_VALUES, round(high - low) + 1) if kind == "int" else _VALUES
    values = [low + i * (high - low) / (count - 1) for i in range(count)]
    return sorted({round(value) if kind == "int" else float(f"{value:.3g}") for value in values})
