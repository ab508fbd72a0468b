"""A run's trials: an Optuna study whose every change is one atomic record, so that nothing is lost.

A trial is created with its config in one step and finished in one step. What a process that died left running
is `interrupted`: it says nothing, and its config is trained again before anything new is chosen.

The journal in the run folder belongs to one process, which the folder's lock guarantees, so everything that
it finds running is left over. A database serves many processes on many machines: each shows signs of life of
its trials, and what has shown none for a while is left over.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState, create_trial

from loracle.errors import StudyError
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import FAILURE_KEY, INDEX_KEY, Failure, FailureKind, History, Outcome, Trial
from loracle.run.identity import (
    BINDING,
    Identity,
    require_common_settings,
    require_same_contents,
    require_same_space,
)
from loracle.run.storage import backends as storages
from loracle.run.storage.backends import (
    STUDY_NAME,
    NoRunError,
    Storage,
    open_storage,
    open_to_read,
    storage_name,
)

_OUTCOME_KEY = "loracle:outcome"
_SPACE_KEY = "loracle:space"
_SETTINGS_KEY = "loracle:settings"
_CONTENTS_KEY = "loracle:contents"
_ROOM_KEY = "loracle:room"
_VOID_KEY = "loracle:void"  # followed by a trial's number
_BEATS_KEY = "loracle:beats"
_LEFT = "the process ended during the trial"
_VOID = "it crashed for a reason that no config is to blame for, and is run again"


class Study:
    """One run's trials. Made by `open_study`; use as a context manager, or close it."""

    def __init__(self, study: optuna.Study, space: SearchSpace, storage: Storage) -> None:
        self.optuna = study
        self._space = space
        self._storage = storage
        self.recorded_late = False  # whether the run began before contents were recorded
        self._room_key = _ROOM_KEY
        self._finished: dict[int, Trial] = {}  # by number; they do not change any more
        self._ids: dict[int, int] = {}  # Optuna's, of the trials that run here, by number
        self._first_seen: dict[int, float] = {}  # trials without a sign of life; monotonic seconds
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
        return self._storage.shared

    @property
    def room(self) -> float | None:
        """Bytes by which a training may grow, as found when the run began: what proposals depend on.

        Each of several machines that share a storage has its own, from when it joined.
        """
        found = self._storage.ask(lambda: self.optuna.user_attrs).get(self._room_key)
        return None if found is None else float(found)

    def history(self) -> History:
        """All trials, in the order they were started.

        Raises:
            StudyError: the storage is damaged or out of reach.
        """
        trials = tuple(self._trial(frozen) for frozen in self._all())
        void = {key for key in self._storage.ask(lambda: self.optuna.user_attrs) if key.startswith(_VOID_KEY)}
        if void:  # read as if they had been cut short: they say nothing, and their configs come again
            again = _interrupted(_VOID)
            trials = tuple(
                replace(trial, outcome=again) if f"{_VOID_KEY}:{trial.number}" in void else trial
                for trial in trials
            )
        return History(trials)

    def void(self, numbers: Iterable[int]) -> None:
        """Takes finished trials back that say nothing about their configs: they do not count any more."""
        for number in numbers:
            key = f"{_VOID_KEY}:{number}"
            self._storage.ask(lambda key=key: self.optuna.set_user_attr(key, True))  # type: ignore[misc]

    def start(self, index: int) -> int:
        """Records that `index` is being trained; returns the trial's number."""
        config = self._space.config(index)
        trial = create_trial(
            state=TrialState.RUNNING,
            params={knob.name: config[knob.name] for knob in self._space},
            distributions={knob.name: _distribution(knob) for knob in self._space},
            user_attrs={"alpha": config["alpha"]} if "alpha" in config else {},
            system_attrs={INDEX_KEY: index},
        )
        storage, study_id = self._storage.optuna, self.optuna._study_id
        # Should the answer be lost, this makes another; the first is taken over, for it shows no life.
        trial_id = self._storage.ask(lambda: storage.create_new_trial(study_id, template_trial=trial))
        number = self._storage.ask(lambda: storage.get_trial(trial_id)).number
        self._ids[number] = trial_id
        if self.shared:
            self.beat()
            self._storage.ask(lambda: storage.set_trial_system_attr(trial_id, _BEATS_KEY, True))
            if self._pulse is None:
                self._pulse = threading.Thread(target=self._beat_on, daemon=True)
                self._pulse.start()
        return number

    def claim(self, index: int, budget: int | None = None) -> int | None:
        """`start`, unless another process has this config, or the last of `budget` trials: then None.

        Of several processes that take the same at the same time, the lowest trial number keeps it.
        """
        if not self.shared:
            return self.start(index)
        if _taken(self.history().trials, index, budget):  # most races end here, and leave no trace
            return None
        number = self.start(index)
        if _taken(self.history().trials[:number], index, budget):
            self.finish(number, _interrupted("another process took this config"))
            return None
        return number

    def beat(self) -> None:
        """A sign of life of all trials that run here. A thread gives one every 10 seconds."""
        heart = self._storage.optuna
        assert isinstance(heart, BaseHeartbeat)
        for trial_id in list(self._ids.values()):
            self._storage.ask(lambda trial_id=trial_id: heart.record_heartbeat(trial_id))  # type: ignore[misc]

    def finish(self, number: int, outcome: Outcome) -> bool:
        """Records what a trial gave; False if it was taken over meanwhile, and its config is another's."""
        attributes: dict[str, Any] = {_OUTCOME_KEY: _to_json(outcome)}
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

    def _all(self) -> list[FrozenTrial]:
        return self._storage.ask(lambda: self.optuna.get_trials(deepcopy=False))

    def _beat_on(self) -> None:
        while not self._closed.wait(storages.BEAT_SECONDS):
            with contextlib.suppress(StudyError):  # the database is out of reach; the run itself will say so
                self.beat()

    def _left_over(self) -> list[int]:
        pending = [trial for trial in self._all() if not trial.state.is_finished()]
        if not self.shared:
            return [trial.number for trial in pending]
        now, grace = time.monotonic(), storages.GRACE_SECONDS
        if now - self._storage.last_outage < grace:  # the others could not beat either
            return []
        heart = self._storage.optuna
        assert isinstance(heart, BaseHeartbeat)
        silent = set(self._storage.ask(lambda: heart._get_stale_trial_ids(self.optuna._study_id)))
        # One whose process died between its creation and its first beat: clocks of machines differ, so what
        # counts is how long it has been seen here.
        unborn = [trial.number for trial in pending if _BEATS_KEY not in trial.system_attrs]
        self._first_seen = {number: self._first_seen.get(number, now) for number in unborn}
        return [
            trial.number
            for trial in pending
            if trial.number not in self._ids
            and (trial._trial_id in silent or now - self._first_seen.get(trial.number, now) > grace)
        ]

    def _end(self, number: int, attributes: Mapping[str, Any], value: float | None) -> bool:
        storage, study_id = self._storage.optuna, self.optuna._study_id

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
            return self._storage.ask(write)
        except UpdateFinishedTrialError:
            return False

    def _trial(self, frozen: FrozenTrial) -> Trial:
        known = self._finished.get(frozen.number)
        if known is None:
            try:
                known = self._read(frozen)
            except storages.DAMAGE:
                raise StudyError(
                    f"{self._storage.where}: trial {frozen.number} of this run is damaged or was written by "
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
        if not frozen.state.is_finished():
            return Trial(frozen.number, index)
        attributes = frozen.user_attrs
        if frozen.state == TrialState.FAIL and attributes.get(FAILURE_KEY) == FailureKind.INTERRUPTED:
            written = (attributes.get(_OUTCOME_KEY) or {}).get("failure") or {}
            if written.get("kind") != FailureKind.INTERRUPTED:  # it was taken over
                return Trial(frozen.number, index, _interrupted(_LEFT))
        return Trial(frozen.number, index, _from_json(frozen.value, attributes[_OUTCOME_KEY]))


def open_study(
    folder: Path, space: SearchSpace, storage: str | None = None, *, identity: Identity | None = None
) -> Study:
    """Opens the storage of a run, or starts one.

    Args:
        folder: the run folder; its name is the study's name in a database.
        space: what is searched.
        storage: URL of a database; None: the journal in the run folder.
        identity: what the run is made of; compared with what it was when it began. None: not compared.

    Raises:
        StudyError: the storage cannot be reached, is damaged, or belongs to another run.
    """
    binding = binds(folder, storage)
    if storage is None:
        _refuse_unreadable(folder, space, identity, binding)
    opened = open_storage(folder, storage)
    name = _study_name(folder, storage)
    study = _optuna_study(opened, name)
    found = Study(study, space, opened)
    begun = found._all()
    # Of machines that start at the same time the first one decides; one alone may correct itself.
    alone = not opened.shared or (len(begun) > 0 and all(trial.state.is_finished() for trial in begun))
    if identity is not None:
        _hold_identity(found, name, identity, binding=binding, may_change=alone and not binding)
    mine = not begun and not opened.shared
    known = _held(opened, study, _SPACE_KEY, space.fingerprint, late=not begun, change=mine)
    require_same_space(opened.where, known, space.fingerprint)
    return found


def binds(folder: Path, storage: str | None) -> bool:
    """Whether a run has a trial that counts, so that what it is made of must not change any more.

    Raises:
        StudyError: the storage is damaged or out of reach.
    """
    return any(
        trial.state == TrialState.COMPLETE or trial.user_attrs.get(FAILURE_KEY) in BINDING
        for trial in _trials(folder, storage)
    )


def require_trials_here(folder: Path, storage: str | None) -> None:
    """Refuses a storage that is not the one which the trials of a run folder are recorded in.

    Else their files would be overwritten, and final results be taken for those of another search.

    Raises:
        StudyError: the folder holds trials or results that are recorded elsewhere, or nowhere.
    """
    journal = folder / "journal.log"
    if storage is not None and _trials(folder, None):
        raise StudyError(
            f"{folder}: the trials of this run are recorded in {journal}, and not in "
            f"{storage_name(folder, storage)}; leave execution.storage out, or use another output"
        )
    left = [name for name in ("trials", "final") if _holds_files(folder / name)]
    if left and not _trials(folder, storage):
        raise StudyError(
            f"{folder}: holds {' and '.join(f'{name}/' for name in left)} of an earlier search, but no trial "
            f"of it is recorded in {storage_name(folder, storage)}; restore it or set execution.storage as "
            "it was to go on, or use another output to begin anew"
        )


def _trials(folder: Path, storage: str | None) -> list[FrozenTrial]:
    """The trials of a run as they are recorded; none where there is no run."""
    if storage is None and not (folder / "journal.log").exists():
        return []
    try:
        opened = open_to_read(folder, storage)
    except NoRunError:
        return []
    name = _study_name(folder, storage)
    if name not in {study.study_name for study in opened.ask(opened.optuna.get_all_studies)}:
        return []
    study = opened.ask(lambda: optuna.load_study(storage=opened.optuna, study_name=name))
    return opened.ask(lambda: study.get_trials(deepcopy=False))


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _hold_identity(found: Study, name: str, identity: Identity, *, binding: bool, may_change: bool) -> None:
    """Records what a run is made of, as long as nothing binds; compares it from then on."""
    opened, study = found._storage, found.optuna
    found.recorded_late = binding and _CONTENTS_KEY not in opened.ask(lambda: study.user_attrs)
    contents = dict(identity.contents)
    known = _held(opened, study, _CONTENTS_KEY, contents, change=may_change)
    require_same_contents(opened.where, known, contents)
    if identity.settings is not None:
        settings = json.loads(json.dumps(identity.settings))
        known = _held(opened, study, _SETTINGS_KEY, settings, change=may_change)
        require_common_settings(opened.where, name, known, settings)
    if opened.shared:
        found._room_key = f"{_ROOM_KEY}:{identity.machine}"
    _held(opened, study, found._room_key, identity.room, change=not found._all())


def _held(
    opened: Storage, study: optuna.Study, key: str, now: Any, *, change: bool, late: bool = True
) -> Any:
    """What the study holds under a key; `now` is written where there is nothing (if `late`), or `change`."""
    known = opened.ask(lambda: study.user_attrs)
    if (late and key not in known) or (change and known.get(key) != now):
        opened.ask(lambda: study.set_user_attr(key, now))
        known = opened.ask(lambda: study.user_attrs)  # another process may have been faster
    return known.get(key)


def read_history(folder: Path, space: SearchSpace, storage: str | None = None) -> History:
    """The trials of a run that may be going on in another process; nothing is written.

    Raises:
        StudyError: there is no run in this folder or database, or its storage is damaged.
    """
    study = _open_to_read(folder, space, storage)
    return History() if study is None else study.history()


def _open_to_read(folder: Path, space: SearchSpace, storage: str | None) -> Study | None:
    """What is there now; None: a run whose first record is being written."""
    opened = open_to_read(folder, storage)
    name = _study_name(folder, storage)
    names = {study.study_name for study in opened.ask(opened.optuna.get_all_studies)}
    if name not in names:
        if not opened.shared:
            return None
        raise StudyError(f"{opened.where}: there is no run {name!r} here; start it with loracle tune")
    study = opened.ask(lambda: optuna.load_study(storage=opened.optuna, study_name=name))
    return Study(study, space, opened)


def _refuse_unreadable(folder: Path, space: SearchSpace, identity: Identity | None, binding: bool) -> None:
    """Raises what opening a journal would, before anything in it is repaired.

    A journal of another space in which nothing binds is set aside, with its trials.
    """
    if not (folder / "journal.log").exists():
        return
    opened = open_to_read(folder, None)
    if STUDY_NAME not in {study.study_name for study in opened.ask(opened.optuna.get_all_studies)}:
        return
    study = opened.ask(lambda: optuna.load_study(storage=opened.optuna, study_name=STUDY_NAME))
    attributes, begun = study.user_attrs, bool(study.get_trials(deepcopy=False))
    where, known = storage_name(folder, None), attributes.get(_SPACE_KEY)
    if not binding and known is not None and known != space.fingerprint:
        if begun:
            _set_aside(folder)
        return
    if binding and identity is not None and _CONTENTS_KEY in attributes:
        require_same_contents(where, attributes[_CONTENTS_KEY], identity.contents)
    if begun or known is not None:
        require_same_space(where, known, space.fingerprint)
    Study(study, space, opened).history()


def _set_aside(folder: Path) -> None:
    """Gives the journal and the trials of a run that never counted another name: nothing is lost."""
    number = next(n for n in itertools.count(1) if not (folder / f"journal.{n}.log").exists())
    if (folder / "trials").exists():
        os.replace(folder / "trials", folder / f"trials.{number}")
    os.replace(folder / "journal.log", folder / f"journal.{number}.log")


def _optuna_study(opened: Storage, name: str) -> optuna.Study:
    """The study of this name, made where there is none; opening one that is there writes nothing."""
    make = functools.partial(optuna.create_study, direction="maximize", load_if_exists=True)
    known = {study.study_name for study in opened.ask(opened.optuna.get_all_studies)}
    open_it = optuna.load_study if name in known else make
    return opened.ask(lambda: open_it(storage=opened.optuna, study_name=name))


def _study_name(folder: Path, storage: str | None) -> str:
    return STUDY_NAME if storage is None else f"{STUDY_NAME}:{folder.name}"


def _taken(trials: tuple[Trial, ...], index: int, budget: int | None) -> bool:
    count = [trial for trial in trials if not trial.interrupted]
    return any(trial.index == index for trial in count) or (budget is not None and len(count) >= budget)


def _interrupted(reason: str) -> Outcome:
    return Outcome(None, failure=Failure(FailureKind.INTERRUPTED, reason))


def _distribution(knob: Knob) -> BaseDistribution:
    """A distribution that holds the knob's values and that dashboards draw on the knob's scale."""
    low, high = knob.values[0], knob.values[-1]
    logarithmic = knob.scale != "linear"
    if all(float(value).is_integer() for value in knob.values):
        return IntDistribution(int(low), int(high), log=logarithmic)
    return FloatDistribution(float(low), float(high), log=logarithmic)


def _to_json(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    return {
        "metrics": dict(outcome.metrics),
        "seconds": outcome.seconds,
        "failure": None
        if failure is None
        else {"kind": str(failure.kind), "message": failure.message, "traceback": failure.traceback_tail},
    }


def _from_json(value: float | None, content: dict[str, Any]) -> Outcome:
    """Raises one of many exceptions where `content` is not what `_to_json` made."""
    failure, metrics = content["failure"], content["metrics"]
    return Outcome(
        value if failure is None else None,
        {str(name): float(number) for name, number in metrics.items()},
        float(content["seconds"]),
        Failure(FailureKind(failure["kind"]), str(failure["message"]), str(failure["traceback"]))
        if failure
        else None,
    )
