"""From which size of steps on trainings break, said only where trials show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from loracle.records.space import number
from loracle.report.findings.records import Cliff, TrialRow

# What may be too large. An adapter's output moves with alpha_ratio (or alpha) times the learning rate (Hayou
# et al. 2024, arXiv 2402.12354, section 2); the simplest that tells broken trials from good ones is named.
_SIZES: Mapping[str, Sequence[str]] = {
    "learning_rate": ("learning_rate",),
    "learning_rate x alpha_ratio": ("learning_rate", "alpha_ratio"),
    "learning_rate x alpha": ("learning_rate", "alpha"),
}
_FEWEST = 2  # broken trials, and good ones: one alone is chance
_COLLAPSED = 0.5  # of the way from the median success down to the worst


def cliff(rows: Sequence[TrialRow]) -> Cliff | None:
    """The smallest size from which every trial broke; None where no size tells them from the good ones.

    A trial broke if it diverged, or its value is nearer to the worst than to the median of the successes
    while most others are near the median. A trial whose value is as low with a small size has only learnt
    too little: it lies below the good ones, and says nothing here.
    """
    told = [row for row in rows if row.state == "succeeded" or row.failure == "diverged"]
    broken = _broken(told)
    good = [row for row in told if row.number not in broken]
    best: Cliff | None = None
    for name, knobs in _SIZES.items():
        try:
            sized = [(math.prod(number(row.config[knob]) for knob in knobs), row) for row in told]
        except KeyError:  # the space has no such knob
            continue
        found = _split(name, sized, broken, len(good))
        if found is not None and (best is None or len(found.trials) > len(best.trials)):
            best = found
    return best


def _broken(told: Sequence[TrialRow]) -> set[int]:
    """Numbers of trials that diverged or collapsed."""
    values = [row.value for row in told if row.value is not None]
    found = {row.number for row in told if row.value is None}
    if len(values) >= 2 * _FEWEST:
        middle, worst, top = median(values), min(values), max(values)
        floor = middle - _COLLAPSED * (middle - worst)
        if middle - worst > 3 * (top - middle):  # a plateau and a drop, and no even slope
            found |= {row.number for row in told if row.value is not None and row.value < floor}
    return found


def _split(name: str, sized: list[tuple[float, TrialRow]], broken: set[int], good: int) -> Cliff | None:
    well = [size for size, row in sized if row.number not in broken]
    if good < _FEWEST or not well:
        return None
    holds = max(well)
    beyond = [(size, row.number) for size, row in sized if row.number in broken and size > holds]
    if len(beyond) < _FEWEST:
        return None
    return Cliff(name, min(beyond)[0], holds, tuple(sorted(number for _, number in beyond)), good)
