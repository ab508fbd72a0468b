"""What must not be lost, as a trainer of the user's own measures it."""

from __future__ import annotations

import math
from collections.abc import Callable

from loracle.config.metrics.guard import OwnGuardConfig
from loracle.records.trial import GuardReading


def reading_of(name: str, guard: OwnGuardConfig, number: Callable[[str], float]) -> GuardReading:
    """What a training did to one guard. There are no items, so what the change is, it is for sure.

    Args:
        name, guard: as the config has them.
        number: the one that the trainer gives under a key.

    Raises:
        ValueError: the trainer gives no such number.
        FloatingPointError: what it gives is NaN or infinite.
    """
    keys = [guard.key or name, guard.base]
    read = []
    for key in keys:
        try:
            found = number(key) if isinstance(key, str) else key
        except ValueError as error:
            raise ValueError(f"guard {name}: {error}") from None
        if not math.isfinite(found):
            raise FloatingPointError(f"guard {name}: {key} is {found:g}")
        read.append(-found if guard.direction == "minimize" else found)
    value, base = read
    change = value - base
    return GuardReading(guard.metric, base, value, change, change, change, guard.allowed(base), 0)
