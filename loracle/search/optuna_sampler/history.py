"""A study's trials as a history of the search: what each trained, and what it gave."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from loracle.errors import SpaceError
from loracle.records.space import SearchSpace
from loracle.records.trial import FAILURE_KEY, Failure, FailureKind, History, Outcome, Trial
from loracle.search.optuna_sampler import suggestions
from loracle.search.optuna_sampler.suggestions import REFUSED_KEY, Asked


def history_of(study: Study, space: SearchSpace, *, before: int | None = None) -> History:
    """An Optuna study as a history of `space`, whoever chose its trials; larger values are better.

    A trial counts for the candidate nearest to its parameters; knobs that no trial asked for count as the
    usual settings. Trials whose parameters do not say which config they trained are left out.

    Args:
        study: a single-objective study.
        space: the candidates.
        before: leave out the trial with this number, the one that is being chosen.
    """
    trials = trials_of(study, before=before)
    asked = suggestions.learn(trials, space)
    return history_at(study, space, asked, suggestions.rows_of(trials, space, asked))


def history_at(study: Study, space: SearchSpace, asked: Asked, rows: Mapping[int, int]) -> History:
    """The trials of a study, or of a bracket of it, that count for a row."""
    sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
    standing = suggestions.representatives(space, asked.names)
    found = []
    for frozen in study.get_trials(deepcopy=False):
        if frozen.number in rows:
            index = int(space.candidates[standing[rows[frozen.number]]])
            found.append(Trial(frozen.number, index, _outcome(frozen, sign)))
    return History(tuple(found))


def trials_of(study: Study, before: int | None = None) -> list[FrozenTrial]:
    """All trials of a study that say something, those of other brackets of a Hyperband pruner too."""
    everything = Study.get_trials(study, deepcopy=False)
    return [frozen for frozen in everything if not says_nothing(frozen, before)]


def was_interrupted(frozen: FrozenTrial) -> bool:
    """Whether a trial was cut short from outside, so that its config is to be tried again."""
    return bool(frozen.user_attrs.get(FAILURE_KEY) == FailureKind.INTERRUPTED)


def says_nothing(frozen: FrozenTrial, before: int | None) -> bool:
    """Whether a trial has not begun, was refused, or is `before`, the one that is being chosen."""
    waiting = frozen.state == TrialState.WAITING
    return waiting or frozen.number == before or REFUSED_KEY in frozen.system_attrs


def _outcome(frozen: FrozenTrial, sign: float) -> Outcome | None:
    if frozen.state == TrialState.RUNNING:
        return None
    if frozen.state in (TrialState.COMPLETE, TrialState.PRUNED) and frozen.value is not None:
        if math.isfinite(frozen.value):
            return Outcome(sign * frozen.value)
        return Outcome(None, failure=Failure(FailureKind.DIVERGED, f"value {frozen.value}"))
    kind = str(frozen.user_attrs.get(FAILURE_KEY, FailureKind.DIVERGED))
    if kind not in set(FailureKind):
        raise SpaceError(
            f"trial {frozen.number}: {FAILURE_KEY}={kind!r} is not a failure kind; "
            f"there are {', '.join(FailureKind)}"
        )
    return Outcome(None, failure=Failure(FailureKind(kind), "failed in Optuna"))
