"""What a history says about the candidates of a space: which are open, which may fit, what was observed.

Notation: N candidates, n observations. Everything that is listed by candidate has a row a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError
from loracle.records.space import Config, Indices, SearchSpace, Value, number
from loracle.records.trial import FailureKind, History, Trial

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Observations:
    """What trials said about the score.

    Attributes:
        rows: (n,) of the candidates that were tried; a row may repeat.
        values: (n,) their scores, NaN where the training diverged.
        diverged: (n,).
    """

    rows: Indices
    values: npt.NDArray[np.float64]
    diverged: Mask


def rows_of(space: SearchSpace, indices: Sequence[int]) -> tuple[Indices, Mask]:
    """Rows of some indices, and which of them are candidates."""
    wanted = np.asarray(indices, dtype=np.int64)
    rows = np.searchsorted(space.candidates, wanted).clip(max=len(space.candidates) - 1)
    return rows, space.candidates[rows] == wanted


def row_of(space: SearchSpace, index: int) -> int:
    """The row of a candidate. Raises SpaceError if the index is none."""
    if 0 <= index < space.size:
        (row,), (known,) = rows_of(space, [index])
        if known:
            return int(row)
    shown = str(index) if abs(index) <= 10**18 else "beyond 1e18"  # str refuses more than 4,300 digits
    raise SpaceError(f"index {shown} is not a candidate of this space")


def rows_along(space: SearchSpace, config: Config, name: str) -> tuple[list[Value], Indices]:
    """The values of one knob and the rows of the candidates that have them, all else as in `config`."""
    own = {other: config[other] for other in space.names}
    changed = [space.index(own | {name: value}) for value in space[name].values]
    rows, known = rows_of(space, space.canonical(changed).tolist())
    values = [value if isinstance(value, str) else float(value) for value in space[name].values]
    return [value for value, is_one in zip(values, known, strict=True) if is_one], rows[known]


def untried(space: SearchSpace, history: History) -> Mask:
    """Which candidates are free, (N,). Interrupted trials said nothing, so their configs are free again."""
    for trial in history.trials:
        if not 0 <= trial.index < space.size:
            space.config(trial.index)  # refuses a history of another space
    rows, known = rows_of(space, [trial.index for trial in history.trials if not trial.interrupted])
    free = np.ones(len(space.candidates), dtype=bool)
    free[rows[known]] = False
    return free


def fitting(space: SearchSpace, history: History) -> Mask:
    """Which candidates may fit into memory, (N,): no config that ran out of it was at most as large, names
    being equal.

    Memory grows with the rank and, up to the micro-batch, with the batch. A space without either says nothing
    about size, and then only the config itself is not tried again.
    """
    fits = np.ones(len(space.candidates), dtype=bool)
    sizes = [name for name in ("rank", "batch_size") if name in space.names]
    failures = [(t.index, t.outcome.failure) for t in history.finished if t.outcome and t.outcome.failure]
    large = [index for index, failure in failures if failure.kind is FailureKind.OUT_OF_MEMORY]
    if not large or not sizes:
        return fits
    values = space.values(space.candidates)
    named = [knob for knob in space.knobs if knob.texts]
    for config in map(space.config, large):
        same = [values[knob.name] == knob.position(config[knob.name]) for knob in named]
        fits &= ~np.all([*same, *(values[name] >= number(config[name]) for name in sizes)], axis=0)
    return fits


def tells(trial: Trial) -> bool:
    """Whether a trial says something about the score: it has one, or diverged."""
    failure = trial.outcome.failure if trial.outcome else None
    return trial.outcome is not None and (failure is None or failure.kind is FailureKind.DIVERGED)


def observed(space: SearchSpace, history: History) -> Observations:
    """All trials that say something about the score.

    A diverged trial is worse than any success. Out of memory, timeout, crash and loss say nothing about the
    score: their configs are only not tried again.
    """
    telling = [trial for trial in history.trials if tells(trial)]
    rows, known = rows_of(space, [trial.index for trial in telling])
    values = [np.nan if trial.outcome and trial.outcome.failure else value_of(trial) for trial in telling]
    scores = np.array(values, dtype=np.float64)[known]
    return Observations(rows[known], scores, np.isnan(scores))


def value_of(trial: Trial) -> float:
    """Of a trial that has succeeded."""
    assert trial.outcome is not None
    assert trial.outcome.value is not None
    return trial.outcome.value
