"""What a study asks, as far as its trials say: which parameters are knobs, and which candidates are left."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import PartialFixedSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from loracle.config.spellings import SPELLINGS, meant_by
from loracle.errors import SpaceError
from loracle.records.space import Knob, Number, SearchSpace, UserBeliefs, Value
from loracle.search.observations import without
from loracle.search.optuna_sampler import suggestions
from loracle.search.optuna_sampler.interrupted import was_interrupted
from loracle.search.optuna_sampler.parameters import (
    Seen,
    distributions_of,
    is_own,
    knobs_of,
    number_of,
    seen,
    texts_of,
)
from loracle.search.optuna_sampler.ranges import space_on
from loracle.search.optuna_sampler.suggestions import Asked
from loracle.text.escape import printable

STOP = "; stop here, or widen the space or the ranges"  # what to do where a study has tried everything


@dataclass(frozen=True)
class Scene:
    """A study's trials in the words of one space.

    Attributes:
        space: the candidates.
        knobs: by parameter, the knob of the space that it is.
        trials: that have begun.
        asked: what they were asked for.
    """

    space: SearchSpace
    knobs: Mapping[str, str]
    trials: tuple[Seen, ...]
    asked: Asked

    def numbers(self, params: Mapping[str, object]) -> dict[str, Number]:
        """Those of some parameters that are numbers of a knob, by knob."""
        found = {}
        for name, value in params.items():
            knob = self.knobs.get(name)
            if knob is None:  # it has not been suggested yet
                free = suggestions.names_of(self.space) - set(self.knobs.values())
                meant, usual = meant_by(name, free)
                knob = meant if usual else None
            if knob is not None:
                distribution = self.asked.ranges.get(knob, (None,))[-1]
                texts = texts_of(self.space).get(knob, ())
                number = None
                if distribution or not is_own(knob):
                    number = number_of(knob, _as_choice(value, distribution), distribution, texts)
                if number is not None:
                    found[knob] = number
        return found

    def held(self, beliefs: UserBeliefs) -> UserBeliefs:
        """What is held likely, in the words of the space: parameters that have not been asked for, or have
        one value, are left out, and a number that is probable, or not, is the nearest one that there is.

        Raises:
            SpaceError: a choice that a parameter does not have.
        """
        statements = []
        for name, statement in beliefs.knobs:
            knob = self._called(name)
            if knob in self.space.names and statement.exact:
                (value,) = statement.values
                try:
                    number = self.numbers({self._parameter(name): value})[knob]
                except (KeyError, ValueError):
                    shown = printable(f"{name}: {value}", 100)
                    raise SpaceError(f"beliefs.{shown} is none of its choices{self._there(knob)}") from None
                statement = replace(statement, values=(_nearest(self.space[knob], number),))
            if knob in self.space.values([0]) and self._is_asked(knob):
                statements.append((knob, statement))
        configs = (tuple(map(self._config, kind)) for kind in (beliefs.good, beliefs.bad))
        return UserBeliefs(tuple(statements), *configs)

    def strangers(self, beliefs: UserBeliefs) -> list[str]:
        """Names in them that no parameter has, so far."""
        found = [name for name in beliefs.names if not self._is_asked(self._called(name))]
        return [printable(name, 60) for name in found]

    def _called(self, name: str) -> str:
        """The knob that a belief's name stands for: a parameter's own, or without what stands before it
        (`lr` for `optim/lr`), or another spelling of its knob; the name itself where there is none."""
        if name in self.knobs:
            return self.knobs[name]
        meant, usual = meant_by(name, set(self.knobs.values()))
        if meant and usual:
            return meant
        (only, *more) = [k for own, k in self.knobs.items() if re.split(r"[/.:]", own)[-1] == name] or [name]
        return name if more else only

    def _parameter(self, name: str) -> str:
        """The parameter that a belief's name stands for; the name itself where there is none so far."""
        knob = self._called(name)
        return next((own for own, other in self.knobs.items() if other == knob), name)

    def _is_asked(self, knob: str) -> bool:
        """Whether a knob is asked for, or follows from those that are; any may be until a trial has ended."""
        return not self.asked.names or knob in suggestions.with_derived(self.knobs.values())

    def _there(self, knob: str) -> str:
        """The choices that a parameter has."""
        (*_, last) = self.asked.ranges.get(knob, (None,))
        choices = last.choices if isinstance(last, CategoricalDistribution) else self.space[knob].texts
        return f": {printable(', '.join(map(str, choices)), 200)}" if choices else ", which are numbers"

    def _config(self, given: tuple[tuple[str, Value], ...]) -> tuple[tuple[str, Value], ...]:
        numbers = self.numbers({self._parameter(name): value for name, value in given}).items()
        return tuple(
            (name, _nearest(self.space[name], n) if self.space[name].named else n)
            for name, n in numbers
            if name in self.space.names and self._is_asked(name)
        )


def beliefs_of(given: UserBeliefs | Mapping[str, Any] | None) -> UserBeliefs:
    """What an Optuna user holds likely. Choices may be true, false or none, which stand for their words.

    Raises:
        SpaceError: it is no belief.
    """
    if isinstance(given, UserBeliefs):
        return given
    return UserBeliefs.of(_in_words(given) if isinstance(given, Mapping) else given or {})


def _in_words(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {name: _in_words(value) for name, value in given.items()}
    if isinstance(given, list | tuple):
        return [_in_words(value) for value in given]
    return str(given) if given is None or isinstance(given, bool | np.bool_) else given


def _as_choice(value: object, distribution: BaseDistribution | None) -> object:
    """The choice that a text stands for, where that is no text itself; anything else as it is."""
    if not isinstance(distribution, CategoricalDistribution) or not isinstance(value, str):
        return value
    alike = [choice for choice in distribution.choices if str(choice) == value]
    return value if value in distribution.choices or not alike else alike[0]


def _nearest(knob: Knob, number: Number) -> Value:
    """The value of a knob that a number of a trial stands for, or the nearest one."""
    away = np.abs(knob.numbers - number) if knob.named else knob.distances(number)
    return knob.values[int(np.argmin(away))]


@dataclass(frozen=True)
class Question:
    """What is to be searched.

    Attributes:
        scene: the study.
        asked: what the trials were asked for, and what is asked for now.
        rows: the candidate that each trial counts for, by the trial's number.
        searched: (N,) which candidates, one for each set of values that can be asked for.
        left: (N,) which of them have not been tried, in whatever bracket of a Hyperband pruner.
        again: (N,) those of them whose trial was interrupted.
    """

    scene: Scene
    asked: Asked
    rows: Mapping[int, int]
    searched: npt.NDArray[np.bool_]
    left: npt.NDArray[np.bool_]
    again: npt.NDArray[np.bool_]


def scene_of(
    trials: Sequence[FrozenTrial],
    base: SearchSpace | None,
    now: Mapping[str, BaseDistribution],
    *,
    own: bool,
) -> Scene:
    """A study, by its trials and the distributions of the parameters that are asked for `now`.

    Args:
        trials: that have begun, without the one that is being chosen.
        base: the user's own space; None: the ranges are the space.
        now: by parameter.
        own: whether parameters that are no knobs are searched too.
    """
    met = {**distributions_of(trials), **now}
    known = SPELLINGS.keys() if base is None else suggestions.names_of(base)
    complete = any(t.state.is_finished() and t.distributions and not was_interrupted(t) for t in trials)
    knobs = knobs_of(met, known, lenient=base is not None, own=own, complete=complete)
    texts = texts_of(base)
    asked = suggestions.learn(seen(frozen, knobs, texts) for frozen in trials)
    ranges = dict(asked.ranges)
    for name, distribution in now.items():
        if name in knobs:
            knob = knobs[name]
            others = (
                d
                for d in ranges.get(knob, ())
                if suggestions.identity(d) != suggestions.identity(distribution)
            )
            ranges[knob] = (*others, distribution)
    told = {name: ds for name, ds in ranges.items() if not is_own(name) or not all(d.single() for d in ds)}
    space = space_on(told, base=base, begun=bool(asked.names), trials=len(trials))
    names = suggestions.names_of(space)
    knobs = {name: knob for name, knob in knobs.items() if knob in names or ranges[knob][-1].single()}
    asked = replace(
        asked,
        names=asked.names & names,
        ranges={name: found for name, found in ranges.items() if name in names},
        varying=asked.varying & names,
    )
    return Scene(space, knobs, tuple(seen(frozen, knobs, texts) for frozen in trials), asked)


def question_of(
    scene: Scene, now: Mapping[str, Sequence[BaseDistribution]], fixed: Mapping[str, Number] | None = None
) -> Question:
    """What is to be searched, by what a study's trials were asked for and what is asked for `now`, by knob.

    Args:
        scene: the study.
        now: distributions of what is asked for now.
        fixed: values that others have given to knobs already.
    """
    space, trials, asked, fixed = scene.space, scene.trials, scene.asked, dict(fixed or {})
    ranges: dict[str, Sequence[BaseDistribution]] = {}
    texts = texts_of(space)
    for name, distributions in {**asked.ranges, **now}.items():
        only = None if name in now else suggestions.only_value(name, distributions, texts.get(name, ()))
        if only is not None:
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
    ended = {trial.number for trial in trials if trial.interrupted}
    over = [row for number, row in rows.items() if number not in ended]
    repeated, perhaps = suggestions.repeats(trials, rows, space, asked)
    left = searched & ~suggestions.tried(over, space, asked) & ~repeated
    left = without(left, perhaps)
    cut = standing[np.array([row for number, row in rows.items() if number in ended], dtype=np.int64)]
    return Question(scene, asked, rows, searched, left, left & np.isin(np.arange(len(standing)), cut))


def exhausted(question: Question) -> str:
    """What is said where nothing is left, or nothing that may fit into memory."""
    parameters = {knob: name for name, knob in question.scene.knobs.items()}
    names = ", ".join(parameters.get(name, name) for name in sorted(question.asked.names))
    number, left = int(question.searched.sum()), int(question.left.sum())
    if left:
        which = "the one config that is left" if left == 1 else f"all {left:,} configs that are left"
        return f"{which} ({names}) would take at least as much memory as a trial that ran out of it"
    return f"all {number:,} configs that the objective asks for ({names}) have been tried or are running"


def beyond(question: Question) -> str:
    """What to do if the objective is about to ask for more than it has: that cannot be known here."""
    space, asked = question.scene.space, question.asked
    columns = suggestions.columns(space)
    narrow = [
        f"{name} {suggestions.shown(space, name, values, before='from ')}"
        for name in sorted(asked.names)
        if (values := suggestions.admissible(space, name, asked.ranges.get(name, ())))
        and len(values) < len(np.unique(columns[name]))
    ]
    if not narrow:
        return ""
    return (
        f". So far it asked for {', '.join(narrow)}, and the space holds more: if the range of its "
        "first parameter widens from now on, call optimize again; if another does, begin a new study"
    )


def fixed_by_others(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """What a trial's parameters are whatever is chosen: enqueued, given already, or fixed by a sampler."""
    fixed: dict[str, Any] = {}
    sampler = study.sampler
    while isinstance(sampler, PartialFixedSampler):
        fixed |= sampler._fixed_params
        sampler = sampler._base_sampler
    return {**fixed, **trial.system_attrs.get("fixed_params", {}), **trial.params}
