"""The run's storage: an Optuna study whose every change is one atomic record, so that nothing is lost.

A trial is created with its config in one step and finished in one step. What a killed process left running is
`interrupted`: it says nothing, and its config is trained again before anything new is chosen.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial

from loracle.errors import StudyError
from loracle.sampler import FAILURE_KEY, INDEX_KEY
from loracle.space import Knob, SearchSpace
from loracle.trial import Failure, FailureKind, History, Outcome, Trial

_NAME = "loracle"
_OUTCOME_KEY = "loracle:outcome"
_SPACE_KEY = "loracle:space"


class Study:
    """One run's trials. Made by `open_study`."""

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self.optuna = study
        self._space = space

    def history(self) -> History:
        """All trials, in the order they were started."""
        return History(tuple(self._trial(frozen) for frozen in self.optuna.get_trials(deepcopy=False)))

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
        storage = self.optuna._storage
        trial_id = storage.create_new_trial(self.optuna._study_id, template_trial=trial)
        return storage.get_trial(trial_id).number

    def finish(self, number: int, outcome: Outcome) -> None:
        """Records what a trial gave."""
        storage = self.optuna._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)
        storage.set_trial_user_attr(trial_id, _OUTCOME_KEY, _to_json(outcome))
        if outcome.failure is not None:
            storage.set_trial_user_attr(trial_id, FAILURE_KEY, str(outcome.failure.kind))
        if outcome.value is None:
            storage.set_trial_state_values(trial_id, TrialState.FAIL)
        else:
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [outcome.value])

    def take_over(self) -> list[int]:
        """Marks what a dead process left running as interrupted; returns the configs to train again."""
        for trial in self.history().pending:
            self.finish(
                trial.number,
                Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "the process ended during the trial")),
            )
        history = self.history()
        done = {trial.index for trial in history.trials if not trial.interrupted}
        again = dict.fromkeys(trial.index for trial in history.trials if trial.interrupted)
        return [index for index in again if index not in done]

    def _trial(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        finished = frozen.state.is_finished()
        if INDEX_KEY not in frozen.system_attrs or (finished and _OUTCOME_KEY not in frozen.user_attrs):
            raise StudyError(
                f"trial {frozen.number} of this run was written by another program, so it cannot be "
                "continued; use another output"
            )
        index = int(frozen.system_attrs[INDEX_KEY])
        if not finished:
            return Trial(frozen.number, index)
        return Trial(frozen.number, index, _from_json(frozen.value, frozen.user_attrs[_OUTCOME_KEY]))


def open_study(folder: Path, space: SearchSpace) -> Study:
    """Opens the journal of a run folder, or starts one.

    A last line that was cut off when the machine went down is removed: its record was never finished.

    Raises:
        StudyError: the journal is damaged elsewhere, or belongs to another search space.
    """
    path = folder / "journal.log"
    _drop_unfinished_line(path)
    study = optuna.create_study(
        storage=_storage(path), study_name=_NAME, direction="maximize", load_if_exists=True
    )
    known = study.user_attrs.get(_SPACE_KEY)
    if known is None:
        study.set_user_attr(_SPACE_KEY, space.fingerprint)
    elif known != space.fingerprint:
        raise StudyError(
            f"{path}: this run searched another space (fingerprint {known}, now {space.fingerprint}); "
            "undo the change or use another output"
        )
    return Study(study, space)


def read_history(folder: Path, space: SearchSpace) -> History:
    """The trials of a run that may be going on in another process; nothing is written.

    Raises:
        StudyError: there is no run in this folder, or its journal is damaged.
    """
    path = folder / "journal.log"
    if not path.exists():
        raise StudyError(f"{folder}: there is no run here (no journal.log); start it with loracle tune")
    storage = _storage(path)
    try:
        study = optuna.load_study(storage=storage, study_name=_NAME)
    except KeyError:
        return History()
    return Study(study, space).history()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process; the system frees it when the process ends, however it ends.

    Raises:
        StudyError: another process holds it.
    """
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode(errors="replace") or "unknown"
            raise StudyError(
                f"{folder}: another loracle process (pid {owner}) works on this run; wait for it or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


class _FileLock(JournalFileOpenLock):
    """Journal lock that dies with its process; Optuna's own leave a file that blocks for 30 seconds."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_suffix(".log.lock")
        self._handles: list[int] = []

    def acquire(self) -> bool:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handles.append(handle)
        return True

    def release(self) -> None:
        os.close(self._handles.pop())


def _storage(path: Path) -> BaseStorage:
    """The journal, read to its end."""
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_FileLock(path)))
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path}: the journal is damaged ({error}); restore it or use another output"
        ) from None


def _drop_unfinished_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


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
    failure = content["failure"]
    return Outcome(
        value if failure is None else None,
        content["metrics"],
        content["seconds"],
        Failure(FailureKind(failure["kind"]), failure["message"], failure["traceback"]) if failure else None,
    )
