"""What must not be lost, as a trainer of the user's own measures it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from loracle.config.metrics import metric_of
from loracle.config.metrics.guard import OwnGuardConfig
from loracle.own_trainer.items import NotFinite, as_records, mean, require_mean, results_beside_base
from loracle.records.trial import GuardReading
from loracle.training.intervals import paired_difference

Number = Callable[[str], float]


def reading_of(name: str, guard: OwnGuardConfig, number: Number) -> GuardReading:
    """What a training did to one guard. There are no items, so what the change is, it is for sure.

    Args:
        name, guard: as the config has them; `guard` has a base.
        number: the one that the trainer gives under a key.

    Raises:
        ValueError: the trainer gives no such number.
        FloatingPointError: what it gives is NaN or infinite.
    """
    assert guard.base is not None
    sign = _sign(guard)
    value, base = (sign * _number(name, key, number) for key in (guard.key or name, guard.base))
    change = value - base
    return GuardReading(guard.metric, base, value, change, change, change, guard.allowed(base), 0)


def reading_of_items(
    name: str, guard: OwnGuardConfig, number: Number, given: Any
) -> tuple[GuardReading, Sequence[dict[str, Any]]]:
    """The same of items, with the paired 95 % interval of the change, and their results to be kept.

    Args:
        name, guard, number: as above.
        given: what the trained and the base model got on each item; see `results_beside_base`.

    Raises:
        ValueError: it is something else, or a number of the guard is not its mean.
        FloatingPointError: one of them is NaN or infinite.
    """
    what = f"guard {name}: {guard.items}"
    try:
        trained, of_base = results_beside_base(given, what)
    except NotFinite as error:
        raise FloatingPointError(str(error)) from None
    for key, results in ((guard.key, trained), (guard.base, of_base)):
        if key is not None:
            require_mean(results, _number(name, key, number), what)
    sign = _sign(guard)
    value, base = (sign * mean(results) for results in (trained, of_base))
    records, base_records = (as_records(results, sign) for results in (trained, of_base))
    found = paired_difference(records, base_records, guard.metric)
    assert found is not None  # both metrics of own trainers are of items
    reading = GuardReading(guard.metric, base, value, *found, guard.allowed(base), len(records))
    kept = [{**record, "base": other["correct"]} for record, other in zip(records, base_records, strict=True)]
    return reading, kept


def _sign(guard: OwnGuardConfig) -> float:
    return -1.0 if metric_of(guard.metric).less_is_better else 1.0


def _number(name: str, key: str | float, number: Number) -> float:
    try:
        found = number(key) if isinstance(key, str) else key
    except ValueError as error:
        raise ValueError(f"guard {name}: {error}") from None
    if not math.isfinite(found):
        raise FloatingPointError(f"guard {name}: {key} is {found:g}")
    return found
