"""Where trials are kept: the journal in a run folder, or a database for many processes, both by Optuna.

Nothing but JSON and numbers is stored and read. A damaged journal is refused with the line, unless the damage
is a record that was cut off at its end. A database that does not answer is asked again for a while.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection
from sqlalchemy import make_url
from sqlalchemy.exc import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SAWarning,
    SQLAlchemyError,
)

from loracle.errors import ConfigError, StudyError
from loracle.run.storage.signals import held_back
from loracle.text import secrets as secret

BEAT_SECONDS = 10  # between two signs of life of a trial in a database
GRACE_SECONDS = 60  # without a sign of life, a trial is taken over
STUDY_NAME = "loracle"  # in a journal; in a database, followed by the run's
PATIENCE_SECONDS = 120.0  # with a database that does not answer

_DATABASES = ("sqlite", "postgresql", "postgresql+psycopg2", "postgresql+psycopg")
# psycopg's settings, in seconds and, the last, milliseconds: a network that fails silently is noticed.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_SQLITE_SECONDS = 30  # to wait for another process that writes
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

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class NoRunError(StudyError):
    """There is no run where one was to be read."""


class LockedError(StudyError):
    """Another process holds a run folder."""


class Storage:
    """Optuna's storage, whose errors are one clear line each.

    Attributes:
        where: for people, without passwords.
        url: of a database; nothing in it is ever shown.
        optuna: the storage itself; everything that reads or writes it goes through `ask`.
        shared: whether other processes may use it at the same time.
        last_outage: when the database was last out of reach; monotonic seconds.
    """

    def __init__(self, where: str, opened: BaseStorage, url: str | None = None) -> None:
        self.where = where
        self.optuna = opened
        self.url = url
        self.shared = url is not None
        self.last_outage = -float("inf")

    def ask(self, action: Callable[[], _Found]) -> _Found:
        """What `action` gives; it is tried again while a database is out of reach.

        Ctrl-C and its like wait for the end of a change to a journal: half of one would leave memory and file
        apart. A database undoes half a change by itself, and may take long to answer.

        Raises:
            StudyError: the storage cannot be used.
        """
        began, pause = time.monotonic(), 0.1
        while True:
            try:
                with nullcontext() if self.shared else held_back():
                    return action()
            except (SQLAlchemyError, StorageInternalError) as error:
                self.last_outage = time.monotonic()
                if not _passes(error) or self.last_outage - began > PATIENCE_SECONDS:
                    raise _unusable(self.where, self.url, error) from None
                if pause == 0.1:
                    _log.warning("%s does not answer; trying again: %s", self.where, _reason(error, self.url))
            except OSError as error:
                raise StudyError(
                    f"{self.where}: {error.strerror or error}; nothing that was finished is lost, and the "
                    "same command continues once it can be written"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def open_storage(folder: Path, storage: str | None) -> Storage:
    """Opens the storage of a run to write it.

    A last line of a journal that was cut off when the machine went down is removed: its record was never
    finished.

    Args:
        folder: the run folder.
        storage: URL of a database; None: the journal in the run folder.

    Raises:
        StudyError: it cannot be used, or is damaged.
    """
    where = storage_name(folder, storage)
    if storage is not None:
        return _database(where, storage)
    try:
        with held_back():
            return Storage(where, _open_journal(folder / "journal.log", repair=True))
    except OSError as error:
        raise StudyError(f"{where}: {error.strerror or error}") from None


def open_to_read(folder: Path, storage: str | None) -> Storage:
    """Opens the storage of a run that may be going on elsewhere.

    Raises:
        StudyError: it is not there, cannot be used, or is damaged.
    """
    where = storage_name(folder, storage)
    path = folder / "journal.log" if storage is None else _sqlite_file(_url(storage))
    if path is not None and not path.exists():
        raise NoRunError(f"{folder}: there is no run here (no {path.name}); start it with loracle tune")
    if storage is not None:
        return _database(where, storage)
    return Storage(where, _open_journal(folder / "journal.log", repair=False))


def storage_name(folder: Path, storage: str | None) -> str:
    """Where a run is stored, for people: without the password of a database.

    Raises:
        ConfigError: see `secret.expanded`.
    """
    return str(folder / "journal.log") if storage is None else secret.shown(_url(storage))


def is_journal(path: Path) -> bool:
    """Whether this is the journal of a run: it begins as all of them do."""
    try:
        with path.open("rb") as file:
            first = _record(file.readline(10_000))
    except (FileNotFoundError, IsADirectoryError):
        return False
    return first is not None and first.get("study_name") == STUDY_NAME


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process; the system frees it when the process ends, however it ends.

    Raises:
        LockedError: another process holds it.
        StudyError: the folder cannot be written.
    """
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 32).decode(errors="replace") or "unknown"
            raise LockedError(
                f"{folder}: another loracle process (pid {owner}) works on this run; wait for it or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


# -- the journal ------------------------------------------------------------------------------------


class _FileLock(JournalFileOpenLock):
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


def _open_journal(path: Path, *, repair: bool) -> BaseStorage:
    """The journal, read to its end; what is there now, and nothing to write to, unless `repair`.

    Raises:
        StudyError: it is damaged; nothing is changed then.
    """
    content = path.read_bytes() if path.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last newline is being written, or was cut off
    records = [_record(line) for line in lines]
    if records and records[-1] is None:
        records.pop()
    if (damaged := _first_damaged(records)) is not None:
        raise StudyError(f"{path}:{damaged}: the journal is damaged; restore it or use another output")
    if not repair:
        return JournalStorage(_Records([record for record in records if record is not None]))
    length = sum(len(line) + 1 for line in lines[: len(records)])
    if length < len(content):
        os.truncate(path, length)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=_FileLock(path)))


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


# -- databases --------------------------------------------------------------------------------------


def _url(storage: str) -> str:
    return secret.expanded(storage, "execution.storage")


def _database(where: str, storage: str) -> Storage:
    url = _url(storage)
    return Storage(where, _open_database(where, url), url)


def _open_database(where: str, url: str) -> BaseStorage:
    """Optuna's storage of a database, with heartbeats; a connection that was cut is made anew."""
    scheme = url.partition("://")[0]
    if scheme not in _DATABASES or "://" not in url:
        raise StudyError(
            f"execution.storage: {where!r} is no database; give postgresql://user@host/name or sqlite:///file"
        )
    connection: dict[str, Any] = {"timeout": _SQLITE_SECONDS}
    if scheme != "sqlite":
        try:
            secret.checked(url)
        except ConfigError as error:
            raise StudyError(str(error)) from None
        url = f"{_driver(scheme)}{url[len(scheme) :]}"
        connection = {name: value for name, value in _CONNECTION.items() if f"{name}=" not in url}
    elif _sqlite_file(url) is None:
        raise StudyError("execution.storage: SQLite needs a file that all processes see: sqlite:///file")
    attempts = 5
    while True:
        attempts -= 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                warnings.filterwarnings("error", "Query string argument", SAWarning)  # it would be ignored
                rdb = optuna.storages.RDBStorage(
                    url.replace("{", "{{").replace("}", "}}"),  # Optuna fills in templates
                    engine_kwargs={"pool_pre_ping": True, "connect_args": connection},
                    heartbeat_interval=BEAT_SECONDS,
                    grace_period=GRACE_SECONDS,
                )
            return optuna.storages.get_storage(rdb)
        except (SQLAlchemyError, StorageInternalError) as error:
            if not attempts or not _is_race(error):
                raise _unusable(where, url, error) from None
            time.sleep(0.2)
        # Driver, port, schema of another Optuna, a parameter that nobody knows.
        except (ImportError, ValueError, RuntimeError, SAWarning) as error:
            raise _unusable(where, url, error) from None


def _driver(scheme: str) -> str:
    """The scheme with a driver that is installed: SQLAlchemy's own choice differs by version."""
    wanted = ["psycopg2", "psycopg"] if scheme == "postgresql" else [scheme.partition("+")[2]]
    for driver in wanted:
        if find_spec(driver) is not None:
            return f"postgresql+{driver}"
    raise StudyError("execution.storage: PostgreSQL needs a driver: pip install 'loracle[postgres]'")


def _sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None: it is another one, or in memory."""
    if not url.startswith("sqlite:"):
        return None
    try:
        name = make_url(url).database
    except (SQLAlchemyError, ValueError):
        return None
    return None if name in (None, "", ":memory:") else Path(str(name))


def _passes(error: BaseException) -> bool:
    """Whether it is worth to try again: the connection was lost, or a lock was held for too long."""
    cause = _cause(error)
    if "sqlite3" in type(getattr(cause, "orig", None)).__module__:
        return "locked" in str(cause)
    return isinstance(cause, OperationalError | InterfaceError)


def _is_race(error: BaseException) -> bool:
    """Whether another process made the same tables at the same time."""
    cause = _cause(error)
    return isinstance(cause, IntegrityError | ProgrammingError | OperationalError) and any(
        sign in str(cause) for sign in ("already exists", "duplicate key", "UNIQUE", "locked")
    )


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error


def _reason(error: BaseException, url: str | None) -> str:
    cause = _cause(error)
    text = " ".join(str(getattr(cause, "orig", None) or cause).split())
    return (text if url is None else secret.scrubbed(text, url))[:200]


def _unusable(where: str, url: str | None, error: BaseException) -> StudyError:
    return StudyError(f"{where}: the storage cannot be used: {_reason(error, url)}")
