"""How sure scores are: intervals of a value, and of the difference of two, from results of their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Item = Mapping[str, Any]

_RESAMPLES = 2000
_Z95 = 1.959963984540054  # 97.5 % point of the standard normal


def confidence_interval(items: Sequence[Item], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the value (larger is better) over items drawn like these.

    Wilson's score interval for a share of correct items; for the loss, the percentile bootstrap over items
    of the mean per token.

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("an interval needs at least one item")
    if "correct" in items[0]:
        return _wilson(sum(bool(item["correct"]) for item in items), len(items))
    numerator, weight = _terms(items)
    return _percentiles(_resampled(numerator, weight, seed))


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
    low, high = _percentiles(_resampled(difference, weight, seed))
    return float(difference.sum() / weight.sum()), low, high


def _terms(items: Sequence[Item]) -> tuple[Floats, Floats]:
    """Numerator and weight of each item; the value is the ratio of their sums."""
    if "correct" in items[0]:
        return np.array([float(item["correct"]) for item in items]), np.ones(len(items))
    weight = np.array([float(item["tokens"]) for item in items])
    return -np.array([float(item["loss"]) for item in items]) * weight, weight


def _resampled(numerator: Floats, weight: Floats, seed: int) -> Floats:
    """Bootstrap values, shape (resamples,)."""
    random = np.random.default_rng(seed)
    n = len(weight)
    values = np.empty(_RESAMPLES)
    for i in range(_RESAMPLES):
        drawn = random.integers(n, size=n)
        values[i] = numerator[drawn].sum() / weight[drawn].sum()
    return values


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _wilson(correct: int, n: int) -> tuple[float, float]:
    """E. B. Wilson (1927), at 95 %."""
    share, z2 = correct / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (
        max(0.0, float(centre - half)) if correct else 0.0,
        min(1.0, float(centre + half)) if correct < n else 1.0,
    )
