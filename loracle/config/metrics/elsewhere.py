"""Metrics that are worked out elsewhere: by the user's own function, a harness, other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from loracle.config.metrics.metric import Floats, Item, Metric, Share, rating_of
from loracle.config.user_function import is_function_name

LESS = "minimize "  # before the name of what is better when it is less
HARNESS = "lm_eval:"


class _Elsewhere(Metric):
    """A mean of what items get; or one number, of which no item knows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.less_is_better = name.startswith(LESS)
        self.source = name.removeprefix(LESS)

    def statistics(self, items: Sequence[Item]) -> Floats | None:
        if "correct" not in items[0] and self.name not in items[0].get("scores", {}):
            return None
        sign = -1 if self.less_is_better else 1
        return np.array([(sign * float(rating_of(item, self.name)), 1.0) for item in items])


class OwnFunction(_Elsewhere):
    """What `function(predictions, references, items)` gives: one number an item, or one in all.

    Attributes:
        source: the function, `module:function` or `path/to/file.py:function`.
    """

    needs, imitates, has_zero, judge_module = "writing", False, False, "function"

    @property
    def title(self) -> str:
        return self.source.rpartition(":")[2].replace("_", " ")


class HarnessTask(_Elsewhere):
    """A score of a task of lm-evaluation-harness, `lm_eval:TASK` or `lm_eval:TASK:METRIC`.

    Attributes:
        task: its name.
        measure: the task's metric; empty: its first.
    """

    needs, has_zero, package = "harness", False, ("lm_eval", "lm-eval")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.task, _, self.measure = self.source.removeprefix(HARNESS).partition(":")
        self.table = self.task

    @property
    def title(self) -> str:
        return f"{self.task} {self.measure}".strip()


class JudgeRating(Metric):
    """The mean of what another model says that answers are worth, on the scale of the settings."""

    name, needs, imitates, has_zero, judge_module = "judge", "writing", False, False, "endpoint"
    unit = "points"

    def number(self, reading: float) -> str:
        return f"{reading:z.2f}"


class MathEquivalence(Share):
    """The share of answers that are, as mathematics, what the reference is, by the package `math-verify`."""

    name, needs, package = "math_equivalence", "writing", ("math_verify", "math")
    judge_module = "mathematics"

    @property
    def title(self) -> str:
        return "equivalence"


class PassAt1(Share):
    """The share of programs, one written a task, that pass the task's tests."""

    name, needs, imitates, judge_module = "pass_at_1", "writing", False, "code"

    @property
    def title(self) -> str:
        return "pass@1"


def elsewhere(name: str) -> Metric | None:
    """The metric that a name spells; None where it spells none."""
    source = name.removeprefix(LESS)
    if source.startswith(HARNESS):
        return HarnessTask(name) if PurePath(source.removeprefix(HARNESS)).name else None
    return OwnFunction(name) if is_function_name(source) else None
