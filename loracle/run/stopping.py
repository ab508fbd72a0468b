"""When a search ends before its last trial: what one more is expected to gain, against what that is worth.

The rule of Xie et al. (arXiv 2507.12453) without costs: the search ends as soon as the largest expected
improvement over what has been tried is less than it is worth. Measured in `benchmarks/stopping.py`. And it
ends where the next trial would cost more than what is left of what the user gives, in full trainings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from loracle.records.space import SearchSpace
from loracle.records.trial import History, Trial
from loracle.report.findings.score_scale import ScoreScale
from loracle.report.findings.search_cost import affordable, exceeded, search_cost, show_trainings
from loracle.report.wording import counted_trials, show_value
from loracle.search.observations import Mask, row_of
from loracle.search.presets import Preset
from loracle.search.propose import Beliefs, ranking

if TYPE_CHECKING:
    from loracle.search.belief import Rows
    from loracle.search.ensemble import Ensemble

Worth = float | Literal["never", "auto"]

LEAST = 12  # trials: before, a belief is too sure of itself
SHARE = 0.05  # of the noise of a score: what one more trial has to be expected to gain, with `auto`
_LIKELY, _DRAWS = 200, 64


@dataclass(frozen=True)
class Outlook:
    """What is expected of going on; differences of values.

    Attributes:
        gain: of the next trial, over the best believed now.
        worth: less than that ends the search.
        regret: by how much the best of all candidates is expected to be better than the config to use now.
    """

    gain: float
    worth: float
    regret: float

    def said(self, trials: int, done: int, most: int) -> str:
        """Why the search ended, without a full stop: this is of the first `trials` of those that are `done`,
        which may be more where less was asked for before."""
        when = "" if trials == done else f"after {trials} of them "
        return (
            f"stopped after {done} of {most} trials: {when}one more is expected to gain "
            f"{_short(self.gain)}, less than it is worth ({_short(self.worth)}, search.worth); the best "
            f"candidate is expected to be {_short(self.regret)} better than what was found"
        )


def _short(amount: float) -> str:
    """Three digits: an expectation is not known better."""
    return show_value(float(f"{amount:.3g}"))


@dataclass(frozen=True)
class Budget:
    """What all trials together may cost.

    Attributes:
        trainings: in full trainings.
        least: trials that there are whatever they cost.
        default: whether nobody named it.
        each: what a trial is expected to cost; None: not known before one has ended.
    """

    trainings: float
    least: int = 1
    default: bool = False
    each: float | None = None

    def enough_for(self, counted: Sequence[Trial]) -> int | None:
        """How many trials there will be, as far as these tell; None where nobody knows what one costs."""
        cost = search_cost(trial.outcome for trial in counted if trial.outcome)
        each = self.each if cost is None else cost.trainings / len(counted)
        return max(len(counted), affordable(self.trainings, each, self.least)) if each else None

    def overspent(self, history: History, most: int) -> str | None:
        """Why a search of `most` trials ends whose next one would cost more than is left; None where it goes
        on.

        The next trial, and each that still runs, costs what those before did in the mean. Interrupted trials
        do not count, so that a run that was killed ends where it would have.
        """
        counted, coming = history.counted, 1 + len(history.pending)
        cost = search_cost(trial.outcome for trial in counted if trial.outcome)
        if cost is None or len(counted) + coming <= self.least:
            return None
        if cost.trainings * (1 + coming / len(counted)) <= self.trainings:
            return None
        they = "it costs" if len(counted) == 1 else "they cost"
        said = f"stopped after {len(counted)} of at most {counted_trials(most)}: {they} "
        if cost.trainings > self.trainings and len(counted) <= self.least:
            return said + exceeded(cost.trainings, self.trainings, self.default, self.least)
        said += show_trainings(cost.trainings)
        source = f"{self.trainings:g} (search.budget{', the default' if self.default else ''})"
        if cost.trainings > self.trainings:
            more = cost.trainings - self.trainings
            return f"{said}, {more:.3g} more than the limit of {source}: the last cost more than those before"
        return f"{said}, and one more would cost more than is left of {source}"


def outlook(
    space: SearchSpace, trials: Sequence[Trial], preset: Preset, seed: int, free: Mask, worth: Worth
) -> Outlook | None:
    """After `trials`, where `free` candidates could come next; None where nothing can be said yet."""
    from loracle.search.ensemble import Ensemble

    history = History(tuple(trials))
    if worth == "never" or len(trials) < LEAST or not history.succeeded or not free.any():
        return None
    beliefs = Beliefs.of(space, history, preset.of_trials, None, seed)
    scale = ScoreScale.of(beliefs.y, beliefs.observations.values, "value")
    if not isinstance(beliefs.surrogate, Ensemble) or scale.slope <= 0:
        return None  # fewer than three different scores do not say what a difference is worth
    rows = np.flatnonzero(free)
    leader = row_of(space, ranking(space, history, preset, seed=seed)[0])
    gain, regret = prospects(beliefs.surrogate, rows, beliefs.observations.rows, leader)
    least = SHARE * beliefs.surrogate.noise * scale.slope if worth == "auto" else worth
    return Outlook(gain * scale.slope, float(least), regret * scale.slope)


def prospects(surrogate: Ensemble, free: Rows, tried: Rows, leader: int) -> tuple[float, float]:
    """What is expected of going on, in the units of the belief.

    The largest expected improvement of the `free` candidates, (m,), over those `tried`, (n,); and by how much
    the best of all is expected to be better than `leader`.
    """
    from loracle.search.acquisition import expected_improvement  # scipy: a worker begins to load before

    belief = surrogate.belief(at=np.concatenate([free, tried]))
    mean, sd, known = belief.mean[: len(free)], belief.sd[: len(free)], belief.mean[len(free) :]
    gain = float(expected_improvement(mean, sd, float(known.max())).max())
    likely = free[np.argsort(-(mean + 2 * sd), kind="stable")[:_LIKELY]]
    drawn = surrogate.draws(np.concatenate([[leader], likely]), _DRAWS)
    return gain, float((drawn.max(axis=1) - drawn[:, 0]).mean())
