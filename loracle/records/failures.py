"""What an error says about a trial: whether memory ran out, whether the disk is full, and how it is told."""

from __future__ import annotations

import errno
import os
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from loracle.errors import ModelError, StudyError
from loracle.records.trial import Failure, FailureKind
from loracle.text.escape import printable

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no fault of a config: the next would meet it too
TAIL = 2000  # characters kept of a traceback, or of a command's output

# torch, the allocators of the system and of CUDA, JAX, Python, the C library.
_MEMORY_SIGNS = (
    "out of memory",
    "Out of memory",
    "OutOfMemoryError",
    "can't allocate memory",
    "_ALLOC_FAILED",
    "RESOURCE_EXHAUSTED",
    "MemoryError",
    "Cannot allocate memory",
)


def kinds_of(failures: Iterable[Failure]) -> str:
    """How many of each kind there are, in words: `2 out of memory, 1 crashed`, in the order of the first."""
    kinds = Counter(str(failure.kind).replace("_", " ") for failure in failures)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def out_of_memory_text(text: str) -> bool:
    """Whether a message says that memory ran out, on a device or in the system."""
    return any(sign in text for sign in _MEMORY_SIGNS)


def says_no_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    return isinstance(error, MemoryError) or out_of_memory_text(str(error))


def refuse_no_memory(error: BaseException, problem: str) -> None:
    """Raises ModelError, `problem` and what the exception says, where that is that memory ran out."""
    if says_no_memory(error):
        raise ModelError(f"{problem}: {one_line(error)}") from None


def failure_of(error: BaseException) -> Failure:
    """What a user's own code raised as a failure: memory ran out, or it crashed."""
    failure = crash(error)
    if isinstance(error, MemoryError) or out_of_memory_text(f"{type(error).__name__}: {_said(error)}"):
        return replace(failure, kind=FailureKind.OUT_OF_MEMORY)
    return failure


def crash(error: BaseException) -> Failure:
    """A failure of the kind `crashed` from what was raised."""
    return Failure(
        FailureKind.CRASHED, f"{type(error).__name__}: {_said(error)[:300]}", traceback_tail(error)
    )


def _said(error: BaseException) -> str:
    """What an exception says, in one line."""
    try:
        return " ".join(str(error).split())
    except Exception:  # of foreign code
        return "it cannot say why"


def one_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def raised(error: BaseException, limit: int = 300) -> str:
    """Kind and words of what foreign code raised, in one line of no more than about `limit` characters."""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}", limit)


def traceback_tail(error: BaseException) -> str:
    """The end of a traceback, as failures keep it."""
    return "".join(traceback.format_exception(error))[-TAIL:]


def no_room(folder: Path, number: int) -> StudyError:
    """What to raise where a file could not be written for want of room; `number` is one of `DISK_ERRORS`."""
    return StudyError(f"{folder}: {os.strerror(number)}; the run continues once there is room")
