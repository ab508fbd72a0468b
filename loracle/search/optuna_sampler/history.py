"""A study's trials as a history of the search: what each trained, and what it gave."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from loracle.records.space import SearchSpace
from loracle.records.trial import FAILURE_KEY, Failure, FailureKind, History, Outcome, Trial
from loracle.search.observations import suspects
from loracle.search.optuna_sampler import suggestions
from loracle.search.optuna_sampler.interrupted import ERROR_KEY, settled
from loracle.search.optuna_sampler.parameters import REFUSED_KEY
from loracle.search.optuna_sampler.question import Scene, scene_of
from loracle.search.optuna_sampler.suggestions import Asked
from loracle.search.outputs import as_one, drawn_weights
from loracle.text.escape import printable
from loracle.text.quantities import show_rough

_CONSTRAINTS = "constraints"  # where Optuna keeps what `constraints_func` and `trial.set_constraint` gave


def history_of(study: Study, space: SearchSpace, *, before: int | None = None) -> History:
    """An Optuna study as a history of `space`, whoever chose its trials; larger values are better.

    A trial counts for the candidate nearest to its parameters; knobs that no trial asked for count as the
    usual settings. Trials whose parameters do not say which config they trained are left out.

    Args:
        study: a study.
        space: the candidates.
        before: leave out the trial with this number, the one that is being chosen.
    """
    scene = scene_of(trials_of(study, before=before), space, {}, own=False)
    rows = suggestions.rows_of(scene.trials, space, scene.asked)
    return history_at(study, space, scene.asked, rows)


def history_at(
    study: Study, space: SearchSpace, asked: Asked, rows: Mapping[int, int], seed: int = 0
) -> History:
    """The trials of a study, or of a bracket of it, that count for a row.

    Several objectives count as one, weighed anew for every trial (`outputs.as_one`). `seed` is that of the
    weights.
    """
    standing = suggestions.representatives(space, asked.names)
    everything = settled(t for t in study.get_trials(deepcopy=False) if t.number in rows)
    values = _values(study.directions, everything, seed)
    found = []
    for frozen in everything:
        index = int(space.candidates[standing[rows[frozen.number]]])
        found.append(Trial(frozen.number, index, _outcome(frozen, values.get(frozen.number))))
    return History(tuple(found))


def trials_of(study: Study, before: int | None = None) -> list[FrozenTrial]:
    """All trials of a study that say something, those of other brackets of a Hyperband pruner too; what a
    process left running counts as interrupted."""
    everything = Study.get_trials(study, deepcopy=False)
    return [frozen for frozen in settled(everything) if not says_nothing(frozen, before)]


def says_nothing(frozen: FrozenTrial, before: int | None) -> bool:
    """Whether a trial has not begun, was refused, or is `before`, the one that is being chosen."""
    waiting = frozen.state == TrialState.WAITING
    return waiting or frozen.number == before or REFUSED_KEY in frozen.system_attrs


def infeasible(frozen: FrozenTrial) -> bool:
    """Whether a trial violates a constraint, as Optuna counts: any value above 0."""
    found = list(frozen.system_attrs.get(_CONSTRAINTS) or ())
    found += [value for key, value in frozen.system_attrs.items() if key.startswith(f"{_CONSTRAINTS}:")]
    return any(value > 0 for value in found)


def told_no_number() -> bool:
    """Whether a study is being told, by whoever called, a value that is NaN or infinite.

    Optuna makes such a trial fail and forgets why; an exception of the objective fails it in the same way. So
    it is looked up where Optuna has it. Where that moves, the trial counts as a crash.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_tell_with_warning":
        frame = frame.f_back
    told = frame.f_locals.get("value_or_values") if frame is not None else None
    values = told if isinstance(told, Sequence) and not isinstance(told, str) else [told]
    return any(map(_is_no_number, values))


def say_diverged(trial_id: int, study: Study) -> None:
    """Notes with a trial that has not ended that it has diverged."""
    study._storage.set_trial_user_attr(trial_id, FAILURE_KEY, str(FailureKind.DIVERGED))


def failed_as(frozen: FrozenTrial) -> FailureKind:
    """The kind of failure of a trial that has failed: `diverged` where its author says so, `crashed` where
    what the author says is no kind of failure (`misnamed`)."""
    if FAILURE_KEY in frozen.user_attrs:
        said = str(frozen.user_attrs[FAILURE_KEY])
        return FailureKind(said) if said in set(FailureKind) else FailureKind.CRASHED
    if frozen.state == TrialState.PRUNED:  # before it reported anything
        return FailureKind.DIVERGED
    reported = frozen.intermediate_values
    last = reported[max(reported)] if reported else 0.0
    return FailureKind.CRASHED if math.isfinite(last) else FailureKind.DIVERGED


def misnamed(frozen: FrozenTrial) -> str | None:
    """What is wrong with the kind of failure that the author of a failed trial says; None: nothing."""
    said = frozen.user_attrs.get(FAILURE_KEY)
    if said is None or str(said) in set(FailureKind):
        return None
    return (
        f"trial {frozen.number}: {FAILURE_KEY}={printable(repr(said), 60)} is not a failure kind, so the "
        f"trial counts as {FailureKind.CRASHED}; there are {', '.join(FailureKind)}"
    )


def crashes(study: Study, scene: Scene, history: History) -> dict[str, str]:
    """What is said, in the objective's own words, of values with which every trial crashed; by what is the
    same while more trials crash."""
    found = {}
    for suspect in suspects(scene.space, history):
        params = study.trials[suspect.trials[0].number].params
        own = [
            f"{name} {show_rough(value, suspect.side)}"
            for name, value in params.items()
            if scene.knobs.get(name) in suspect.values
        ]
        values = printable(", ".join(own))
        found[str(suspect.key)] = suspect.said(values)
    return found


def _is_no_number(value: Any) -> bool:
    try:  # as Optuna does: a tensor, a text of a number
        return not math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _values(
    directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial], seed: int
) -> dict[int, float]:
    """By number, the value of each trial that has one; larger is better, and NaN or infinite is no good."""
    signs = np.array([-1.0 if direction == StudyDirection.MINIMIZE else 1.0 for direction in directions])
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.values]
    if len(signs) == 1:
        return {t.number: float(signs[0]) * t.values[0] for t in ended}
    told = {t.number: signs * t.values for t in ended}
    good = {number: values for number, values in told.items() if np.isfinite(values).all()}
    if not good:
        return dict.fromkeys(told, math.nan)
    scores = as_one(np.array(list(good.values())), drawn_weights(len(signs), seed, len(trials)))
    return {**dict.fromkeys(told, math.nan), **dict(zip(good, scores.tolist(), strict=True))}


def _outcome(frozen: FrozenTrial, value: float | None) -> Outcome | None:
    if frozen.state == TrialState.RUNNING:
        return None
    if value is not None and infeasible(frozen):
        return Outcome(None, failure=Failure(FailureKind.DIVERGED, "violates a constraint"))
    if value is not None:
        if math.isfinite(value):
            return Outcome(value)
        return Outcome(None, failure=Failure(FailureKind.DIVERGED, f"value {value}"))
    return Outcome(None, failure=Failure(failed_as(frozen), str(frozen.system_attrs.get(ERROR_KEY, ""))))
