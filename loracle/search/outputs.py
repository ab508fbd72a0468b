"""Observed values as a surrogate models them: no mean, unit variance, diverged trials below all successes.

Several objectives are made one before.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

_AUGMENTED = 0.05  # share of the plain sum of several objectives
_ABSURD = 1e9  # times as far above the median as other good values


def transform_outputs(
    values: npt.NDArray[np.float64], diverged: npt.NDArray[np.bool_], output: str
) -> npt.NDArray[np.float64]:
    """Observed values as the surrogate models them, zero mean and unit variance; shape (n,).

    Any finite values will do, 1e308 and -1e308 together as well: they are brought to one size first. What
    differs by less than the twelfth digit of the largest counts as equal.

    Diverged trials have no value (NaN); they are placed at the worst success, or at -1 where nothing has
    succeeded yet. `half_rank` keeps the upper half and replaces the lower half by normal quantiles with the
    spread of the upper half, so that a cliff does not flatten the plateau: Vizier's half-rank warping
    (Song et al. 2024, arXiv 2408.11527, appendix C). There, diverged trials tie below the worst success, and
    if values above the median are a thousand million times apart, ranks stand for all.

    Raises:
        ValueError: a value that is not finite and not marked as diverged.
    """
    if not np.isfinite(values[~diverged]).all():
        raise ValueError("observed values must be finite; mark diverged trials as such")
    if diverged.all():  # or there are none
        return np.full(len(values), -1.0)
    if output == "half_rank":
        filled = _half_rank(np.where(diverged, -np.inf, values))
    else:
        filled = _sized(np.where(diverged, values[~diverged].min(), values))
    spread = filled.std(ddof=1) if len(filled) > 1 else 0.0
    return np.asarray((filled - filled.mean()) / (spread if spread > _rounding(filled) else 1.0))


def _half_rank(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distances from the median in some unit; -inf for what is below all values."""
    worst = values[np.isfinite(values)].min()
    median = _median(np.where(np.isneginf(values), worst, values))
    upper = values >= median
    kept = _sized(np.append(values[upper], median))  # the lower half counts by its ranks alone, however low
    above = kept[:-1] - kept[-1]
    spread = math.sqrt(float(np.mean(above**2)))
    if spread <= _rounding(kept):  # all of the upper half ties: any unit keeps the order
        above, spread = np.zeros_like(above), 1.0
    quantiles = norm.ppf((rankdata(values, method="average") - 0.5) / len(values))
    if spread > _ABSURD * _typical(above, spread):
        return np.asarray(quantiles)  # a score of 1e160 leaves no digits for what the others differ by
    warped = spread * np.minimum(quantiles, 0.0)
    warped[upper] = above
    return np.asarray(warped)


def _typical(above: npt.NDArray[np.float64], none: float) -> float:
    positive = above[above > 0]
    return float(np.median(positive)) if len(positive) else none


def _median(values: npt.NDArray[np.float64]) -> float:
    """The median, also where the sum of the middle two is beyond the largest number."""
    low, high = (float(value) for value in np.sort(values)[[(len(values) - 1) // 2, len(values) // 2]])
    return (low + high) / 2 if math.isfinite(low + high) else low / 2 + high / 2


def _sized(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values in a unit in which the largest is from 1/2 to 1, a power of two: nothing is rounded."""
    _, exponent = np.frexp(np.abs(values).max())
    return np.asarray(np.ldexp(values, -exponent))


def _rounding(values: npt.NDArray[np.float64]) -> float:
    """How far apart values may be that are all the same."""
    return 1e-12 * float(np.abs(values).max())


# -- several objectives -----------------------------------------------------------------------------


def drawn_weights(n_objectives: int, seed: int, round_: int) -> npt.NDArray[np.float64]:
    """Weights of several objectives for one proposal, (k,), uniform over those whose sum is 1."""
    return np.random.default_rng([seed, round_]).dirichlet(np.ones(n_objectives))


def as_one(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Several objectives as one score, larger is better; (n,).

    The augmented Chebyshev distance from the best in each, as ParEGO has it (Knowles 2006, IEEE TEC 10(1),
    eq. 2), of ranks instead of values: so neither unit nor scale of an objective counts, and a maximum lies
    on the Pareto front, whatever its shape.

    Args:
        values: (n, k), larger is better in each column, all finite.
        weights: (k,).
    """
    worse = np.sum(values[None, :, :] <= values[:, None, :], axis=1) - 1
    short = worse / max(len(values) - 1, 1) - 1.0  # (n, k), 0 where the best is
    return np.asarray((weights * short).min(axis=1) + _AUGMENTED * (weights * short).sum(axis=1))


def on_front(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows no other is better than in one column and as good as in all, (n,); values are (n, k)."""
    as_good = np.all(values[None, :, :] >= values[:, None, :], axis=2)  # [i, j]: j is as good as i in all
    better = np.any(values[None, :, :] > values[:, None, :], axis=2)
    return np.asarray(~np.any(as_good & better, axis=1))
