"""How sure scores are: intervals of a value, and of the difference of two, from results of their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Item = Mapping[str, Any]

_RESAMPLES = 2000
_AT_ONCE = 50_000  # items drawn at once: measured to be fastest, and as fast as a loop of our own


def confidence_interval(items: Sequence[Item], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the value (larger is better) over items drawn like these.

    Wilson's score interval for a share of correct items; for the loss, and where an item may be correct in
    part, the percentile bootstrap over items of the mean (of the loss: per token).

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("an interval needs at least one item")
    numerator, weight = _terms(items)
    if "correct" in items[0] and set(numerator) <= {0.0, 1.0}:
        from scipy.stats import binomtest  # takes a third of a second, which no run's beginning waits for

        found = binomtest(int(numerator.sum()), len(items)).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)
    return _bootstrapped(numerator, weight, seed)


def paired_difference(
    items_a: Sequence[Item], items_b: Sequence[Item], *, seed: int = 0
) -> tuple[float, float, float]:
    """Value of a minus value of b on the same items, with its 95 % bootstrap interval over items.

    Raises:
        ValueError: the two are not about the same items.
    """
    by_index = {item["index"]: item for item in items_b}
    if not items_a or len(items_a) != len(items_b) or {i["index"] for i in items_a} != set(by_index):
        raise ValueError("a paired difference needs the same items on both sides")
    numerator_a, weight = _terms(items_a)
    numerator_b, weight_b = _terms([by_index[item["index"]] for item in items_a])
    if not np.array_equal(weight, weight_b):
        raise ValueError("a paired difference needs one metric on both sides")
    difference = numerator_a - numerator_b
    return float(_ratio(difference, weight)), *_bootstrapped(difference, weight, seed)


def _terms(items: Sequence[Item]) -> tuple[Floats, Floats]:
    """Numerator and weight of each item; the value is the ratio of their sums."""
    if "correct" in items[0]:
        return np.array([float(item["correct"]) for item in items]), np.ones(len(items))
    weight = np.array([float(item["tokens"]) for item in items])
    return -np.array([float(item["loss"]) for item in items]) * weight, weight


def _bootstrapped(numerator: Floats, weight: Floats, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the ratio of sums, over items."""
    from scipy.stats import bootstrap

    if len(weight) == 1:  # which scipy refuses
        return (value := float(_ratio(numerator, weight))), value
    found = bootstrap(
        (numerator, weight),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(10, _AT_ONCE // len(weight)),
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _ratio(numerator: Floats, weight: Floats, axis: int = -1) -> Any:
    """Values of samples along an axis, which goes."""
    return numerator.sum(axis=axis) / weight.sum(axis=axis)
