"""Scores moved to where an axis can show them: one diverged score would press all others into one line."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_FAR = 5.0  # interquartile ranges from the middle half: beyond, a score is drawn at the edge
_HUGE = 1e30  # larger scores are drawn in powers of ten, so that axes can be computed


def scaled(values: Floats) -> tuple[Floats, int]:
    """Values of a size that axes can be computed for, and the power of ten that they are in."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest < _HUGE:
        return values, 0
    middle = float(np.sort(np.abs(values))[len(values) // 2])  # a mean of two could overflow
    if 0 < middle < _HUGE:  # a few are huge: they go to the edge
        return np.clip(values, -_HUGE, _HUGE), 0
    power = math.floor(math.log10(largest))
    return values / 10.0**power, power


def clipped(values: Floats) -> tuple[Floats, float, float]:
    """Values with those far from the others moved to the edge, and the two edges."""
    if len(values) < 4:
        return values, -math.inf, math.inf
    first, third = np.percentile(values, [25, 75])
    reach = _FAR * (third - first)
    if reach == 0:
        return values, -math.inf, math.inf
    low, high = float(first - reach), float(third + reach)
    return np.clip(values, low, high), low, high
