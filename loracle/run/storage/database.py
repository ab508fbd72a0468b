"""A database that many processes share: its URL, its driver, and what its errors mean."""

from __future__ import annotations

import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage
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
from loracle.text import secrets as secret

BEAT_SECONDS = 10  # between two signs of life of a trial in a database
GRACE_SECONDS = 60  # without a sign of life, a trial is taken over

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


def open_database(where: str, url: str) -> BaseStorage:
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
    elif sqlite_file(url) is None:
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
                raise unusable(where, url, error) from None
            time.sleep(0.2)
        # Driver, port, schema of another Optuna, a parameter that nobody knows.
        except (ImportError, ValueError, RuntimeError, SAWarning) as error:
            raise unusable(where, url, error) from None


def _driver(scheme: str) -> str:
    """The scheme with a driver that is installed: SQLAlchemy's own choice differs by version."""
    wanted = ["psycopg2", "psycopg"] if scheme == "postgresql" else [scheme.partition("+")[2]]
    for driver in wanted:
        if find_spec(driver) is not None:
            return f"postgresql+{driver}"
    if scheme != "postgresql":
        other = "psycopg" if wanted == ["psycopg2"] else "psycopg2"
        package = {"psycopg2": "psycopg2-binary"}.get(wanted[0], wanted[0])
        there = (
            f"; or write postgresql:// for {other}, which is there" if find_spec(other) is not None else ""
        )
        raise StudyError(
            f"execution.storage: {scheme}:// names the driver {wanted[0]}, which is not installed: "
            f"pip install {package}{there}"
        )
    raise StudyError("execution.storage: PostgreSQL needs a driver: pip install 'loracle[postgres]'")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None: it is another one, or in memory."""
    if not url.startswith("sqlite:"):
        return None
    try:
        name = make_url(url).database
    except (SQLAlchemyError, ValueError):
        return None
    return None if name in (None, "", ":memory:") else Path(str(name))


def passes(error: BaseException) -> bool:
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


def reason(error: BaseException, url: str | None) -> str:
    """What an error of a database says, in one line and without the secrets of its URL."""
    cause = _cause(error)
    text = " ".join(str(getattr(cause, "orig", None) or cause).split())
    return (text if url is None else secret.scrubbed(text, url))[:200]


def unusable(where: str, url: str | None, error: BaseException) -> StudyError:
    """What to raise where a storage fails for good; `where` is its name for people."""
    return StudyError(f"{where}: the storage cannot be used: {reason(error, url)}")
