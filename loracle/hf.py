"""`search`: Loracle's search around a trainer of transformers or TRL that is the user's own.

Each trial is one trainer that the user's function makes for a config: it trains, and its `evaluate()` gives
the value. Trials are kept in a folder, so that the same call goes on where it was stopped.

    result = loracle.hf.search(make_trainer, {"learning_rate": (1e-5, 1e-2), "r": [8, 16, 32]}, trials=20)
"""

from __future__ import annotations

import gc
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from loracle.config.spellings import SPELLINGS, meant_by
from loracle.errors import ConfigError, SpaceError, StudyError
from loracle.own_trainer.direction import sign_of
from loracle.own_trainer.watched import Trainer, Watched, evaluated, is_number, went
from loracle.records.events import Listener, TrialFinished, TrialStarted
from loracle.records.failures import failure_of, kinds_of
from loracle.records.space import SearchSpace, UserBeliefs, default_space, with_alpha
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.run.groups import exhausted
from loracle.run.identity import Identity
from loracle.run.search import Search
from loracle.run.storage.lock import run_lock
from loracle.run.storage.opening import begun_space, open_study
from loracle.run.storage.study import Study
from loracle.search.observations import blame, crashed_in_a_row, fitting, suspects, value_of
from loracle.search.optuna_sampler.parameters import knobs_of, numbers_at, spelled
from loracle.search.optuna_sampler.question import Scene, beliefs_of
from loracle.search.optuna_sampler.ranges import KNOWN, space_on, with_usual
from loracle.search.optuna_sampler.suggestions import Asked
from loracle.search.presets import (
    EnsembleSettings,
    Preset,
    get_preset,
    with_beliefs,
    with_data,
    with_parameters,
)
from loracle.search.prior import misnamed_knobs
from loracle.text.escape import printable
from loracle.text.quantities import show_rough

# Knobs of which a pair of whole numbers are the ends, and not the values.
_CONTINUOUS = ("learning_rate", "dropout", "weight_decay", "warmup_fraction", "max_gradient_norm")
_CRASHES_IN_A_ROW = 3  # then the cause is hardly the configs


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        params: the config to use, in the names that the function was given.
        value: what its trial scored, as `evaluate()` gave it.
        trials: all configs and what came of them, in order; values are such that larger is better.
        direction: of the metric, `minimize` or `maximize`.
        lost: guards that the config to use does not keep, as none that was tried keeps them all.
    """

    params: Mapping[str, Any]
    value: float
    trials: tuple[tuple[Mapping[str, Any], Outcome], ...]
    direction: str = "minimize"
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Names:
    """The space of a search, and how the user writes a config of it."""

    space: SearchSpace
    knobs: Mapping[str, str]
    distributions: Mapping[str, BaseDistribution]

    def held(self, beliefs: UserBeliefs | Mapping[str, Any]) -> UserBeliefs:
        """What is held likely, by knob; what makes no difference is warned of.

        Raises:
            SpaceError: it cannot be held of the space.
        """
        said = beliefs_of(beliefs)
        scene = None
        if self.knobs:
            ranges = {self.knobs[name]: (found,) for name, found in self.distributions.items()}
            scene = Scene(self.space, self.knobs, (), Asked(frozenset(ranges), ranges, frozenset(), {}))
            if strange := [name for name in said.names if name not in self.knobs]:
                there = ", ".join(self.knobs)
                raise SpaceError(f"beliefs: {printable(strange[0], 60)} is no parameter; there are {there}")
        found = said if scene is None else scene.held(said)
        found.doubts(self.space)
        for text in said.remarks(self.space, *([] if scene is None else [scene.held])):
            warnings.warn(text, stacklevel=3)
        return found

    def params(self, index: int) -> dict[str, Any]:
        if not self.knobs:
            return with_alpha(self.space.config(index))
        found, numbers = self.knobs.items(), numbers_at(self.space, index)
        return {name: spelled(knob, numbers[knob], self.distributions[name]) for name, knob in found}

    def shown(self, index: int, knobs: Collection[str], side: int = 0) -> str:
        """Some of a config's values, in one line; `side` as of a suspect."""
        params = self.params(index)
        mine = {name: value for name, value in params.items() if self.knobs.get(name, name) in knobs}
        return printable(", ".join(f"{name} {show_rough(value, side)}" for name, value in mine.items()))


def search(
    make_trainer: Callable[[dict[str, Any]], Trainer],
    space: SearchSpace | Mapping[str, Any] | None = None,
    *,
    trials: int = 30,
    metric: str = "eval_loss",
    direction: str | None = None,
    folder: str | Path | None = None,
    preset: str = "default",
    parameters: float | None = None,
    guards: Mapping[str, Mapping[str, Any]] | None = None,
    fraction: float = 1.0,
    beliefs: UserBeliefs | Mapping[str, Any] | None = None,
    seed: int = 0,
    listen: Listener = lambda event: None,
) -> Found:
    """Searches for the config with which the user's own trainer does best.

    Args:
        make_trainer: makes a new trainer with its model, for a config by the names in `space`, once a trial.
        space: by name, a list of choices, a pair (low, high), or an Optuna distribution; or a `SearchSpace`;
            None: the default space. Usual names of knobs (`lr`, `lora_r`, ...) are known for what they are.
        trials: how many, those of earlier calls in the same folder included.
        metric: key of what `evaluate()` returns.
        direction: `minimize` or `maximize`; None: as the metric's name says (`own_trainer/direction.py`).
        folder: where trials are kept; None: nowhere, and the search cannot be continued.
        preset: one that reads no prompts.
        parameters: how many the base model has, such as 7e9; None: the first trials show how large it is.
        guards: what must not be lost, by keys of what `evaluate()` returns; each with `tolerance` (a number,
            or a part of what the base model has, "2 %", the default), `direction` (as with `metric`), and
            `base`, what the base model has; else the first trainer evaluates before it trains.
        fraction: of the data that `make_trainer` trains on, where the config is for a training on all of it.
        beliefs: held likely beforehand: `{"lr": "around 1e-4", "lora_r": "at least 32"}`, or `UserBeliefs`.
        seed: makes the search repeatable.
        listen: told of each trial that begins and ends.

    A trial that raises is out of memory, or crashed; a value that is not finite is `diverged`. Three crashes
    in a row end the search, or a warning names the values that explain them. Warnings say where nothing is
    left before `trials` are done, and where every config loses what must not be lost.

    Raises:
        SpaceError: a space that is none, or a belief about what it does not have.
        ConfigError: no such preset, direction or metric, or a name that does not say the direction.
        StudyError: the folder belongs to another search, or the trainer fails for every config.
    """
    sign, known = sign_of(metric, direction), get_preset(preset, language=False)
    names, sized = _names(space, known, folder), with_parameters(with_usual(known), parameters)
    chosen = with_beliefs(with_data(sized, fraction), names.held(beliefs or {}))
    watched = Watched.of(guards or {})
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()) if folder is None else folder)
        place.mkdir(parents=True, exist_ok=True)
        stack.enter_context(run_lock(place))
        identity = Identity(watched.contents | _scored_by(metric, sign) | _held(chosen))
        study = stack.enter_context(open_study(place, names.space, identity=identity))
        watched = replace(watched, path=place / "guards.json")
        train = partial(_run, study, make_trainer=make_trainer, metric=metric, sign=sign, watched=watched)
        chooser = Search(names.space, chosen, None, seed)
        history = _train_all(study, names, chooser, train, trials, listen)
    return _found(names, history, chooser.leader(history), sign)


def _found(names: _Names, history: History, best: Trial | None, sign: float) -> Found:
    if best is None:
        raise SpaceError(f"no trial has succeeded, so there is nothing to recommend{_failed(history)}")
    assert best.outcome is not None
    lost, direction = best.outcome.broken, "maximize" if sign > 0 else "minimize"
    if lost:
        told = (f"{printable(name, 60)}, {went(best.outcome.guards[name])}" for name in lost)
        warnings.warn(
            "every config that was tried loses what must not be lost; the one to use loses the least: "
            f"{'; '.join(told)}",
            stacklevel=3,
        )
    return Found(
        names.params(best.index), sign * value_of(best), _told(names, history), direction, tuple(lost)
    )


def _kind(failure: Failure | None) -> tuple[object, ...]:
    """What failures of one cause have in common, whatever numbers they name; empty: it is the config's."""
    if failure is None or failure.kind is FailureKind.DIVERGED:
        return ()
    return failure.kind, re.sub(r"\d+", "", failure.message)


def _failed(history: History) -> str:
    """How all trials failed, as the end of a sentence."""
    failures = [trial.outcome.failure for trial in history.counted if trial.outcome and trial.outcome.failure]
    if not failures:
        return ""
    return f": {kinds_of(failures)}, the last one with: {printable(failures[-1].message, 300)}"


def _held(preset: Preset) -> dict[str, str]:
    """What the user holds likely, which a search keeps."""
    settings = preset.surrogate
    beliefs = settings.beliefs if isinstance(settings, EnsembleSettings) else None
    return {"beliefs": repr(beliefs)} if beliefs else {}


def _scored_by(metric: str, sign: float) -> dict[str, str]:
    return {"metric": f"{metric}, {'larger' if sign > 0 else 'smaller'} is better"}


def _told(names: _Names, history: History) -> tuple[tuple[Mapping[str, Any], Outcome], ...]:
    return tuple((names.params(t.index), t.outcome) for t in history.finished if t.outcome)


def _train_all(
    study: Study,
    names: _Names,
    chooser: Search,
    train: Callable[[int, dict[str, Any]], Outcome],
    trials: int,
    listen: Listener,
) -> History:
    """Trains until so many trials count; what an earlier call left half done comes first."""
    again, told = study.take_over(), set[tuple[object, ...]]()
    while (done := len(study.history().counted)) < trials:
        index = again.pop(0) if again else chooser.next(study.history())
        if index is None:
            said = exhausted(chooser, study.history())
            warnings.warn(f"the search ends after {done} of {trials} trials: {said}", stacklevel=3)
            break
        config = names.params(index)
        number = study.start(index)
        listen(TrialStarted(done, trials, config, number))
        outcome = train(number, dict(config))
        if (kind := _kind(outcome.failure)) and kind not in told:
            assert outcome.failure is not None
            said = printable(outcome.failure.message, 300)
            warnings.warn(f"trial {number} gives no score ({outcome.failure.kind}): {said}", stacklevel=3)
            told.add(kind)
        history = study.history()
        ended = len(history.counted)
        best, use = chooser.best(history), chooser.leader(history)
        trial = Trial(number, index, outcome)
        listen(TrialFinished(trial, config, best, ended, trials, None, recommended=use))
        for suspect in suspects(names.space, history):
            if suspect.key not in told:
                values = names.shown(suspect.trials[0].index, suspect.values, suspect.side)
                warnings.warn(suspect.said(values), stacklevel=3)
                told.add(suspect.key)
        _refuse_broken(study, names)
    return study.history()


# -- one trial --------------------------------------------------------------------------------------


def _run(
    study: Study,
    number: int,
    params: dict[str, Any],
    *,
    make_trainer: Callable[[dict[str, Any]], Trainer],
    metric: str,
    sign: float,
    watched: Watched,
) -> Outcome:
    """Trains one config, and records what it gave."""
    begun = time.monotonic()
    try:
        bases, metrics = _trained(make_trainer, params, watched)
    except (KeyboardInterrupt, SystemExit):
        study.finish(number, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "interrupted")))
        raise
    except Exception as error:  # the user's code: whatever it raises is a failed trial
        failure = failure_of(error)
        if isinstance(error, FloatingPointError):
            failure = replace(failure, kind=FailureKind.DIVERGED)
        outcome = Outcome(None, seconds=time.monotonic() - begun, failure=failure)
    else:
        for name in (metric, *watched.guards):
            if not is_number(metrics.get(name)) or (name in watched.unknown and name not in bases):
                study.finish(
                    number, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "no such metric"))
                )
                known = ", ".join(printable(str(name), 40) for name in sorted(metrics)) or "nothing"
                raise ConfigError(f"evaluate() gives no number {name!r}; it gives {known}")
        outcome = _scored(metrics, metric, sign, time.monotonic() - begun)
        if outcome.failure is None:
            outcome = watched.read(outcome, metrics, bases)
    finally:
        _free()
    study.finish(number, outcome)
    return outcome


def _trained(
    make_trainer: Callable[[dict[str, Any]], Trainer], params: dict[str, Any], watched: Watched
) -> tuple[Mapping[str, float], Mapping[str, Any]]:
    """What the base model has of guards that nobody said it of, and what `evaluate()` gives at the end."""
    trainer = make_trainer(params)
    bases = watched.bases(trainer)
    trainer.train()
    return bases, evaluated(trainer)


def _scored(metrics: Mapping[str, Any], metric: str, sign: float, seconds: float) -> Outcome:
    """What `evaluate()` gave, the metric among it, as an outcome."""
    numbers = {str(k): float(v) for k, v in metrics.items() if isinstance(v, bool) or is_number(v)}
    value = numbers[metric]
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    if not math.isfinite(value):
        failure = Failure(FailureKind.DIVERGED, f"{metric} is {value}")
        return Outcome(None, finite, seconds, failure)
    return Outcome(sign * value, finite, seconds)


def _free() -> None:
    """Gives back what a trainer held: its circles of references, and the device's memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _refuse_broken(study: Study, names: _Names) -> None:
    """Raises StudyError where the last trials have crashed, or ran out of memory though their config needs no
    more than others; they are taken back and count for nothing."""
    history = study.history()
    last = history.counted[-_CRASHES_IN_A_ROW:]
    kinds = [trial.outcome.failure.kind for trial in last if trial.outcome and trial.outcome.failure]
    of_memory = kinds == [FailureKind.OUT_OF_MEMORY] * _CRASHES_IN_A_ROW
    if of_memory and fitting(names.space, history).all():
        study.void(trial.number for trial in last)
        raise StudyError(
            f"the trainer ran out of memory {len(last)} times in a row, and no config of the space needs "
            "less; free memory, or train with a smaller batch or sequence"
        )
    row = crashed_in_a_row(history.counted)
    if why := blame(names.space, history, row, _CRASHES_IN_A_ROW, names.shown):
        study.void(trial.number for trial in row)
        outcome = row[-1].outcome
        raise StudyError(
            f"the trainer crashed {len(row)} times in a row, {why}: "
            f"{outcome and outcome.failure and outcome.failure.message}"
        )


# -- arguments --------------------------------------------------------------------------------------


def _names(
    space: SearchSpace | Mapping[str, Any] | None, preset: Preset, folder: str | Path | None
) -> _Names:
    if space is None or isinstance(space, SearchSpace):
        if space is not None and preset.informed and (said := misnamed_knobs(space)):
            warnings.warn(said, stacklevel=3)
        return _Names(default_space() if space is None else space, {}, {})
    if not isinstance(space, Mapping) or not space:
        raise SpaceError(
            f"a space maps names to lists of choices or pairs (low, high); got {printable(repr(space), 60)}"
        )
    distributions = {name: _distribution(name, given) for name, given in space.items()}
    now, before = (_laid(distributions, as_before=as_before) for as_before in (False, True))
    begun = None if folder is None else begun_space(Path(folder))
    return before if begun == before.space.fingerprint else now


def _laid(distributions: Mapping[str, BaseDistribution], *, as_before: bool) -> _Names:
    """The candidates on some distributions, now or `as_before`: of folders that were begun then."""
    knobs = knobs_of(distributions, SPELLINGS.keys(), lenient=False, own=True, as_before=as_before)
    ranges = {knobs[name]: (distribution,) for name, distribution in distributions.items()}
    found = space_on(ranges, base=None, begun=True, trials=100, usual=KNOWN, as_before=as_before)
    if not set(ranges) <= set(with_alpha(found.config(0))):
        count = len(distributions)
        raise SpaceError(f"{count} parameters have too many combinations to search; leave some out")
    return _Names(found, knobs, distributions)


def _distribution(name: str, given: Any) -> BaseDistribution:
    """A list of choices, a pair (low, high), one value, or Optuna's own."""
    if isinstance(given, BaseDistribution):
        return given
    pair = isinstance(given, tuple) and len(given) == 2
    meant, usual = meant_by(name, SPELLINGS)
    continuous = usual and meant in _CONTINUOUS
    if usual:
        given = _in_numbers(given)
    try:
        if (
            pair
            and all(isinstance(end, int) and not isinstance(end, bool) for end in given)
            and not continuous
        ):
            return IntDistribution(*given)
        if pair:
            return FloatDistribution(float(given[0]), float(given[1]))
        if isinstance(given, Sequence) and not isinstance(given, str) and len(given):
            return CategoricalDistribution(list(given))
        if given is None or isinstance(given, bool | int | float | str):
            return CategoricalDistribution([given])
    except (TypeError, ValueError) as error:
        raise SpaceError(f"{name}: {error}") from None
    raise SpaceError(f"{name}: a list of choices, or a pair (low, high); got {printable(repr(given), 60)}")


def _in_numbers(given: Any) -> Any:
    """The choices, or the one value, of a knob that is a number, where texts among them say numbers (as
    YAML reads 1e-4: `"1e-4"`); else as they were given."""
    if isinstance(given, str):
        try:
            return int(given) if re.fullmatch(r"\s*[+-]?\d+\s*", given) else float(given)
        except ValueError:
            return given
    if not isinstance(given, list) or any(isinstance(_in_numbers(one), str) for one in given):
        return given
    return [_in_numbers(one) for one in given]
