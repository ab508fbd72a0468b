"""Where trials are kept: the journal in a run folder, or a database for many processes, both by Optuna.

Nothing but JSON and numbers is stored and read. A damaged journal is refused with the line, unless the damage
is a record that was cut off at its end. A database that does not answer is asked again for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

from loracle.errors import StudyError
from loracle.run.storage.database import open_database, passes, reason, sqlite_file, unusable
from loracle.run.storage.journal import open_journal
from loracle.run.storage.signals import held_back
from loracle.text import secrets as secret

PATIENCE_SECONDS = 120.0  # with a database that does not answer

_ONE_OUTAGE = 30.0  # seconds between two errors of a database that are told as one

_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


class NoRunError(StudyError):
    """There is no run where one was to be read."""


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
                before, self.last_outage = self.last_outage, time.monotonic()
                if not passes(error) or self.last_outage - began > PATIENCE_SECONDS:
                    raise unusable(self.where, self.url, error) from None
                if self.last_outage - before > _ONE_OUTAGE:
                    _log.warning("%s does not answer; trying again: %s", self.where, reason(error, self.url))
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
            return Storage(where, open_journal(folder / "journal.log", repair=True))
    except OSError as error:
        raise StudyError(f"{where}: {error.strerror or error}") from None


def open_to_read(folder: Path, storage: str | None) -> Storage:
    """Opens the storage of a run that may be going on elsewhere.

    Raises:
        StudyError: it is not there, cannot be used, or is damaged.
    """
    where = storage_name(folder, storage)
    path = folder / "journal.log" if storage is None else sqlite_file(_url(storage))
    if path is not None and not path.exists():
        raise NoRunError(f"{folder}: there is no run here (no {path.name}); start it with loracle tune")
    if storage is not None:
        return _database(where, storage)
    return Storage(where, open_journal(folder / "journal.log", repair=False))


def storage_name(folder: Path, storage: str | None) -> str:
    """Where a run is stored, for people: without the password of a database.

    Raises:
        ConfigError: see `secret.expanded`.
    """
    return str(folder / "journal.log") if storage is None else secret.shown(_url(storage))


def _url(storage: str) -> str:
    return secret.expanded(storage, "execution.storage")


def _database(where: str, storage: str) -> Storage:
    url = _url(storage)
    return Storage(where, open_database(where, url), url)
