"""What became of a trial: what an error says about it, and how an outcome is kept in the trial's folder."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loracle.errors import ModelError, StudyError
from loracle.records.space import Config
from loracle.records.trial import Failure, FailureKind, Outcome

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no fault of a config: the next would meet it too
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
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


def crash(error: BaseException) -> Failure:
    """A failure of the kind `crashed` from what was raised."""
    try:
        line = " ".join(str(error).split())[:300]
    except Exception:  # of foreign code
        line = "it cannot say why"
    return Failure(FailureKind.CRASHED, f"{type(error).__name__}: {line}", traceback_tail(error))


def one_line(error: BaseException) -> str:
    """What an exception of another library says, short enough for a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def traceback_tail(error: BaseException) -> str:
    """The end of a traceback, as failures keep it."""
    return "".join(traceback.format_exception(error))[-TAIL:]


def no_room(folder: Path, number: int) -> StudyError:
    """What to raise where a file could not be written for want of room; `number` is one of `DISK_ERRORS`."""
    return StudyError(f"{folder}: {os.strerror(number)}; the run continues once there is room")


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a file that is whole or not there, whenever the process dies; `private`: for its owner alone.

    Half of a character, as broken programs print it, is spelt `\\ud800`, which JSON reads as what it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    if private:
        partial.unlink(missing_ok=True)  # it may be another's to read
    handle = os.open(partial, _WRITE, 0o600 if private else 0o666)
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.replace(partial, path)


def read_outcome(folder: Path, config: Config) -> Outcome | None:
    """What the training of `config` in `folder` gave; None where there is no finished one of it."""
    try:
        content = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        if content["config"] != config:
            return None
        return outcome_of(content)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there or damaged: it is trained again


def outcome_of(content: Mapping[str, Any]) -> Outcome:
    """An outcome from its JSON, as `dataclasses.asdict` gives it.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: it is none.
    """
    failure = content["failure"]
    if failure:
        texts = (failure["message"], failure["traceback_tail"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a failure is told in text")
        failure = Failure(FailureKind(failure["kind"]), *texts)
    value, metrics, seconds = content["value"], content["metrics"], content["seconds"]
    numbers = [seconds, *metrics.values(), *([] if value is None else [value])]
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("an outcome has numbers")
    return Outcome(value, metrics, seconds, failure or None)


def stored_outcomes(folder: Path) -> list[Outcome]:
    """Outcomes of all finished trials whose folders are in `folder`."""
    found = []
    for path in sorted(folder.glob("*/outcome.json")):
        with contextlib.suppress(
            OSError, ValueError, KeyError, TypeError, AttributeError
        ):  # damaged: it is trained again
            found.append(outcome_of(json.loads(path.read_text(encoding="utf-8"))))
    return found


def write_outcome(folder: Path, config: Config, outcome: Outcome, **more: Any) -> None:
    """Writes `outcome.json` into a trial's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "outcome.json", as_json({"config": config, **asdict(outcome), **more}))


def write_attempt(folder: Path, attempt: int, config: Config, outcome: Outcome) -> None:
    """Keeps what a failed attempt gave, before the trial is tried again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"attempt-{attempt}.json", as_json({"config": config, **asdict(outcome)}))


def read_items(folder: Path) -> list[dict[str, Any]]:
    """The per-item results of a finished training."""
    lines = (folder / "items.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def as_json(content: Any, indent: int | None = 2) -> str:
    """JSON text with a newline at its end."""
    return json.dumps(content, indent=indent, ensure_ascii=False) + "\n"


def finite(content: Any) -> Any:
    """Plain data with null in the place of what JSON has no number for: NaN and infinity."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def move_files(source: Path, destination: Path) -> None:
    """Moves all files of a folder into another, each in one step, and removes the folder."""
    for path in sorted(source.rglob("*")):
        place = destination / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.replace(path, place)
    shutil.rmtree(source)
