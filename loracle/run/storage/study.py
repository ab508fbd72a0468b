"""A run's trials: an Optuna study whose every change is one atomic record, so that nothing is lost.

A trial is created with its config in one step and finished in one step. What a process that died left running
is `interrupted`: it says nothing, and its config is trained again before anything new is chosen.

The journal in the run folder belongs to one process, which the folder's lock guarantees, so everything that
it finds running is left over. A database serves many processes on many machines: each shows signs of life of
its trials, and what has shown none for a while is left over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState, create_trial

from loracle.errors import StudyError
from loracle.records.codec import from_plain, to_plain
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import (
    FAILURE_KEY,
    INDEX_KEY,
    TAKEN_BACK,
    TOGETHER_KEY,
    Failure,
    FailureKind,
    History,
    Outcome,
    Trial,
)
from loracle.run.storage import database
from loracle.run.storage.journal import DAMAGE
from loracle.run.storage.storage import Storage

_OUTCOME_KEY = "loracle:outcome"
ROOM_KEY = "loracle:room"  # followed by a machine's name, where several share a storage
WIDTH_KEY = "loracle:trials together"
_VOID_KEY = "loracle:void"  # followed by a trial's number
_BEATS_KEY = "loracle:beats"
_LEFT = "the process ended during the trial"


class Study:
    """One run's trials. Made by `open_study`; use as a context manager, or close it."""

    def __init__(self, study: optuna.Study, space: SearchSpace, storage: Storage) -> None:
        self.optuna = study
        self._space = space
        self.storage = storage
        self.recorded_late = False  # whether the run began before contents were recorded
        self.room_key = ROOM_KEY
        self._finished: dict[int, Trial] = {}  # by number; they do not change any more
        self._ids: dict[int, int] = {}  # Optuna's, of the trials that run here, by number
        self.first_seen: dict[int, float] = {}  # trials without a sign of life; monotonic seconds
        self._closed = threading.Event()
        self._pulse: threading.Thread | None = None

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No more signs of life; what still runs is left to others."""
        self._closed.set()
        if self._pulse is not None:
            self._pulse.join()

    @property
    def shared(self) -> bool:
        """Whether other processes may work on it at the same time."""
        return self.storage.shared

    @property
    def room(self) -> float | None:
        """Bytes by which a training may grow, as found when the run began: what proposals depend on.

        Each of several machines that share a storage has its own, from when it joined.
        """
        found = self.storage.ask(lambda: self.optuna.user_attrs).get(self.room_key)
        return None if found is None else float(found)

    @property
    def together(self) -> int | None:
        """How many configs share a forward pass, where that was measured when the run began."""
        found = self.storage.ask(lambda: self.optuna.user_attrs).get(WIDTH_KEY)
        return None if found is None else int(found)

    def history(self) -> History:
        """All trials, in the order they were started.

        Raises:
            StudyError: the storage is damaged or out of reach.
        """
        trials = tuple(self._trial(frozen) for frozen in self.records())
        void = {key for key in self.storage.ask(lambda: self.optuna.user_attrs) if key.startswith(_VOID_KEY)}
        if void:  # read as if they had been cut short: they say nothing, and their configs come again
            trials = tuple(
                replace(trial, outcome=_taken_back(trial)) if f"{_VOID_KEY}:{trial.number}" in void else trial
                for trial in trials
            )
        return History(trials)

    def records(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them; not to be changed."""
        return self.storage.ask(lambda: self.optuna.get_trials(deepcopy=False))

    def void(self, numbers: Iterable[int]) -> None:
        """Takes finished trials back that say nothing about their configs: they do not count any more."""
        for number in numbers:
            key = f"{_VOID_KEY}:{number}"
            self.storage.ask(lambda key=key: self.optuna.set_user_attr(key, True))  # type: ignore[misc]

    def start(self, index: int, together: Sequence[int] = ()) -> int:
        """Records that `index` is being trained, and with which others; returns the trial's number."""
        config = self._space.config(index)
        trial = create_trial(
            state=TrialState.RUNNING,
            params={knob.name: config[knob.name] for knob in self._space},
            distributions={knob.name: _distribution(knob) for knob in self._space},
            user_attrs={"alpha": config["alpha"]} if "alpha" in config else {},
            system_attrs={INDEX_KEY: index} | ({TOGETHER_KEY: list(together)} if together else {}),
        )
        storage, study_id = self.storage.optuna, self.optuna._study_id
        # Should the answer be lost, this makes another; the first is taken over, for it shows no life.
        trial_id = self.storage.ask(lambda: storage.create_new_trial(study_id, template_trial=trial))
        number = self.storage.ask(lambda: storage.get_trial(trial_id)).number
        self._ids[number] = trial_id
        if self.shared:
            self.beat()
            self.storage.ask(lambda: storage.set_trial_system_attr(trial_id, _BEATS_KEY, True))
            if self._pulse is None:
                self._pulse = threading.Thread(target=self._beat_on, daemon=True)
                self._pulse.start()
        return number

    def claim(self, index: int, budget: int | None = None, together: Sequence[int] = ()) -> int | None:
        """`start`, unless another process has this config, or the last of `budget` trials: then None.

        Of several processes that take the same at the same time, the lowest trial number keeps it.
        """
        if not self.shared:
            return self.start(index, together)
        if taken(self.history().trials, index, budget):  # most races end here, and leave no trace
            return None
        number = self.start(index, together)
        if taken(self.history().trials[:number], index, budget):
            self.finish(number, _interrupted("another process took this config"))
            return None
        return number

    def beat(self) -> None:
        """A sign of life of all trials that run here. A thread gives one every 10 seconds."""
        heart = self.storage.optuna
        assert isinstance(heart, BaseHeartbeat)
        for trial_id in list(self._ids.values()):
            self.storage.ask(lambda trial_id=trial_id: heart.record_heartbeat(trial_id))  # type: ignore[misc]

    def finish(self, number: int, outcome: Outcome) -> bool:
        """Records what a trial gave; False if it was taken over meanwhile, and its config is another's."""
        attributes: dict[str, Any] = {_OUTCOME_KEY: _to_journal(outcome)}
        if outcome.failure is not None:
            attributes[FAILURE_KEY] = str(outcome.failure.kind)
        finished = self._end(number, attributes, outcome.value)
        self._ids.pop(number, None)
        return finished

    def take_over(self) -> list[int]:
        """Marks what dead processes left running as interrupted; returns the configs to train again."""
        for number in self._left_over():
            # Not the outcome: should its process live after all, it may just be writing one.
            self._end(number, {FAILURE_KEY: str(FailureKind.INTERRUPTED)}, None)
        trials = self.history().trials
        done = {trial.index for trial in trials if not trial.interrupted}
        again = dict.fromkeys(trial.index for trial in trials if trial.interrupted)
        return [index for index in again if index not in done]

    # -- helpers --------------------------------------------------------------------------------

    def _beat_on(self) -> None:
        while not self._closed.wait(database.BEAT_SECONDS):
            with contextlib.suppress(StudyError):  # the database is out of reach; the run itself will say so
                self.beat()

    def _left_over(self) -> list[int]:
        pending = [trial for trial in self.records() if not trial.state.is_finished()]
        if not self.shared:
            return [trial.number for trial in pending]
        now, grace = time.monotonic(), database.GRACE_SECONDS
        if now - self.storage.last_outage < grace:  # the others could not beat either
            return []
        heart = self.storage.optuna
        assert isinstance(heart, BaseHeartbeat)
        silent = set(self.storage.ask(lambda: heart._get_stale_trial_ids(self.optuna._study_id)))
        # One whose process died between its creation and its first beat: clocks of machines differ, so what
        # counts is how long it has been seen here.
        unborn = [trial.number for trial in pending if _BEATS_KEY not in trial.system_attrs]
        self.first_seen = {number: self.first_seen.get(number, now) for number in unborn}
        return [
            trial.number
            for trial in pending
            if trial.number not in self._ids
            and (trial._trial_id in silent or now - self.first_seen.get(trial.number, now) > grace)
        ]

    def _end(self, number: int, attributes: Mapping[str, Any], value: float | None) -> bool:
        storage, study_id = self.storage.optuna, self.optuna._study_id

        def write() -> bool:
            trial_id = self._ids.get(number)
            if trial_id is None:
                trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
            for key, content in attributes.items():
                storage.set_trial_user_attr(trial_id, key, content)
            if value is None:
                return storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [value])

        try:
            return self.storage.ask(write)
        except UpdateFinishedTrialError:
            return False

    def _trial(self, frozen: FrozenTrial) -> Trial:
        known = self._finished.get(frozen.number)
        if known is None:
            try:
                known = self._read(frozen)
            except DAMAGE:
                raise StudyError(
                    f"{self.storage.where}: trial {frozen.number} of this run is damaged or was written by "
                    "another program, so it cannot be continued; restore it or use another output"
                ) from None
            if known.outcome is not None:
                self._finished[frozen.number] = known
        return known

    def _read(self, frozen: FrozenTrial) -> Trial:
        """Raises one of many exceptions where a trial is not as `start` and `finish` wrote it."""
        index = frozen.system_attrs[INDEX_KEY]
        if type(index) is not int or not 0 <= index < self._space.size:
            raise ValueError("not an index of the space")
        config = self._space.config(index)
        if frozen.params != {knob.name: config[knob.name] for knob in self._space}:
            raise ValueError("index and params are those of two configs")
        together = tuple(frozen.system_attrs.get(TOGETHER_KEY, ()))
        if not all(type(other) is int and 0 <= other < self._space.size for other in together):
            raise ValueError("not indices of the space")
        if not frozen.state.is_finished():
            return Trial(frozen.number, index, together=together)
        attributes = frozen.user_attrs
        if frozen.state == TrialState.FAIL and attributes.get(FAILURE_KEY) == FailureKind.INTERRUPTED:
            written = (attributes.get(_OUTCOME_KEY) or {}).get("failure") or {}
            if written.get("kind") != FailureKind.INTERRUPTED:  # it was taken over
                return Trial(frozen.number, index, _interrupted(_LEFT), together)
        outcome = _from_journal(frozen.value, attributes[_OUTCOME_KEY])
        return Trial(frozen.number, index, outcome, together)


def taken(trials: tuple[Trial, ...], index: int, budget: int | None) -> bool:
    """Whether a config is another process's, or the budget is spent, after these trials."""
    count = [trial for trial in trials if not trial.interrupted]
    return any(trial.index == index for trial in count) or (budget is not None and len(count) >= budget)


def _taken_back(trial: Trial) -> Outcome:
    failure = trial.outcome.failure if trial.outcome else None
    return _interrupted(f"{TAKEN_BACK}: {failure.message}" if failure else TAKEN_BACK)


def _interrupted(reason: str) -> Outcome:
    return Outcome(None, failure=Failure(FailureKind.INTERRUPTED, reason))


def _distribution(knob: Knob) -> BaseDistribution:
    """A distribution that holds the knob's values and that dashboards draw on the knob's scale."""
    if knob.texts:
        return CategoricalDistribution(knob.texts)
    low, high = knob.numbers.min(), knob.numbers.max()
    logarithmic = knob.scale in ("log2", "log10")
    if all(float(value).is_integer() for value in knob.values):
        return IntDistribution(int(low), int(high), log=logarithmic)
    return FloatDistribution(float(low), float(high), log=logarithmic)


def _to_journal(outcome: Outcome) -> dict[str, Any]:
    """An outcome beside the value, which is the Optuna trial's own."""
    return {name: part for name, part in to_plain(outcome).items() if name != "value"}


def _from_journal(value: float | None, content: dict[str, Any]) -> Outcome:
    """Raises one of many exceptions where `content` is not what `_to_journal` made."""
    failure = content["failure"]
    if failure and "traceback" in failure:  # its name in journals of version 0.1
        failure = {**failure, "traceback_tail": failure["traceback"]}
    return from_plain(Outcome, {**content, "value": value, "failure": failure})
