"""How much each knob, and each pair of knobs, matters: functional analysis of variance of the belief.

F. Hutter, H. Hoos, K. Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance (ICML
2014): the variance of the predicted score over the space is split into parts that one knob explains, parts
that two explain together, and so on. Here the predictions are functions drawn from the belief at a grid of
configs, so each share comes with its spread: what the trials leave open shows as a wide interval. Means over
a grid are exact, no sample of the space adds noise. Where constraints cut corners off the grid, the shares
are those of conditional means (first-order Sobol indices) and need not add up to 1.

Notation: m configs, k knobs, s draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from loracle.records.space import SearchSpace
from loracle.report.findings.records import Importance, Share

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_KNOBS = 10  # that are compared at most: more make a grid of two values each too large


def grid(space: SearchSpace, most: int, fixed: dict[str, int] | None = None) -> tuple[Ints, Ints]:
    """Configs of the space on a grid of evenly spaced values of each knob, the ends among them.

    Args:
        space: that is searched.
        most: how many configs at most.
        fixed: positions of knobs that are not varied.

    Returns:
        Rows among the candidates, (m,), and the position of each knob's value, (m, k). Twins, which train
        alike, share a row; what constraints forbid is left out.
    """
    counts = [1 if fixed and knob.name in fixed else len(knob.values) for knob in space.knobs]
    while np.prod(counts, dtype=float) > most and max(counts) > 2:
        counts[int(np.argmax(counts))] -= 1
    levels = [
        np.array([fixed[knob.name]])
        if fixed and knob.name in fixed
        else np.unique(np.linspace(0, len(knob.values) - 1, count).round().astype(np.int64))
        for knob, count in zip(space.knobs, counts, strict=True)
    ]
    positions = np.stack([axis.ravel() for axis in np.meshgrid(*levels, indexing="ij")], axis=-1)
    steps = [int(np.prod(space.shape[i + 1 :], dtype=np.int64)) for i in range(len(space.shape))]
    wanted = space.canonical(positions @ np.array(steps, dtype=np.int64))
    rows = np.searchsorted(space.candidates, wanted).clip(max=len(space.candidates) - 1)
    there = space.candidates[rows] == wanted
    return rows[there], positions[there]


def importance(names: Sequence[str], positions: Ints, draws: Floats) -> Importance | None:
    """Shares of the variance of the score, each with an interval over the draws.

    Args:
        names: of the k knobs.
        positions: of the knobs' values in m configs, (m, k).
        draws: scores of the configs in each of s functions, (s, m).

    Returns:
        None where no knob varies, or every draw is flat.
    """
    varied = [i for i in range(len(names)) if len(np.unique(positions[:, i])) > 1]
    whole = draws.var(axis=1)  # (s,)
    alive = whole > 1e-12 * np.maximum(1.0, np.abs(draws).max(axis=1)) ** 2
    if not varied or not alive.any():
        return None
    draws, whole = draws[alive], whole[alive]
    single = {i: _explained(positions[:, [i]], draws) / whole for i in varied}
    knobs = []
    for i in varied:
        others = [j for j in varied if j != i]
        # What the other knobs leave unexplained together (Homma and Saltelli 1996).
        total = 1 - _explained(positions[:, others], draws) / whole if others else np.ones(len(draws))
        knobs.append(_share((names[i],), single[i], float(np.median(total))))
    pairs = [
        _share((names[i], names[j]), _beyond(positions, draws, whole, i, j, single[i] + single[j]))
        for i, j in combinations(varied, 2)
    ]
    return Importance(
        tuple(sorted(knobs, key=lambda one: -one.share)),
        max(pairs, key=lambda one: one.share, default=None),
        len(positions),
        len(draws),
    )


def most_varied(space: SearchSpace, spreads: dict[str, float]) -> list[str]:
    """Names of the knobs to compare, where there are too many for a grid: those along which the belief
    varies most."""
    names = [knob.name for knob in space.knobs if len(knob.values) > 1]
    kept = sorted(names, key=lambda name: -spreads.get(name, 0.0))[:_KNOBS]
    return [name for name in names if name in kept]


# -- helpers ----------------------------------------------------------------------------------------


def _explained(positions: Ints, draws: Floats) -> Floats:
    """Variance of the mean score of the configs that share these knobs' values, (s,)."""
    _, group = np.unique(positions, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    starts = np.flatnonzero(np.diff(group.ravel()[order], prepend=-1))
    counts = np.diff(starts, append=len(order))
    means = np.add.reduceat(draws[:, order], starts, axis=1) / counts  # (s, groups)
    deviations = means - draws.mean(axis=1, keepdims=True)
    return np.asarray((counts * deviations**2).sum(axis=1) / len(order))


def _beyond(positions: Ints, draws: Floats, whole: Floats, i: int, j: int, alone: Floats) -> Floats:
    """What two knobs explain together beyond what each explains alone, (s,)."""
    return np.maximum(_explained(positions[:, [i, j]], draws) / whole - alone, 0.0)


def _share(knobs: tuple[str, ...], shares: Floats, total: float | None = None) -> Share:
    low, middle, high = np.percentile(shares, [2.5, 50, 97.5])
    return Share(knobs, float(middle), float(low), float(high), total)
