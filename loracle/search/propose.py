"""From a history to the next configs, and to the one to use. Pure functions of their arguments.

What models the score is imported when a history asks for it: a run's first worker begins to load before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError
from loracle.records.space import Config, Knob, SearchSpace, Value, number, same_value, with_alpha
from loracle.records.trial import History
from loracle.search.belief import Floats, Surrogate
from loracle.search.observations import (
    Mask,
    Observations,
    doubtful,
    fitting,
    observed,
    row_of,
    rows_of,
    smaller_step,
    twins,
    untried,
    value_of,
    without,
)
from loracle.search.presets import EnsembleSettings, Preset
from loracle.search.prior import describe

if TYPE_CHECKING:
    from loracle.language.features import Features
    from loracle.search.feasibility import Feasibility


def propose(
    space: SearchSpace,
    history: History,
    preset: Preset,
    *,
    features: Features | None = None,
    n: int = 1,
    seed: int = 0,
    allowed: npt.NDArray[np.bool_] | None = None,
    strict: bool = True,
) -> list[int]:
    """Indices of the next `n` configs to train, all different and none tried before.

    Depends on its arguments alone: the same history and seed give the same answer, so a resumed run equals
    one that never stopped. Candidates that are not `allowed`, (N,), are left out, and so is what is at least
    as large as a config that ran out of memory. What has crashed every time (`doubtful`) comes after all
    else, and so does, early on, what differs in dropout alone from a config that was tried (`twins`). Seed
    configs come first; then, as long as every training has diverged, the last one with a tenth of its rate
    (`smaller_step`); then the best of the acquisition function, one after the other with the earlier ones
    pending. Before the first observation there is only the prior to go by, or chance where the preset has
    none.

    Raises:
        SpaceError: the history holds an index outside the space, or, if `strict`, fewer than `n` candidates
            are left; otherwise those come back.
    """
    free = untried(space, history)
    taken = np.flatnonzero(~free).tolist()
    free &= fitting(space, history) & (True if allowed is None else allowed)
    left = int(free.sum())
    if strict and left < n:
        raise SpaceError(
            f"{n} configs are wanted, but only {left} of {len(space.candidates):,} "
            "candidates are untried and fit into memory; stop here or widen the space"
        )
    n = min(n, left)
    doubted = doubtful(space, history)
    chosen: list[int] = []  # rows
    for index in seed_indices(space, preset.seed_configs):
        row = row_of(space, index)
        if len(chosen) < n and without(free, doubted)[row]:
            chosen.append(row)
            free[row] = False
    if preset.retreats and len(chosen) < n:
        chosen += (smaller := smaller_step(space, history, free))
        free[smaller] = False
    waiting, known = rows_of(space, [trial.index for trial in history.pending])
    belief = None
    while len(chosen) < n:
        belief = belief or Beliefs.of(space, history, preset, features, seed)
        good = _new(space, preset, [*taken, *chosen], without(free, doubted))
        if belief.informed:
            row = belief.best([*waiting[known].tolist(), *chosen], good)
        else:
            row = _by_chance(good, seed, len(taken) + len(chosen))
        chosen.append(row)
        free[row] = False
    return [int(index) for index in space.candidates[chosen]]


def ranking(
    space: SearchSpace,
    history: History,
    preset: Preset,
    *,
    features: Features | None = None,
    seed: int = 0,
) -> list[int]:
    """Indices of the configs that were trained successfully, the one to use first.

    By posterior mean, the best raw value is not trusted blindly: of many noisy scores the largest is partly
    luck. Ties go to the better observed value, then to the earlier trial; where all values are equal, the
    first trial leads. Where something must not be lost, configs that keep it come first, and behind them
    those that break it, the least first.

    Raises:
        SpaceError: no trial has succeeded.
    """
    rows, known = rows_of(space, [trial.index for trial in history.succeeded])
    succeeded = [trial for trial, is_one in zip(history.succeeded, known, strict=True) if is_one]
    if not succeeded:
        raise SpaceError("no trial has succeeded, so there is nothing to recommend")
    values = [value_of(trial) for trial in succeeded]
    scores = [(value, 0.0) for value in values]
    if preset.recommend == "posterior_mean":
        mean = Beliefs.of(space, history, preset, features, seed).mean(rows[known])
        scores = list(zip(mean.tolist(), values, strict=True))
    slack = [min(0.0, trial.outcome.slack) if trial.outcome else 0.0 for trial in succeeded]
    if min(values) == max(values):  # nothing has shown which is better
        scores = [(0.0, 0.0)] * len(values)
    order = sorted(range(len(succeeded)), key=lambda i: (-slack[i], -scores[i][0], -scores[i][1], i))
    return list(dict.fromkeys(succeeded[i].index for i in order))


def recommend(
    space: SearchSpace,
    history: History,
    preset: Preset,
    *,
    features: Features | None = None,
    seed: int = 0,
) -> int:
    """Index of the config to use: the first of `ranking`, and raises like it."""
    return ranking(space, history, preset, features=features, seed=seed)[0]


@dataclass(frozen=True)
class Beliefs:
    """What a search believes after a history: outputs, incumbent and acquisition in one place.

    Attributes:
        preset: how configs are chosen.
        observations: what trials said.
        y: (n,) their values as the surrogate models them.
        surrogate: fitted to them; None where there is nothing to go by.
        feasibility: what is likely to keep what must not be lost; None where nothing is watched.
    """

    preset: Preset
    observations: Observations
    y: Floats
    surrogate: Surrogate | None
    feasibility: Feasibility | None = None

    @classmethod
    def of(
        cls, space: SearchSpace, history: History, preset: Preset, features: Features | None, seed: int
    ) -> Beliefs:
        """After `history`. The last two fits are kept, as the choice of the next config and the ranking of
        what has been tried ask for the same, and what is told of trials for another.
        """
        from loracle.search.outputs import transform_outputs

        found = observed(space, history)
        settings = preset.surrogate
        y = transform_outputs(found.values, found.diverged, settings.output)
        if preset.knows_nothing and found.rows.size == 0:
            return cls(preset, found, y, None)
        feasibility = _feasibility(space, history)
        asked = (space.fingerprint, settings, found.rows.tobytes(), y.tobytes(), seed)
        for known, read, fitted in tuple(_last):  # few, which another thread may replace
            if known == asked and read is features:
                return cls(preset, found, y, fitted, feasibility)
        fitted = _fit(space, preset, features, found.rows, y, seed)
        _last[:] = [(asked, features, fitted), *_last[:1]]
        return cls(preset, found, y, fitted, feasibility)

    @property
    def informed(self) -> bool:
        """Whether there is anything to go by: trials, or a prior."""
        return self.surrogate is not None

    def mean(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Expected scores of some candidates, in transformed units."""
        assert self.surrogate is not None
        return self.surrogate.belief(at=rows).mean

    def best(self, pending: Sequence[int], free: Mask) -> int:
        """Row of the free candidate with the largest acquisition value; the lowest row of equals.

        Where something must not be lost, only what keeps it is improved on; see `feasibility.py`.
        """
        from loracle.search.acquisition import ACQUISITIONS, lower_bound

        assert self.surrogate is not None
        tried = np.concatenate([self.observations.rows, np.asarray(pending, dtype=np.int64)])
        open_rows = np.flatnonzero(free)
        # What is neither free nor tried is of no interest, unless nothing has been tried.
        others = tried if len(tried) else np.arange(len(free))
        belief = self.surrogate.belief(pending, at=np.concatenate([open_rows, others]))
        mean, sd = belief.mean[: len(open_rows)], belief.sd[: len(open_rows)]
        careful = len(tried) < self.preset.careful
        acquire = lower_bound if careful else ACQUISITIONS[self.preset.acquisition]
        if self.feasibility is not None:
            likely = self.feasibility.log_probability(pending, at=open_rows)
            keeps = self.feasibility.keeps(others)
            if not keeps.any():
                return int(open_rows[np.argmax(likely)])
            best = float(belief.mean[len(open_rows) :][keeps].max())
            if self.preset.incumbent == "observed":
                best = float(self.y[self.feasibility.keeps(self.observations.rows)].max())
            gain = acquire(mean, sd, best)
            if not careful and not self.preset.acquisition.startswith("log_"):
                gain = np.log(np.maximum(gain, np.finfo(float).tiny))
            return int(open_rows[np.argmax(gain + likely)])
        if self.preset.incumbent == "posterior_mean":
            incumbent = float(belief.mean[len(open_rows) :].max())
        else:
            incumbent = float(self.y.max())
        return int(open_rows[np.argmax(acquire(mean, sd, incumbent))])


# -- helpers ----------------------------------------------------------------------------------------


def _by_chance(free: Mask, seed: int, position: int) -> int:
    """A random row, another for every position in the run. Interrupted trials do not count there, so that a
    run that was killed goes on as if it had not been."""
    return int(np.random.default_rng([seed, position]).choice(np.flatnonzero(free)))


def _new(space: SearchSpace, preset: Preset, tried: Sequence[int], free: Mask) -> Mask:
    """The free ones that are no twins of what was tried, as long as twins are left out."""
    if len(tried) >= preset.no_twins:
        return free
    return without(free, twins(space, tried, early=len(tried) < preset.careful))


def _feasibility(space: SearchSpace, history: History) -> Feasibility | None:
    if not any(trial.outcome and trial.outcome.guards for trial in history.succeeded):
        return None
    from loracle.search.feasibility import Feasibility

    return Feasibility.of(space, history)


def _fit(
    space: SearchSpace,
    preset: Preset,
    features: Features | None,
    rows: npt.NDArray[np.int64],
    y: Floats,
    seed: int,
) -> Surrogate:
    if isinstance(preset.surrogate, EnsembleSettings):
        from loracle.search.ensemble import fit_ensemble

        doubts = preset.surrogate.beliefs.doubts(space) if preset.surrogate.beliefs else None
        return fit_ensemble(preset.surrogate, describe(space), rows, y, doubts)
    from loracle.search.language_gp import fit_surrogate  # the one that needs torch

    coordinates = space.coordinates(space.candidates)
    return fit_surrogate(preset.surrogate, coordinates, features, rows, y, seed)


_last: list[tuple[tuple[object, ...], Features | None, Surrogate]] = []


def seed_indices(space: SearchSpace, configs: Sequence[Mapping[str, Value]]) -> list[int]:
    """Candidates nearest to the preset's seed configs, in order, without repeats."""
    found: list[int] = []
    for config in configs:
        index = space.nearest(complete(space, config))
        if index not in found:
            found.append(index)
    return found


def complete(space: SearchSpace, config: Mapping[str, Value]) -> Config:
    """`config` in the knobs and ranges of this space: middle values, or first names, for what it lacks; the
    rest left out."""
    full = with_alpha(config)
    return {knob.name: _within(knob, full.get(knob.name, knob.usual)) for knob in space.knobs}


def _within(knob: Knob, value: Value) -> Value:
    if knob.named:
        return value if any(same_value(value, own) for own in knob.values) else knob.usual
    low, high = number(knob.values[0]), number(knob.values[-1])
    return min(max(number(value, knob.name), low), high)
