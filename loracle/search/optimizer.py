"""`Optimizer`: ask/tell over `propose`."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from loracle.errors import ConfigError, OutcomeError, SpaceError
from loracle.records.space import Config, SearchSpace, UserBeliefs, Value
from loracle.records.trial import History, Outcome, Trial
from loracle.search.observations import row_of, suspects
from loracle.search.presets import PRESETS, Preset, get_preset, with_beliefs, with_data, with_parameters
from loracle.search.prior import misnamed_knobs
from loracle.search.propose import propose, recommend
from loracle.text.escape import printable
from loracle.text.quantities import show_rough

if TYPE_CHECKING:
    from loracle.language.features import Features


@dataclass
class Optimizer:
    """Ask for configs, tell their outcomes. All state is `history`; every answer comes from `propose`.

    Example:
        optimizer = Optimizer(default_space())
        index, = optimizer.ask()
        optimizer.tell(index, train(optimizer.space.config(index)))

    Attributes:
        space: the candidates.
        preset: how configs are chosen; its name will do.
        features: language features of the candidates, for presets that read prompts.
        seed: makes the search repeatable.
        history: all trials so far.
        parameters: how many the base model has, such as 7e9; None: the first trials show how large it is.
        fraction: of the data that a trial trains on, where its config is for a training on all of it: the
            smaller, the less a score says of that.
        beliefs: what is held likely before the first trial, such as `{"learning_rate": "around 1e-4"}`; with
            configs that are known to be good or bad: `UserBeliefs.of`.

    Raises:
        SpaceError: `space` is no search space, the seed no whole number, or a belief speaks of what the space
            does not have.
        ConfigError: there is no such preset, it reads prompts and there are no features, the number of
            parameters is no positive number, the fraction no share, or the preset reads no beliefs.
    """

    space: SearchSpace
    preset: Preset = field(default_factory=lambda: PRESETS["default"])
    features: Features | None = None
    seed: int = 0
    history: History = field(default_factory=History)
    parameters: float | None = None
    fraction: float = 1.0
    beliefs: UserBeliefs | Mapping[str, Value] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.space, SearchSpace):
            raise SpaceError(
                f"an Optimizer searches a space, such as default_space(); got {_shown(self.space)}"
            )
        if isinstance(self.preset, str):
            self.preset = get_preset(self.preset)
        if self.preset.informed and (said := misnamed_knobs(self.space)):
            warnings.warn(said, stacklevel=3)
        self.preset = with_data(with_parameters(self.preset, self.parameters), self.fraction)
        if self.beliefs:
            if not isinstance(self.beliefs, UserBeliefs):
                self.beliefs = UserBeliefs.of(self.beliefs)
            self.beliefs.doubts(self.space)
            for text in self.beliefs.remarks(self.space):
                warnings.warn(text, stacklevel=3)
            self.preset = with_beliefs(self.preset, self.beliefs)
        if self.preset.reads and self.features is None:
            raise ConfigError(
                "this preset reads prompts: give features (loracle.build_features), or use 'default'"
            )
        if _whole(self.seed) is None:
            raise SpaceError(f"seed is a whole number; got {_shown(self.seed)}")

    def ask(self, n: int = 1) -> list[int]:
        """The next `n` indices; they are pending from now on. Raises like `propose`."""
        if (number := _whole(n)) is None or number < 0:
            raise SpaceError(f"ask takes how many configs are wanted, a whole number; got {_shown(n)}")
        n = number
        indices = propose(self.space, self.history, self.preset, features=self.features, n=n, seed=self.seed)
        first = len(self.history.trials)
        started = tuple(Trial(first + i, index) for i, index in enumerate(indices))
        self.history = History(self.history.trials + started)
        return indices

    def tell(self, index: int, outcome: Outcome | float) -> None:
        """Records what the oldest pending trial of `index` gave, or adds a trial that was never asked for.

        Warns, once, of a value with which every trial crashed.

        Raises:
            SpaceError: the index is not a candidate of the space, or no index.
            OutcomeError: a value that is no finite number; tell an `Outcome` with a `Failure` instead.
        """
        number = _whole(index)
        if number is None:
            raise SpaceError(
                f"tell takes the index of a candidate, as ask gave it; got {_shown(index)}. "
                "The index of a config is space.index(config)"
            )
        index = number
        row_of(self.space, index)
        if not isinstance(outcome, Outcome):
            outcome = Outcome(_finite(outcome))
        elif outcome.value is not None:
            _finite(outcome.value)
        trials = list(self.history.trials)
        for position, trial in enumerate(trials):
            if trial.index == index and trial.outcome is None:
                trials[position] = replace(trial, outcome=outcome)
                break
        else:
            trials.append(Trial(len(trials), index, outcome))
        known = [suspect.key for suspect in suspects(self.space, self.history)]
        self.history = History(tuple(trials))
        for suspect in suspects(self.space, self.history):
            if suspect.key not in known:
                values = ", ".join(
                    f"{name} {show_rough(value, suspect.side)}" for name, value in suspect.values.items()
                )
                warnings.warn(suspect.said(values), stacklevel=2)

    def recommend(self) -> Config:
        """The config to use. Raises like `recommend`."""
        index = recommend(self.space, self.history, self.preset, features=self.features, seed=self.seed)
        return self.space.config(index)


# -- helpers ----------------------------------------------------------------------------------------


def _whole(given: object) -> int | None:
    """A whole number of Python's, NumPy's or Torch's; None for anything else, True and 1.0 as well."""
    plain = _plain(given)
    if isinstance(plain, bool):
        return None
    try:
        return operator.index(plain)  # type: ignore[arg-type]
    except TypeError:
        return None


def _finite(given: object) -> float:
    """A told value. Raises OutcomeError if it is no finite number."""
    plain = _plain(given)
    number = None
    if not isinstance(plain, bool | str | bytes | bytearray):
        try:
            number = float(plain)  # type: ignore[arg-type]
        except OverflowError:  # a whole number beyond 1.8e308
            number = math.inf
        except (TypeError, ValueError):
            pass
    if number is None or not math.isfinite(number):
        raise OutcomeError(
            f"a told value must be finite, a number; got {_shown(given)}. Of a trial that failed, tell "
            "Outcome(None, failure=Failure(FailureKind.DIVERGED, ...))"
        )
    return number


def _plain(given: object) -> object:
    """What an array or tensor of one number holds; anything else as it is."""
    if isinstance(given, np.generic):
        return given.item()
    if getattr(given, "ndim", None) == 0 and hasattr(given, "item"):  # an array, or a tensor
        return given.item()
    return given


def _shown(given: object) -> str:
    """What was given, in one short line."""
    if isinstance(given, int) and abs(given) > 10**18:
        return "a whole number beyond 1e18"  # str refuses more than 4,300 digits
    return printable(repr(given), 60)
