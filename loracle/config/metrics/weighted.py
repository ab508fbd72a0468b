"""A weighted sum of metrics as the one that is optimised: `0.7*token_f1 + 0.3*rouge_l`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from loracle.config.metrics.metric import Floats, Item, Metric


class WeightedSum(Metric):
    """The sum of scores, each the larger the better, times their weights.

    Attributes:
        weights: by metric.
    """

    needs, has_zero = "parts", False

    def __init__(self, name: str, weights: Mapping[Metric, float]) -> None:
        self.name, self.weights = name, dict(weights)
        self._widths: list[int] = []
        tables = {metric.table for metric in weights}
        self.table = tables.pop() if len(tables) == 1 else ""

    @property
    def title(self) -> str:
        signs = ("-" if metric.less_is_better else "+" for metric in self.weights)
        parts = (f"{weight:g} {metric.title}" for metric, weight in self.weights.items())
        text = " ".join(f"{sign} {part}" for sign, part in zip(signs, parts, strict=True))
        return text.removeprefix("+ ")

    def statistics(self, items: Sequence[Item]) -> Floats | None:
        if len({metric.table for metric in self.weights}) > 1:  # no item has them all
            return None
        found = [metric.statistics(items) for metric in self.weights]
        there = [statistics for statistics in found if statistics is not None]
        self._widths = [statistics.shape[1] for statistics in there]
        return np.concatenate(there, axis=1) if len(there) == len(found) else None

    def combine(self, sums: Floats) -> Floats:
        ends = np.cumsum(self._widths)[:-1]
        parts = zip(self.weights.items(), np.split(sums, ends, axis=-1), strict=True)
        found: Floats = sum(
            (w * metric.combine(part) for (metric, w), part in parts), np.zeros(sums.shape[:-1])
        )
        return found


def spelt(weights: Mapping[str, float]) -> str:
    """A sum as settings keep it."""
    return " + ".join(f"{weight!r}*{name}" for name, weight in weights.items())


def weighted(name: str, metric_of: Callable[[str], Metric]) -> WeightedSum | None:
    """The sum that a name spells; None where it spells none, such as a sum of sums.

    A metric that is named twice has both weights: `0.5*bleu + 0.25*bleu` is 0.75 of it.

    Raises:
        KeyError: an unknown metric.
    """
    if "*" not in name:
        return None
    weights: dict[str, float] = {}
    metrics: dict[str, Metric] = {}
    for part in name.split(" + "):
        number, times, own = part.partition("*")
        try:
            weight = float(number)
        except ValueError:
            return None
        if not times or not weight > 0 or not math.isfinite(weight):
            return None
        metric = metric_of(own.strip())
        if metric.needs in ("parts", "nothing"):
            return None
        metrics[metric.name] = metric
        weights[metric.name] = weights.get(metric.name, 0.0) + weight
    return WeightedSum(name, {metric: weights[known] for known, metric in metrics.items()})
