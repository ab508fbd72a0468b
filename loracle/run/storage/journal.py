"""The journal in a run folder: read whole or refused with the line, and locked against other processes.

A record that was cut off at the journal's end is no damage: it was never finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection

from loracle.errors import StudyError

STUDY_NAME = "loracle"  # in a journal; in a database, followed by the run's
# What replaying a damaged journal, and reading a trial of it, may raise.
DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError),
    *(RuntimeError, OptunaError),
)

_MAXIMIZE = [int(StudyDirection.MAXIMIZE)]
_NOTHING = type(None)
# What stands in Optuna's records, by name.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("op_code", "study_id", "trial_id", "state"), (int,)),
    **dict.fromkeys(("worker_id", "study_name", "datetime_complete"), (str,)),
    **dict.fromkeys(("user_attr", "system_attr", "user_attrs", "system_attrs"), (dict,)),
    **dict.fromkeys(("params", "distributions", "intermediate_values"), (dict,)),
    "datetime_start": (str, _NOTHING),
    "value": (int, float, _NOTHING),
    "values": (list, _NOTHING),
}


def is_journal(path: Path) -> bool:
    """Whether this is the journal of a run: it begins as all of them do."""
    try:
        with path.open("rb") as file:
            first = _record(file.readline(10_000))
    except (FileNotFoundError, IsADirectoryError):
        return False
    return first is not None and first.get("study_name") == STUDY_NAME


class FileLock(JournalFileOpenLock):
    """Journal lock that dies with its process; Optuna's own leave a file that blocks for 30 seconds.

    Who takes it finds whole lines only: what a full disk let through of a record is removed.

    The file is opened once, and what a thread holds it may take again: so an interruption between any two
    steps leaves nothing that the next taking would wait for.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._threads = threading.RLock()  # `flock` tells processes apart, not threads
        self._handle = os.open(journal.with_suffix(".log.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, self._handle)

    def acquire(self) -> bool:
        if not self._held():
            self._threads.acquire()
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            with self._journal.open("rb+") as file:
                if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self._held():
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        while self._held():
            self._threads.release()

    def _held(self) -> bool:
        held: bool = self._threads._is_owned()  # type: ignore[attr-defined]
        return held


class _Records(BaseJournalBackend):
    """Records of a journal in memory."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._records[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise NotImplementedError


def open_journal(path: Path, *, repair: bool) -> BaseStorage:
    """The journal, read to its end; what is there now, and nothing to write to, unless `repair`.

    Raises:
        StudyError: it is damaged; nothing is changed then.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last newline is being written, or was cut off
    records = [_record(line) for line in lines]
    if len(records) > 1 and records[-1] is None:
        records.pop()
    if (damaged := _first_damaged(records)) is not None:
        raise StudyError(f"{path}:{damaged}: the journal is damaged; restore it or use another output")
    if not repair:
        return JournalStorage(_Records([record for record in records if record is not None]))
    length = sum(len(line) + 1 for line in lines[: len(records)])
    if length < len(content):
        os.truncate(path, length)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=FileLock(path)))


def _first_damaged(records: list[dict[str, Any] | None]) -> int | None:
    """The first line that is not as Optuna wrote it, or that it cannot replay; None: all is well."""
    whole = [record for record in records if record is not None]
    if len(whole) < len(records):
        return records.index(None) + 1
    if (line := _broken_reference(whole)) is not None:
        return line
    if not _replays(whole):
        good, bad = 0, len(whole)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if _replays(whole[:middle]) else (good, middle)
        return bad
    return 1 if whole and whole[0].get("study_name") != STUDY_NAME else None


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _broken_reference(records: list[dict[str, Any]]) -> int | None:
    """The first line that deletes the study, or speaks of a study or a trial that is not there, or whose
    parts are of another kind than Optuna's: it passes over such lines, or keeps them until they do harm."""
    trials = 0
    for line, record in enumerate(records, 1):
        if any(type(record[name]) not in kinds for name, kinds in _KINDS.items() if name in record):
            return line
        trial = record.get("trial_id", 0)
        starts = record.get("op_code") == JournalOperation.CREATE_TRIAL
        deletes = record.get("op_code") == JournalOperation.DELETE_STUDY
        if deletes or record.get("study_id", 0) != 0 or record.get("directions", _MAXIMIZE) != _MAXIMIZE:
            return line
        if not starts and "trial_id" in record and not 0 <= trial < trials:
            return line
        trials += starts
    return None


def _replays(records: list[dict[str, Any]]) -> bool:
    try:
        JournalStorage(_Records(records))
    except DAMAGE:
        return False
    return True
