"""From the units of a belief back to scores: the transform of observed values, turned round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loracle.config.metrics import metric_of
from loracle.search.belief import Belief

Floats = npt.NDArray[np.float64]

WIDE = 1.96  # standard deviations of a normal interval of 95 %
# Intervals of a training to come are 1 + 7 / n^2 times as wide after n scores: parameters that are fitted to
# three or four make a belief too sure. Fitted on four landscapes, tested on a fifth (`expectations.py`).
FEW = 7.0
_LARGEST = 1e300  # so that nothing that is made of values overflows


@dataclass(frozen=True)
class ScoreScale:
    """The increasing line through observed pairs of transformed and raw values.

    Beyond the best value it goes on as between the median and the best, where the transform is linear; below
    the worst it stays there, as nothing is known of how bad it gets.

    Attributes:
        y: (p,) distinct transformed values, increasing.
        values: (p,) the raw values.
        slope: beyond the last.
        metric: whose readings are asked for.
    """

    y: Floats
    values: Floats
    slope: float
    metric: str

    @classmethod
    def of(cls, y: Floats, values: Floats, metric: str) -> ScoreScale:
        """From observations, (n,) each, of which at least one has a value; NaN: the training diverged."""
        known = np.isfinite(values)
        values = np.clip(values, -_LARGEST, _LARGEST)
        places, first = np.unique(y[known], return_index=True)
        raw = values[known][first]
        middle = len(places) // 2
        run = places[-1] - places[middle]
        slope = float((raw[-1] - raw[middle]) / run) if run > 0 else 0.0
        return cls(places, raw, slope if np.isfinite(slope) else 0.0, metric)

    def value(self, y: Floats) -> Floats:
        """Raw values (larger is better); same shape as given."""
        inside = np.interp(y, self.y, self.values)
        found = np.clip(inside + self.slope * np.maximum(y - self.y[-1], 0.0), -_LARGEST, _LARGEST)
        if metric_of(self.metric).proportion:
            found = np.clip(found, 0.0, 1.0)
        return np.asarray(found)

    def interval(self, belief: Belief) -> tuple[Floats, Floats, Floats]:
        """Values that are believed, and the lower and upper ends of their 95 % intervals, (m,) each."""
        reach = WIDE * belief.caution * belief.sd
        low, middle, high = (self.value(belief.mean + sign * reach) for sign in (-1, 0, 1))
        return middle, low, high

    def scores(self, belief: Belief) -> tuple[Floats, Floats, Floats]:
        """The same as the metric reads: score, smaller and larger end, (m,) each."""
        middle, low, high = self.interval(belief)
        return (-middle, -high, -low) if metric_of(self.metric).less_is_better else (middle, low, high)


def of_training(belief: Belief, noise: float, n: int) -> Belief:
    """What is believed of the score that a training will have, after n scores: with its noise, and no surer
    than so few let one be.

    Args:
        belief: of the latent scores.
        noise: standard deviation of a score around its latent value.
        n: how many scores the belief was fitted to.
    """
    sd = np.hypot(belief.sd, noise) * (1 + FEW / max(n, 1) ** 2)
    return Belief(belief.mean, np.asarray(sd), belief.caution)
