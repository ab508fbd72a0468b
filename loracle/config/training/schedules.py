"""The learning-rate schedules: names and arguments of `transformers.get_scheduler`, without loading it.

A new schedule is a new row. What its factors are, `training/schedule.py` asks transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Argument = int | float | str


@dataclass(frozen=True)
class Schedule:
    """One schedule.

    Attributes:
        transformers: its name in `transformers.SchedulerType`.
        arguments: what it may be told, each with a rule in words and a check.
        required: those of the arguments that it needs.
        own_warmup: whether its warm-up is its own; in all others the first step has a rate above zero.
    """

    transformers: str
    arguments: Mapping[str, tuple[str, Callable[[Argument], bool]]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    own_warmup: bool = False


def _number(value: Argument) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_SHARE = ("a number from 0 to 1", lambda value: _number(value) and 0 <= float(value) <= 1)
_ABOVE_0 = ("a number above 0", lambda value: _number(value) and float(value) > 0)
_WHOLE = ("a whole number from 1 up", lambda value: type(value) is int and value >= 1)
_SHAPE = ("linear, cosine or 1-sqrt", lambda value: value in ("linear", "cosine", "1-sqrt"))

SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule("cosine"),
    "linear": Schedule("linear"),
    "constant": Schedule("constant_with_warmup"),
    "constant_with_warmup": Schedule("constant_with_warmup"),
    "cosine_with_restarts": Schedule("cosine_with_restarts", {"num_cycles": _WHOLE}),
    "polynomial": Schedule("polynomial", {"power": _ABOVE_0}),
    "inverse_sqrt": Schedule("inverse_sqrt", {"timescale": _WHOLE}),
    "cosine_with_min_lr": Schedule(
        "cosine_with_min_lr", {"min_lr_rate": _SHARE, "num_cycles": _ABOVE_0}, ("min_lr_rate",)
    ),
    "cosine_warmup_with_min_lr": Schedule(
        "cosine_warmup_with_min_lr",
        {"min_lr_rate": _SHARE, "num_cycles": _ABOVE_0, "warmup_lr_rate": _SHARE},
        ("min_lr_rate",),
        own_warmup=True,
    ),
    # transformers wants a number of steps, which differs from config to config: so a share of them.
    "warmup_stable_decay": Schedule(
        "warmup_stable_decay",
        {
            "decay_fraction": _SHARE,
            "decay_type": _SHAPE,
            "warmup_type": _SHAPE,
            "min_lr_ratio": _SHARE,
            "num_cycles": _ABOVE_0,
        },
        ("decay_fraction",),
        own_warmup=True,
    ),
}
# Of transformers, and none that a plan has beforehand.
BY_MEASUREMENTS = ("reduce_lr_on_plateau", "greedy")


def arguments_problem(name: str, given: Mapping[str, Argument]) -> str | None:
    """What is wrong with the arguments of a schedule; None: nothing."""
    schedule = SCHEDULES[name]
    known = ", ".join(schedule.arguments) or "none"
    for argument, value in given.items():
        if argument not in schedule.arguments:
            return f"{name} has no argument {argument!r} here; it knows {known}"
        rule, holds = schedule.arguments[argument]
        if not holds(value):
            return f"{argument} of {name} is {rule}; got {value!r}"
    missing = [argument for argument in schedule.required if argument not in given]
    return f"{name} needs {' and '.join(missing)}" if missing else None


def scheduler_arguments(given: Mapping[str, Argument], steps: int, warmup_steps: int) -> dict[str, Argument]:
    """The same as `scheduler_specific_kwargs` of `transformers.get_scheduler`, for so many steps."""
    found = dict(given)
    if "decay_fraction" in found:
        decay = round(float(found.pop("decay_fraction")) * steps)
        found["num_decay_steps"] = max(0, min(decay, steps - warmup_steps))
    return found
