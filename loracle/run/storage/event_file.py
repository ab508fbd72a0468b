"""What a run tells, kept in its folder while it goes on, so that it can be followed from another terminal.

`.events.jsonl` holds the events of the process that works on the run now, or was the last to: a line each,
with the time. Nothing is read back by the run itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, get_args

import psutil

from loracle.errors import StudyError
from loracle.records.codec import from_plain, json_text, to_plain
from loracle.records.events import Event, Listener, RunEnded, Step

FILE = ".events.jsonl"
_KINDS = {kind.__name__: kind for kind in get_args(Event)}
_SECONDS_BETWEEN_STEPS = 2.0  # of one trial: more often nobody looks
_SECONDS_BETWEEN_LOOKS = 0.5


@contextlib.contextmanager
def recorded(folder: Path, listen: Listener) -> Iterator[Listener]:
    """A listener that keeps what it is told in the run folder, and tells it on; its end is kept too."""
    with _Writer(folder) as writer:

        def tell(event: Event) -> None:
            writer.keep(event)
            listen(event)

        try:
            yield tell
        except BaseException as error:
            by_user = isinstance(error, KeyboardInterrupt)
            said = "stopped by the user" if by_user else " ".join(str(error).split())
            writer.keep(RunEnded(said, failed=not by_user))
            raise


@dataclass(frozen=True)
class Told:
    """An event, and when it happened, in seconds since 1970."""

    at: float
    event: Event


def follow(folder: Path, wait: Callable[[float], None] = time.sleep) -> Iterator[Told]:
    """What a run has told since its process began, and then what it tells, until it has ended.

    A process that was killed could not say so: then the last event is a `RunEnded` that does.

    Args:
        folder: of the run.
        wait: called between two looks, with seconds.

    Raises:
        StudyError: nothing was told in this folder.
    """
    files = _files(folder)
    if not files:
        raise StudyError(
            f"{folder}: nobody has told of this run, which an earlier version began, or which other machines "
            "work on; loracle show lists its trials"
        )
    path = max(files, key=lambda file: file.stat().st_mtime)  # of several processes that share it, one
    while True:
        with path.open(encoding="utf-8") as file:
            begun = os.fstat(file.fileno()).st_ino
            part = ""
            while True:
                alive = _works(path.parent)  # asked before reading: what it said last is still read
                part += file.readline()
                if part.endswith("\n"):
                    told, part = _read(part), ""
                    if told is not None:
                        yield told
                        if isinstance(told.event, RunEnded):
                            return
                elif not alive:
                    yield Told(
                        time.time(), RunEnded("no process works on it here; the same loracle tune goes on")
                    )
                    return
                elif _inode(path) not in (begun, None):
                    break  # another process has taken the run over
                else:
                    wait(_SECONDS_BETWEEN_LOOKS)


def wait_until_told(folder: Path, wait: Callable[[float], None] = time.sleep) -> None:
    """Waits while a process that has just begun a run has told nothing yet, nor recorded its config.

    Args:
        folder: of the run; what is no run's is not waited for.
        wait: called between two looks, with seconds.
    """
    while not ((folder / "config.yaml").exists() and _files(folder)) and any(map(_works, _folders(folder))):
        wait(_SECONDS_BETWEEN_LOOKS)


# -- helpers ----------------------------------------------------------------------------------------


class _Writer(contextlib.AbstractContextManager["_Writer"]):
    """Where nothing can be written, a run goes on without: its journal says what is to say of a full disk."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[str] | None = None
        self._last_step: dict[int | None, float] = {}  # by trial
        with contextlib.suppress(OSError):
            (folder / FILE).unlink(
                missing_ok=True
            )  # so that who reads the old one sees that a new one begins
            self._file = (folder / FILE).open("x", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, event: Event) -> None:
        now = time.time()
        if isinstance(event, Step):
            if now - self._last_step.get(event.number, 0.0) < _SECONDS_BETWEEN_STEPS:
                return
            self._last_step[event.number] = now
        if self._file is not None:
            line = {"at": round(now, 3), "event": type(event).__name__, **to_plain(event)}
            try:
                self._file.write(json_text(line, indent=None))
                self._file.flush()
            except OSError:
                self._file = None


def _folders(folder: Path) -> list[Path]:
    """Where processes that work on a run hold their lock: the run's folder, or one of their own in it."""
    return [folder, *folder.glob("machines/*")]


def _files(folder: Path) -> list[Path]:
    return [file for file in (one / FILE for one in _folders(folder)) if file.exists()]


def _read(line: str) -> Told | None:
    """None of what another version wrote and this one does not know."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        content = json.loads(line)
        return Told(float(content["at"]), from_plain(_KINDS[content["event"]], content))
    return None


def _works(folder: Path) -> bool:
    """Whether the process that holds a run folder lives, on this machine."""
    lock = folder / ".lock"
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        # A number that was given to another process since belongs to one that is younger than the lock.
        return bool(psutil.Process(int(lock.read_text())).create_time() <= lock.stat().st_mtime + 1)
    return False


def _inode(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return None
