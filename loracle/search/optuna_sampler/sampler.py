"""`LoracleSampler`: the search as an Optuna sampler.

Each trial gets one config of the search space when its first knob is asked for; every later `suggest_*` of
a knob's name returns that config's value. Which kind of distribution the objective uses does not matter, as
long as it contains some of the knob's values: others are not chosen. Knobs that the objective does not ask
for are not searched. Parameters that are no knobs go to an independent sampler, and that is said.
"""

from __future__ import annotations

import secrets
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from loracle.errors import SpaceError
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import INDEX_KEY
from loracle.search.optuna_sampler import suggestions
from loracle.search.optuna_sampler.history import (
    history_at,
    history_of,
    says_nothing,
    trials_of,
    was_interrupted,
)
from loracle.search.optuna_sampler.suggestions import REFUSED_KEY, Asked
from loracle.search.presets import Preset, get_preset
from loracle.search.propose import propose, recommend, seed_indices

if TYPE_CHECKING:
    from loracle.language.features import Features

_ROUNDS = 6  # of choosing, if other processes choose the same
_FEW = 1000  # candidates: more than trials run at a time


@dataclass(frozen=True)
class _Question:
    """What is to be searched.

    Attributes:
        asked: what the trials were asked for.
        rows: the candidate that each trial counts for, by the trial's number.
        searched: (N,) which candidates, one for each set of values that can be asked for.
        left: (N,) which of them have not been tried, in whatever bracket of a Hyperband pruner.
    """

    asked: Asked
    rows: Mapping[int, int]
    searched: npt.NDArray[np.bool_]
    left: npt.NDArray[np.bool_]


class LoracleSampler(BaseSampler):
    """Chooses configs of `space` with Loracle's search.

    The objective asks for some or all of the knobs by their names. The first trial may be asked for any;
    from the second on, only knobs that were asked for are searched, within the ranges they were asked for.
    A parameter with a usual but other spelling of a knob (`lr`, `lora_alpha`) is refused, any other parameter
    that is no knob is drawn by the independent sampler, with a warning unless one was named.

    A failed trial counts as diverged, the usual reason for a NaN loss, unless the objective says otherwise
    with `trial.set_user_attr("loracle:failure", "out_of_memory")` (or `timeout`, `crashed`, `lost`). A pruned
    trial counts with its last reported value, and as diverged if it reported none.

    Args:
        space: the candidates.
        preset: a preset's name or a `Preset`.
        features: language features of the candidates (`loracle.build_features`), for presets that read
            prompts.
        seed: makes the search repeatable; None draws one.
        independent_sampler: for parameters that are not knobs of the space, whatever their names; None:
            random, and names that look like knobs are refused.

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
        self._seed = secrets.randbits(31) if seed is None else seed
        self._draws_strangers = independent_sampler is not None
        self._independent = independent_sampler or RandomSampler(seed=seed)
        self._told: set[tuple[str, str]] = set()  # study, and what was said of it
        self._few_left = True  # it is worth a look whether anything is left
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
            SpaceError: the objective asks for nothing that the space holds, or for a knob by another name.
        """
        self._raise_error_if_multi_objective(study)
        try:
            if param_name not in suggestions.names_of(self._space):
                self._say_strange(study, trial, param_name)
                return self._independent.sample_independent(study, trial, param_name, param_distribution)
            with self._lock:  # threads of one study (n_jobs) must see each other's choices
                return self._value(study, trial, param_name, param_distribution)
        except SpaceError:  # the objective has trained nothing: this trial says nothing
            study._storage.set_trial_system_attr(trial._trial_id, REFUSED_KEY, True)
            raise

    def recommend(self, study: Study) -> Config:
        """The config to use, by the preset's rule (posterior mean in `default`): what the objective asks for.

        Raises:
            SpaceError: no trial has succeeded.
        """
        history = history_of(study, self._space)
        index = recommend(self._space, history, self._preset, features=self._features, seed=self._seed)
        held = suggestions.with_derived(suggestions.learn(trials_of(study), self._space).names)
        config = self._space.config(index)
        return {name: value for name, value in config.items() if name in held or not held}

    def reseed_rng(self) -> None:
        """Reseeds the independent sampler; the search itself depends on history and seed alone."""
        self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passes on to the independent sampler."""
        self._independent.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passes on to the independent sampler; ends `study.optimize`, with a warning, if nothing is left."""
        self._independent.after_trial(study, trial, state, values)
        waiting = self._few_left and study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not self._few_left or waiting or says_nothing(trial, None):
            return
        if study._thread_local.in_optimize_loop:
            ended = copy(trial)
            ended.state = state
            question = self._question([*trials_of(study, before=trial.number), ended], {})
            if not question.left.any():
                warnings.warn(
                    f"{_exhausted(question)}; the search ends here{self._beyond(question)}",
                    stacklevel=_levels(),
                )
                study.stop()

    # -- a knob -------------------------------------------------------------------------------------

    def _value(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """The value of a name of the space; chooses the trial's config if this is the first one asked for."""
        space, storage = self._space, study._storage
        column = suggestions.columns(space)[name]
        values = suggestions.admissible(space, name, [distribution])
        if not values:
            raise SpaceError(
                f"the objective asks for {name} from {distribution}, which contains no value that the search "
                f"space holds ({min(column):g} to {max(column):g}); change the range or the space"
            )
        index = storage.get_trial_system_attrs(trial._trial_id).get(INDEX_KEY)
        if index is None:
            index = self._claim(study, trial, name, distribution)
        row = int(np.searchsorted(space.candidates, index))
        value = suggestions.spelled(column[row], distribution)
        if value is not None:
            return value
        moved = self._move(study, trial, row, name, distribution)
        if moved is None:  # constraints: no config has one of these values and those given before
            return suggestions.spelled(min(values, key=lambda v: abs(v - column[row])), distribution)
        storage.set_trial_system_attr(trial._trial_id, INDEX_KEY, int(space.candidates[moved]))
        return suggestions.spelled(column[moved], distribution)

    def _claim(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> int:
        """Chooses a config that no other trial has, and notes it with the trial; its index.

        Other processes may choose at the same time: who sees that makes way, each to another config.
        """
        place = 0
        for _ in range(_ROUNDS):
            index = self._choose(study, trial, name, distribution, place)
            study._storage.set_trial_system_attr(trial._trial_id, INDEX_KEY, index)
            others = trials_of(study, before=trial.number)
            rivals = [t for t in others if t.system_attrs.get(INDEX_KEY) == index and not was_interrupted(t)]
            if not rivals or "fixed_params" in trial.system_attrs:  # enqueued: it may be a repetition
                break
            place = sum(rival.number < trial.number for rival in rivals)
        return index

    def _choose(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution, place: int = 0
    ) -> int:
        """The index of the config for a trial whose first knob is asked for, after `place` better ones."""
        space, trials = self._space, trials_of(study, before=trial.number)
        question = self._question(trials, {name: (distribution,)}, _fixed_by_others(study, trial))
        asked, mine, left = question.asked, question.searched, question.left
        self._few_left = not asked.names or int(left.sum()) <= _FEW
        if not asked.names:
            left = self._apart(left, question, name)
        seeds = [space.config(index) for index in seed_indices(space, self._preset.seed_configs)]
        rows = [suggestions.nearest_row(space, seed, mine) for seed in seeds]
        preset = replace(
            self._preset, seed_configs=tuple(space.config(int(space.candidates[row])) for row in rows)
        )
        history = history_at(study, space, asked, question.rows)
        chosen = propose(
            space,
            history,
            preset,
            features=self._features,
            n=place + 1,
            seed=self._seed,
            allowed=left,
            strict=False,
        )
        if chosen:
            return chosen[-1]
        if trial.system_attrs.get("fixed_params"):  # enqueued, and tried before: a repetition is wanted
            return int(space.candidates[np.flatnonzero(mine)[0]])
        raise SpaceError(f"{_exhausted(question)}; stop here, or widen the space or the ranges")

    def _question(
        self,
        trials: Sequence[FrozenTrial],
        now: Mapping[str, Sequence[BaseDistribution]],
        fixed: Mapping[str, Any] | None = None,
    ) -> _Question:
        """What is to be searched, by what some trials were asked for and what is asked for `now`."""
        space, fixed = self._space, dict(fixed or {})
        asked = suggestions.learn(trials, space)
        ranges: dict[str, Sequence[BaseDistribution]] = {}
        for name, distributions in {**asked.ranges, **now}.items():
            if name not in now and (only := suggestions.only_value(distributions)) is not None:
                fixed.setdefault(name, only)
            elif name in now or suggestions.admissible(space, name, distributions):
                ranges[name] = distributions
        if asked.names:
            held = (ranges.keys() | fixed.keys()) & suggestions.names_of(space)
            asked = replace(asked, names=asked.names | held)
        rows = suggestions.rows_of(trials, space, asked)
        inside = suggestions.within(space, ranges) & ~suggestions.unreachable(trials, rows, space, asked)
        if not inside.any():  # ranges of earlier trials: what this one is asked for is met as it comes
            inside = suggestions.within(space, now)
        inside = suggestions.agreeing(space, fixed, inside)
        standing = suggestions.representatives(space, asked.names)
        searched = np.asarray(inside & (standing == np.arange(len(standing))))
        ended = {frozen.number for frozen in trials if was_interrupted(frozen)}
        over = [row for number, row in rows.items() if number not in ended]
        tried = suggestions.tried(over, space, asked) | suggestions.repeats(trials, rows, space, asked)
        return _Question(asked, rows, searched, searched & ~tried)

    def _beyond(self, question: _Question) -> str:
        """What to do if the objective is about to ask for more than it has: that cannot be known here."""
        columns, asked = suggestions.columns(self._space), question.asked
        narrow = [
            f"{name} from {min(values):g} to {max(values):g}"
            for name in sorted(asked.names)
            if (values := suggestions.admissible(self._space, name, asked.ranges.get(name, ())))
            and len(values) < len(np.unique(columns[name]))
        ]
        if not narrow:
            return ""
        return (
            f". So far it asked for {', '.join(narrow)}, and the space holds more: if the range of its "
            "first parameter widens from now on, call optimize again; if another does, begin a new study"
        )

    def _apart(self, left: npt.NDArray[np.bool_], question: _Question, name: str) -> npt.NDArray[np.bool_]:
        """Which of the candidates that are left differ from all trials in the first knob that is asked for.

        Until a trial has finished, the other knobs may not be asked for at all, and then trials that differ
        in them only would be the same.
        """
        column = suggestions.columns(self._space)[name]
        apart = left & ~np.isin(column, column[list(question.rows.values())])
        return apart if apart.any() else left

    def _move(
        self, study: Study, trial: FrozenTrial, row: int, name: str, distribution: BaseDistribution
    ) -> int | None:
        """The row nearest to `row` that has a value of the distribution and all values given before.

        One that was not tried, if there is one; None if none has them all.

        Raises:
            SpaceError: no config has values of all ranges that the trial was asked for.
        """
        space = self._space
        here = suggestions.within(space, {name: (distribution,)})
        given = {n: value for n, value in trial.params.items() if n in suggestions.names_of(space)}
        pool = here & suggestions.holding(space, given)
        if not pool.any():
            ranges = {n: (d,) for n, d in trial.distributions.items() if n in given and not d.single()}
            if not (here & suggestions.within(space, ranges)).any():
                raise SpaceError(
                    f"no config of the search space has {name} in {distribution} and what the objective asks "
                    f"for of {', '.join(ranges)}; change a range or the space's constraints"
                )
            return None
        trials = trials_of(study, before=trial.number)
        asked = suggestions.learn(trials, space)
        rows = suggestions.rows_of(trials, space, asked).values()
        untried = pool & ~suggestions.tried(rows, space, asked)
        pool = untried if untried.any() else pool
        return suggestions.nearest_row(space, space.config(int(space.candidates[row])), pool)

    # -- other parameters ---------------------------------------------------------------------------

    def _say_strange(self, study: Study, trial: FrozenTrial, name: str) -> None:
        """Warns, once a study, that a parameter is no knob.

        Raises:
            SpaceError: it is the usual spelling of a knob that is not asked for, or nothing that is asked for
                is a knob; unless an independent sampler was named.
        """
        names = suggestions.names_of(self._space)
        asked = suggestions.learn(trials_of(study, before=trial.number), self._space)
        given = asked.names | (trial.params.keys() & names)
        meant, usual = suggestions.meant_by(name, names - suggestions.with_derived(given))
        knobs = ", ".join(self._space.names)
        if not self._draws_strangers:
            if usual:
                raise SpaceError(
                    f"the objective asks for {name!r}, which the search space calls {meant!r}: it would be "
                    f"drawn at random and not searched. Call it {meant!r} in the objective (or, if it is "
                    "something else, pass an independent_sampler)"
                )
            if asked.strange and not given:
                raise SpaceError(
                    f"nothing that the objective asks for ({', '.join(sorted(asked.strange))}) is a knob of "
                    f"the search space ({knobs}), so there is nothing to search; call parameters as the "
                    "space does, or search a space of your own"
                )
        key = (study.study_name, name)
        if key in self._told or (self._draws_strangers and not usual):
            return
        self._told.add(key)
        hint = f"; if {meant!r} is meant, call it so" if meant else ""
        warnings.warn(
            f"{name!r} is no knob of the search space ({knobs}): it is drawn by "
            f"{type(self._independent).__name__} in every trial and not searched{hint}",
            stacklevel=_levels(),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _levels() -> int:
    """How many calls above the caller's the user's own code is: there a warning belongs."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("loracle", "optuna"):
        frame, level = frame.f_back, level + 1
    return level


def _exhausted(question: _Question) -> str:
    names, number = ", ".join(sorted(question.asked.names)), int(question.searched.sum())
    return f"all {number:,} configs that the objective asks for ({names}) have been tried or are running"


def _fixed_by_others(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """What a trial's parameters are whatever is chosen: enqueued, given already, or fixed by a sampler."""
    fixed: dict[str, Any] = {}
    sampler = study.sampler
    while isinstance(sampler, PartialFixedSampler):
        fixed |= sampler._fixed_params
        sampler = sampler._base_sampler
    return {**fixed, **trial.system_attrs.get("fixed_params", {}), **trial.params}
