"""How sure scores are: intervals of a value, and of the difference of two, from results of their items.

A score is made of sums over items (`Metric.statistics`, `Metric.combine`). So items are drawn anew, and the
score is made of what was drawn, whether it is a mean or not: BLEU and macro F1 get valid intervals, too.
B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for paired differences of BLEU
P. Koehn, Statistical significance tests for machine translation evaluation (2004). They equal
those of scipy, which a worker does without: it takes 64 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from loracle.config.metrics import Item, Metric, metric_of

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_RESAMPLES = 2000
_MOST_TIMES = 20  # so many resamples, for ends far out
_PERMUTED, _PERMUTED_AT_ONCE = 10_000, 2_000_000  # permutations, and numbers in those made at once
_MANY = 10  # permutations as large as what was observed, which say well enough how rare they are
_AT_ONCE = 50_000  # items drawn at once: measured to be fastest


def confidence_interval(
    items: Sequence[Item], metric: str | None = None, *, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the value (larger is better) over items drawn like these.

    Wilson's score interval for a share of correct items; else the percentile bootstrap over items. None where
    a score is no matter of items.

    Args:
        items: records of `scoring.score`.
        metric: the one by which they are scored; None: the share that is correct or, where nothing is, the
            loss.

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("an interval needs at least one item")
    found = _metric(items, metric)
    statistics = found.statistics(items)
    if statistics is None:
        return None
    if found.proportion and _is_count(statistics):
        return _wilson(int(statistics[:, 0].sum()), len(items))
    return _bootstrapped(lambda drawn: found.combine(statistics[drawn].sum(axis=-2)), statistics, seed)


def paired_difference(
    items_a: Sequence[Item],
    items_b: Sequence[Item],
    metric: str | None = None,
    *,
    seed: int = 0,
    among: int = 1,
) -> tuple[float, float, float] | None:
    """Value of a minus value of b on the same items, with its 95 % bootstrap interval over items.

    Both sides are drawn alike. None where a score is no matter of items. Where a is the best of several on
    these very items, `among` is their number, and the interval holds for all of them at once (Bonferroni).

    Raises:
        ValueError: the two are not about the same items.
    """
    ordered = _same_items(items_a, items_b)
    found = _metric(items_a, metric)
    if found.name != _metric(items_b, metric).name:
        raise ValueError("a paired difference needs one metric on both sides")
    a, b = found.statistics(items_a), found.statistics(ordered)
    if a is None or b is None:
        return None

    def difference(drawn: Indices) -> Floats:
        return found.combine(a[drawn].sum(axis=-2)) - found.combine(b[drawn].sum(axis=-2))

    return float(difference(np.arange(len(a)))), *_bootstrapped(difference, a, seed, among)


def paired_p_value(
    items_a: Sequence[Item], items_b: Sequence[Item], metric: str, *, seed: int = 0, among: int = 1
) -> float | None:
    """Probability of a difference at least as large if it did not matter which side an item's results are on.

    A paired permutation test, whatever a score is made of: both sides change places, item by item, at random
    (Edgington and Onghena, Randomization Tests (2007), chapter 5). None where a score is no matter of items.
    Where the two are the best of `among` pairs on these very items, it is so many times as large
    (Bonferroni), and more permutations are made where few go so far. Raises like `paired_difference`.
    """
    found = metric_of(metric)
    a, b = found.statistics(items_a), found.statistics(_same_items(items_a, items_b))
    if a is None or b is None:
        return None
    kept = float(abs(found.combine(a.sum(axis=0)) - found.combine(b.sum(axis=0))))
    generator, both, as_large = np.random.default_rng(seed), a + b, 0
    at_once, done = max(1, _PERMUTED_AT_ONCE // a.size), 0
    while done < _PERMUTED or (as_large < _MANY and done < _PERMUTED * min(among, _MOST_TIMES)):
        n = min(at_once, _PERMUTED - done % _PERMUTED)
        stays = generator.random((n, len(a), 1)) < 0.5
        first = np.where(stays, a, b).sum(axis=1)  # (n, k)
        second = both.sum(axis=0) - first
        moved = np.abs(found.combine(first) - found.combine(second))
        as_large += int((moved >= kept * (1 - 1e-9)).sum())
        done += n
    return min(1.0, among * (1 + as_large) / (1 + done))  # the one that was observed is one of them


def count_differing(items_a: Sequence[Item], items_b: Sequence[Item], metric: str) -> int:
    """Items that got another result on one side than on the other. Raises like `paired_difference`."""
    found = metric_of(metric)
    a, b = found.statistics(items_a), found.statistics(_same_items(items_a, items_b))
    return 0 if a is None or b is None else int((a != b).any(axis=-1).sum())


def _same_items(items_a: Sequence[Item], items_b: Sequence[Item]) -> list[Item]:
    """Those of b in the order of a."""
    by_index = {item["index"]: item for item in items_b}
    if not items_a or len(items_a) != len(items_b) or {i["index"] for i in items_a} != set(by_index):
        raise ValueError("a paired difference needs the same items on both sides")
    return [by_index[item["index"]] for item in items_a]


def _metric(items: Sequence[Item], name: str | None) -> Metric:
    if name is not None:
        return metric_of(name)
    return metric_of("exact_match" if "correct" in items[0] else "loss")


def _is_count(statistics: Floats) -> bool:
    """Whether each item is one right or wrong answer."""
    return (
        statistics.shape[1] == 2
        and bool((statistics[:, 1] == 1).all())
        and set(statistics[:, 0]) <= {0.0, 1.0}
    )


def _bootstrapped(
    value: Callable[[Indices], Floats], statistics: Floats, seed: int, among: int = 1
) -> tuple[float, float]:
    """95 % percentile interval over items of the `value` of those that are drawn, (..., n) to (...).

    Of `among` such intervals each is so wide that all hold at once with 95 %.
    """
    n, k = statistics.shape
    if n == 1:  # nothing else can be drawn
        return (only := float(value(np.zeros(1, dtype=np.int64)))), only
    generator, at_once = np.random.default_rng(seed), max(10, 2 * _AT_ONCE // (n * k))
    most = _RESAMPLES * min(among, _MOST_TIMES)
    sizes = [min(at_once, most - start) for start in range(0, most, at_once)]
    drawn = np.concatenate([value(generator.integers(0, n, (size, n))) for size in sizes])
    low, high = np.quantile(drawn, [0.025 / among, 1 - 0.025 / among])
    return float(low), float(high)


def _wilson(n_right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), 0 and 1 where that is what was seen."""
    share, z = n_right / n, NormalDist().inv_cdf(0.975)
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (middle - half) / scale, (middle + half) / scale
    return low if n_right else 0.0, high if n_right < n else 1.0
