"""`LoracleSampler`: the search as an Optuna sampler.

Each trial gets one config of the search space when its first knob is asked for; every later `suggest_*` of
a knob's name returns that config's value. Which kind of distribution the objective uses does not matter, as
long as it contains the value. Other parameters go to an independent sampler, as in Optuna's own samplers.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from loracle.errors import SpaceError
from loracle.features import Features
from loracle.optimizer import Preset, get_preset, propose, recommend
from loracle.space import Config, SearchSpace, Value
from loracle.trial import Failure, FailureKind, History, Outcome, Trial

INDEX_KEY = "loracle:index"
FAILURE_KEY = "loracle:failure"


class LoracleSampler(BaseSampler):
    """Chooses configs of `space` with Loracle's search.

    A failed trial counts as diverged, the usual reason for a NaN loss, unless the objective says otherwise
    with `trial.set_user_attr("loracle:failure", "out_of_memory")` (or `timeout`, `crashed`, `lost`). A pruned
    trial counts with its last reported value, and as diverged if it reported none.

    Args:
        space: the candidates.
        preset: a preset's name or a `Preset`.
        features: language features of the candidates (`loracle.features.build_features`), for presets that
            read prompts.
        seed: makes the search repeatable; None draws one.
        independent_sampler: for parameters that are not knobs of the space; random by default.

    Example:
        study = optuna.create_study(direction="maximize", sampler=LoracleSampler(paper_space()))
        study.optimize(objective, n_trials=30)
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        preset: str | Preset = "default",
        features: Features | None = None,
        seed: int | None = None,
        independent_sampler: BaseSampler | None = None,
    ) -> None:
        if isinstance(preset, str):
            preset = get_preset(preset, language=features is not None)
        self._space = space
        self._preset = preset
        self._features = features
        self._random = RandomSampler(seed=seed)
        self._seed = secrets.randbits(31) if seed is None else seed
        self._independent = independent_sampler or self._random
        self._lock = threading.Lock()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: the objective's own distributions are met in `sample_independent`."""
        self._raise_error_if_multi_objective(study)
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing: see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a knob in the trial's config; other parameters from the independent sampler.

        Raises:
            SpaceError: the objective's distribution does not contain the config's value.
        """
        self._raise_error_if_multi_objective(study)
        if param_name not in (*self._space.names, *self._derived_names()):
            return self._independent.sample_independent(study, trial, param_name, param_distribution)
        config = self._space.config(self._index_of(study, trial))
        return _as_asked(param_name, config[param_name], param_distribution)

    def recommend(self, study: Study) -> Config:
        """The config to use, by the preset's rule (posterior mean in `default`).

        Raises:
            SpaceError: no trial has succeeded.
        """
        history = history_of(study, self._space)
        index = recommend(self._space, history, self._preset, features=self._features, seed=self._seed)
        return self._space.config(index)

    def reseed_rng(self) -> None:
        """Reseeds the independent sampler; the search itself depends on history and seed alone."""
        self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passes on to the independent sampler."""
        self._independent.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passes on to the independent sampler."""
        self._independent.after_trial(study, trial, state, values)

    def _derived_names(self) -> tuple[str, ...]:
        return ("alpha",) if {"rank", "alpha_ratio"} <= set(self._space.names) else ()

    def _index_of(self, study: Study, trial: FrozenTrial) -> int:
        """The index chosen for this trial; chooses one if this is the first knob asked for."""
        storage = study._storage
        with self._lock:  # threads of one study (n_jobs) must see each other's choices
            attributes = storage.get_trial_system_attrs(trial._trial_id)
            if INDEX_KEY in attributes:
                return int(attributes[INDEX_KEY])
            history = history_of(study, self._space, before=trial.number)
            index = propose(self._space, history, self._preset, features=self._features, seed=self._seed)[0]
            storage.set_trial_system_attr(trial._trial_id, INDEX_KEY, index)
            return index

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def history_of(study: Study, space: SearchSpace, *, before: int | None = None) -> History:
    """An Optuna study as a history of `space`, whoever chose its trials; larger values are better.

    Trials whose parameters are not (near) a config of the space are left out: they say nothing about it.

    Args:
        study: a single-objective study.
        space: the candidates.
        before: leave out the trial with this number, the one that is being chosen.
    """
    sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
    found = []
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state == TrialState.WAITING or frozen.number == before:
            continue
        index = _index(frozen, space)
        if index is not None:
            found.append(Trial(frozen.number, index, _outcome(frozen, sign)))
    return History(tuple(found))


def _index(frozen: FrozenTrial, space: SearchSpace) -> int | None:
    """The config of a trial: its parameters, and the chosen config for knobs that were not asked for.

    Parameters overrule the choice: `enqueue_trial` and `PartialFixedSampler` may have fixed some of them.
    """
    asked: Config = {
        name: value
        for name, value in frozen.params.items()
        if name in (*space.names, "alpha", "alpha_ratio")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }
    index = int(frozen.system_attrs.get(INDEX_KEY, -1))
    chosen = space.config(index) if 0 <= index < space.size else {}
    if all(name in chosen and math.isclose(chosen[name], value) for name, value in asked.items()):
        return index if chosen else None
    if "alpha" in asked or "alpha_ratio" in asked:  # one follows from the other
        chosen = {name: value for name, value in chosen.items() if name not in ("alpha", "alpha_ratio")}
    elif "rank" in asked:
        chosen.pop("alpha" if "alpha_ratio" in space.names else "alpha_ratio", None)
    try:
        return space.nearest(chosen | asked)
    except SpaceError:
        return None


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


def _as_asked(name: str, value: Value, distribution: BaseDistribution) -> Any:
    """`value` as the objective's distribution spells it."""
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if not isinstance(choice, bool | str) and choice is not None and math.isclose(choice, value):
                return choice
    else:
        is_integer = isinstance(distribution, optuna.distributions.IntDistribution)
        if not is_integer or float(value).is_integer():
            typed = int(value) if is_integer else float(value)
            if distribution._contains(distribution.to_internal_repr(typed)):
                return typed
    raise SpaceError(
        f"the search space holds {name}={value}, which the objective's {distribution} does not contain; "
        "ask for a range that contains every value of the knob, or leave the value out of the space"
    )
