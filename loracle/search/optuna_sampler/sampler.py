"""`LoracleSampler`: the search as an Optuna sampler.

Each trial gets a config when its first parameter is asked for; every later `suggest_*` returns that config's
value. What the trials before were asked for says what is searched: parameters, ranges, and nothing else.
"""

from __future__ import annotations

import secrets
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import TrialPruned
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from loracle.errors import SpaceError
from loracle.records.space import Number, SearchSpace, UserBeliefs
from loracle.records.trial import FAILURE_KEY
from loracle.search.observations import without
from loracle.search.optuna_sampler import suggestions
from loracle.search.optuna_sampler.history import (
    crashes,
    history_at,
    misnamed,
    say_diverged,
    says_nothing,
    told_no_number,
    trials_of,
)
from loracle.search.optuna_sampler.interrupted import note_failure, note_process, was_interrupted
from loracle.search.optuna_sampler.parameters import (
    CONFIG_KEY,
    REFUSED_KEY,
    contains,
    is_own,
    numbers_at,
    spelled,
    texts_of,
)
from loracle.search.optuna_sampler.question import (
    STOP,
    Scene,
    beliefs_of,
    beyond,
    exhausted,
    fixed_by_others,
    question_of,
    scene_of,
)
from loracle.search.optuna_sampler.ranges import USUAL, with_usual
from loracle.search.optuna_sampler.warned import Warned, left_out, levels, strange
from loracle.search.presets import Preset, get_preset, with_beliefs, with_data, with_parameters
from loracle.search.prior import misnamed_knobs
from loracle.search.propose import propose, recommend, seed_indices
from loracle.text.escape import printable

if TYPE_CHECKING:
    from loracle.language.features import Features

_ROUNDS = 6  # of choosing, if other processes choose the same
_FEW = 1000  # candidates: more than trials run at a time


class LoracleSampler(BaseSampler):
    """Chooses configs with Loracle's search.

    The objective asks for parameters as ever. Knobs of LoRA training are known by their usual names (`lr`,
    `r`, `lora_alpha`, ...: `loracle.config.spellings`), with all that is known of LoRA landscapes; any other
    parameter is searched beside them by numbers alone, and that is said once. The first trial gets the usual
    settings, or what is closest to them in the ranges; from the second on, only what was asked for is
    searched, within the ranges that it was asked for.

    Without a space, the ranges are the space: choices as they are, ranks, alphas and batch sizes at powers of
    two, or at your steps, everything else at 17 values of its range or more (`ranges.py`). A space is kept
    to: its values within the ranges, and no others.

    A trial has diverged, and counts as worse than any success, where its author says so: it returns or last
    reports NaN or infinity, or sets `trial.set_user_attr("loracle:failure", "diverged")`. Any other failure
    (an exception, a dead process) says nothing about its config, which is only not tried again, unless every
    config with one value fails so: that is told, and comes after all others. The attribute may be
    `out_of_memory`, `timeout`, `crashed` or `lost` as well. A pruned trial counts with its last reported
    value, as diverged without one; one that violates a constraint counts as diverged. Several objectives are
    weighed anew in every trial, so that the study's `best_trials` spread over the Pareto front.

    Args:
        space: the candidates; None: what the objective asks for.
        preset: a preset's name or a `Preset`.
        parameters: how many the base model has, such as 7e9: small models want larger steps. None: the first
            trials show which it is.
        fraction: of the data that a trial trains on, where its config is for a training on all of it.
        beliefs: what is held likely before the first trial, by parameter: `{"lr": "around 1e-4"}`; with
            configs that are known to be good or bad: `UserBeliefs.of`.
        features: language features of the candidates (`loracle.build_features`), for presets that read
            prompts; they need a space, and then parameters that it lacks go to the independent sampler.
        seed: makes the search repeatable; None draws one.
        independent_sampler: for all parameters that are no knobs, instead of searching them; None: Optuna's
            TPE, for those alone for which the search has no room.
        constraints_func: as in Optuna's own samplers: a trial is feasible where all of its values are at most
            0. `trial.set_constraint` is heeded without it.

    Example:
        study = optuna.create_study(direction="maximize", sampler=LoracleSampler())
        study.optimize(objective, n_trials=30)

    Raises:
        ConfigError: there is no such preset, it reads prompts and there are no features, the number of
            parameters is no positive number, or the fraction no share.
        SpaceError: features without a space.
    """

    def __init__(
        self,
        space: SearchSpace | None = None,
        *,
        preset: str | Preset = "default",
        parameters: float | None = None,
        fraction: float = 1.0,
        beliefs: UserBeliefs | Mapping[str, Any] | None = None,
        features: Features | None = None,
        seed: int | None = None,
        independent_sampler: BaseSampler | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        if isinstance(preset, str):
            preset = get_preset(preset, language=features is not None)
        if space is not None and not isinstance(space, SearchSpace):
            raise SpaceError(f"space is a SearchSpace or left out; got {printable(repr(space), 60)}")
        if space is not None and preset.informed and (said := misnamed_knobs(space)):
            warnings.warn(said, stacklevel=2)
        if features is not None and space is None:
            raise SpaceError("features are of a space's candidates: name the space, too")
        self._space = space
        self._preset = with_data(with_parameters(preset, parameters), fraction)
        self._beliefs = beliefs_of(beliefs)
        with_beliefs(self._preset, self._beliefs)  # raises where it reads none
        self._features = features
        self._seed = secrets.randbits(31) if seed is None else seed
        self._searches_own = independent_sampler is None and features is None
        self._speaks = independent_sampler is None
        self._independent = independent_sampler or TPESampler(seed=seed)
        self._constraints = constraints_func
        self._warned = Warned()
        self._few_left = True  # it is worth a look whether anything is left
        self._lock = threading.Lock()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: the objective's own distributions are met in `sample_independent`."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing: see `infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a parameter in the trial's config, or from the independent sampler.

        Raises:
            SpaceError: a range without any of the values of the space.
        """
        try:
            with self._lock:  # threads of one study (n_jobs) must see each other's choices
                scene = self._scene(study, trial, {**trial.distributions, param_name: param_distribution})
                knob = scene.knobs.get(param_name)
                if knob is None or is_own(knob):
                    self._say_strange(study, scene, param_name, param_distribution)
                number = None if knob is None else self._number(study, trial, scene, knob, param_distribution)
        except SpaceError:  # the objective has trained nothing: this trial says nothing
            study._storage.set_trial_system_attr(trial._trial_id, REFUSED_KEY, True)
            raise
        if knob is None or number is None:
            return self._independent.sample_independent(study, trial, param_name, param_distribution)
        return spelled(knob, number, param_distribution, texts_of(scene.space).get(knob, ()))

    def recommend(self, study: Study) -> dict[str, Any]:
        """Of the parameters that were tried, those to use, by the preset's rule (`default`: posterior mean).

        Raises:
            SpaceError: no trial has succeeded, or the study has several objectives.
        """
        if len(study.directions) > 1:
            raise SpaceError("of several objectives no config is the best; see study.best_trials")
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            raise SpaceError("no trial has succeeded, so there is nothing to recommend")
        scene = scene_of(trials_of(study), self._space, {}, own=self._searches_own)
        rows = suggestions.rows_of(scene.trials, scene.space, scene.asked)
        history = history_at(study, scene.space, scene.asked, rows)
        index = recommend(
            scene.space, history, self._believing(study, scene), features=self._features, seed=self._seed
        )
        value = {t.number: t.outcome.value for t in history.succeeded if t.index == index and t.outcome}
        best = max(value, key=lambda number: (value[number], -number))
        return dict(study.trials[best].params)

    def reseed_rng(self) -> None:
        """Reseeds the independent sampler; the search itself depends on history and seed alone."""
        self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Warns of unknown kinds of failure in earlier trials, and notes who runs the trial; passes on to the
        independent sampler.
        """
        note_process(study, trial)
        for failed in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            self._warned.once(study, f"trial {failed.number}", misnamed(failed))
        self._independent.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Notes a value that is no number, and Ctrl-C, and warns of an unknown kind of failure; passes on to
        the independent sampler; ends `study.optimize`, with a warning, if nothing is left.
        """
        stopped = state == TrialState.FAIL and note_failure(study, trial)
        if state == TrialState.FAIL and FAILURE_KEY not in trial.user_attrs and told_no_number():
            say_diverged(trial._trial_id, study)
        if state == TrialState.FAIL:
            self._warned.once(study, f"trial {trial.number}", misnamed(trial))
        if self._constraints is not None:
            _process_constraints_after_trial(self._constraints, study, trial, state)
        self._independent.after_trial(study, trial, state, values)
        waiting = self._few_left and study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if stopped or not self._few_left or waiting or says_nothing(trial, None) or not trial.distributions:
            return
        if study._thread_local.in_optimize_loop:
            ended = copy(trial)
            ended.state = state
            ended.system_attrs = study._storage.get_trial_system_attrs(trial._trial_id)
            trials = [*trials_of(study, before=trial.number), ended]
            scene = scene_of(trials, self._space, {}, own=self._searches_own)
            question = question_of(scene, {})
            if question.asked.names and not question.left.any():
                said = f"{exhausted(question)}; the search ends here{beyond(question)}"
                warnings.warn(said, stacklevel=levels())
                study.stop()

    # -- a knob -------------------------------------------------------------------------------------

    def _scene(self, study: Study, trial: FrozenTrial, now: Mapping[str, BaseDistribution]) -> Scene:
        trials = trials_of(study, before=trial.number)
        return scene_of(trials, self._space, now, own=self._searches_own)

    def _believing(self, study: Study, scene: Scene) -> Preset:
        if scene.asked.names and (strange := scene.strangers(self._beliefs)):
            said = f"beliefs: the objective has not asked for {', '.join(strange)}, which is left out so far"
            self._warned.once(study, "beliefs", said)
        if scene.asked.names and self._warned.first(study, "remarks"):
            for text in self._beliefs.remarks(scene.space, scene.held):
                warnings.warn(text, stacklevel=levels())
        return with_beliefs(self._preset, scene.held(self._beliefs))

    def _number(
        self, study: Study, trial: FrozenTrial, scene: Scene, knob: str, distribution: BaseDistribution
    ) -> Number | None:
        """The value of a knob; chooses the trial's config if this is the first one that is asked for.

        None: the search has no value for it.
        """
        space, storage = scene.space, study._storage
        column = suggestions.columns(space)[knob]
        values = suggestions.admissible(space, knob, [distribution])
        if not values and (self._space is None or is_own(knob)):
            return None
        if not values:
            raise SpaceError(
                f"the objective asks for {knob} from {distribution}, which contains no value that the search "
                f"space holds ({suggestions.shown(space, knob, column.tolist())}); change the range or the "
                "space, or leave out the space: then the ranges are the space"
            )
        if self._space is not None and not is_own(knob):
            (name,) = (name for name, meant in scene.knobs.items() if meant == knob)
            said = left_out(self._space, knob, name, distribution)
            self._warned.once(study, f"choices of {name}", said)
        config = storage.get_trial_system_attrs(trial._trial_id).get(CONFIG_KEY)
        if config is None:
            config = self._claim(study, trial, scene, knob, distribution)
        number = config.get(knob)
        if number is None:
            return self._late(trial, scene, knob, values)
        if contains(knob, number, distribution, texts_of(space).get(knob, ())):
            return float(number)
        moved = self._move(trial, scene, config, knob, distribution)
        if moved is None:  # constraints: no config has one of these values and those given before
            return suggestions.closest(space, knob, number, values)
        config = {**config, **suggestions.config_at(space, moved)}
        storage.set_trial_system_attr(trial._trial_id, CONFIG_KEY, config)
        return float(column[moved])

    def _claim(
        self, study: Study, trial: FrozenTrial, scene: Scene, knob: str, distribution: BaseDistribution
    ) -> Mapping[str, Number]:
        """Chooses a config that no other trial has, and notes it with the trial.

        Other processes may choose at the same time: who sees that makes way, each to another config.
        """
        place = 0
        (name,) = (name for name, meant in scene.knobs.items() if meant == knob)
        for _ in range(_ROUNDS):
            row = self._choose(study, trial, scene, knob, distribution, place)
            config = suggestions.config_at(scene.space, row)
            study._storage.set_trial_system_attr(trial._trial_id, CONFIG_KEY, config)
            others = trials_of(study, before=trial.number)
            rivals = [t for t in others if t.system_attrs.get(CONFIG_KEY) == config]
            rivals = [rival for rival in rivals if not was_interrupted(rival)]
            if not rivals or "fixed_params" in trial.system_attrs:  # enqueued: it may be a repetition
                break
            place = sum(rival.number < trial.number for rival in rivals)
            seen_now = self._scene(study, trial, {**trial.distributions, name: distribution})
            if seen_now.knobs.get(name) != knob:
                break
            scene = seen_now
        return config

    def _choose(
        self,
        study: Study,
        trial: FrozenTrial,
        scene: Scene,
        knob: str,
        distribution: BaseDistribution,
        place: int = 0,
    ) -> int:
        """The row of the config for a trial whose first knob is asked for, after `place` better ones."""
        space = scene.space
        question = question_of(scene, {knob: (distribution,)}, scene.numbers(fixed_by_others(study, trial)))
        asked, mine, left = question.asked, question.searched, question.left
        self._few_left = not asked.names or int(left.sum()) <= _FEW
        column = suggestions.columns(space)[knob]
        if not asked.names:
            left = suggestions.apart(left, column, [*question.rows.values()])
        first = with_usual(self._preset).seed_configs
        seeds = [numbers_at(space, index) for index in seed_indices(space, first)]
        rows = [suggestions.nearest_row(space, seed, mine) for seed in seeds]
        preset = replace(
            self._believing(study, scene),
            seed_configs=tuple(space.config(int(space.candidates[row])) for row in rows),
        )
        history = history_at(study, space, asked, question.rows, self._seed)
        for values, said in crashes(study, scene, history).items():
            self._warned.once(study, values, said)
        ask = partial(propose, space, history, preset, features=self._features, seed=self._seed, strict=False)
        wanted = place + 1 if asked.names else 1
        chosen = ask(n=wanted, allowed=question.again) if question.again.any() else []
        if len(chosen) < wanted:
            chosen += ask(n=wanted - len(chosen), allowed=left & ~question.again)
        for _ in range(0 if asked.names else place):  # all that tells trials apart is this knob
            left = suggestions.apart(left, column, np.searchsorted(space.candidates, chosen).tolist())
            chosen = ask(n=1, allowed=left)
        if chosen:
            return int(np.searchsorted(space.candidates, chosen[-1]))
        if trial.system_attrs.get("fixed_params"):  # enqueued, and tried before: a repetition is wanted
            return int(np.flatnonzero(mine)[0])
        if not asked.names and self._space is None:  # the objective may yet ask for more
            return int(np.random.default_rng([self._seed, trial.number]).choice(np.flatnonzero(mine)))
        said = f"{exhausted(question)}{STOP}"
        if study._thread_local.in_optimize_loop:  # other jobs have begun the last ones: nothing is wrong
            self._warned.once(study, "memory", said if left.any() else None)
            study._storage.set_trial_system_attr(trial._trial_id, REFUSED_KEY, True)
            study.stop()
            raise TrialPruned(said)
        raise SpaceError(said)

    def _late(self, trial: FrozenTrial, scene: Scene, knob: str, values: Sequence[float]) -> float:
        """The value of a knob that was not known of when the trial's config was chosen.

        The usual one in the first trial, or the middle one; any one later.
        """
        if all(earlier.interrupted for earlier in scene.trials):
            usual = USUAL.get(
                knob, values[0 if suggestions.unordered(scene.space, knob) else len(values) // 2]
            )
            return suggestions.closest(scene.space, knob, usual, values)
        drawn = np.random.default_rng([self._seed, trial.number, zlib.crc32(knob.encode())])
        return values[int(drawn.integers(len(values)))]

    def _move(
        self,
        trial: FrozenTrial,
        scene: Scene,
        config: Mapping[str, Number],
        knob: str,
        distribution: BaseDistribution,
    ) -> int | None:
        """The row nearest to a config that has a value of the distribution and all values given before.

        One that was not tried, if there is one; None if none has them all.

        Raises:
            SpaceError: no config has values of all ranges that the trial was asked for.
        """
        space = scene.space
        here = suggestions.within(space, {knob: (distribution,)})
        given = scene.numbers(trial.params)
        pool = here & suggestions.holding(space, given)
        if not pool.any():
            met = {scene.knobs[n]: d for n, d in trial.distributions.items() if n in scene.knobs}
            ranges = {n: (d,) for n, d in met.items() if n in given and not d.single()}
            if not (here & suggestions.within(space, ranges)).any():
                raise SpaceError(
                    f"no config of the search space has {knob} in {distribution} and what the objective asks "
                    f"for of {', '.join(ranges)}; change a range or the space's constraints"
                )
            return None
        ended = [trial for trial in scene.trials if not trial.interrupted]
        rows = suggestions.rows_of(ended, space, scene.asked).values()
        pool = without(pool, suggestions.tried(rows, space, scene.asked))
        nearest = {name: config.get(name, value) for name, value in suggestions.middle(space).items()}
        return suggestions.nearest_row(space, nearest, pool)

    # -- warnings -----------------------------------------------------------------------------------

    def _say_strange(self, study: Study, scene: Scene, name: str, distribution: BaseDistribution) -> None:
        """Warns, once a study, that a parameter is no knob."""
        if self._speaks and (name in scene.knobs or scene.asked.names or not self._searches_own):
            drawn_by = type(self._independent).__name__
            self._warned.once(study, name, strange(scene, self._space, name, distribution, drawn_by))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
