"""The lock of a run folder: held by one process, freed by the system however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loracle.errors import StudyError

# Here and in journal.py `fcntl.flock` itself, and no library: filelock (4.3) looks every 50 ms whether a lock
# is free, which every record of a journal would feel, and where a system has no flock it leaves a marker file
# that outlives its process.


class LockedError(StudyError):
    """Another process holds a run folder."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds a run folder for this process.

    Raises:
        LockedError: another process holds it.
        StudyError: the folder cannot be written.
    """
    handle = _open(folder)
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


def make_lock(folder: Path) -> None:
    """Makes the lock's file, by which a run folder is known. Raises StudyError where it cannot be written."""
    os.close(_open(folder))


def _open(folder: Path) -> int:
    try:
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written: {error.strerror}") from None
