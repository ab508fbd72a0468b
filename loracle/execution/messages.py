"""What a worker says to its driver: one JSON object a line, each with its `kind`; and headings in its log.

Whatever runs in a worker can write into the same connection, so what comes is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Discriminator

from loracle import errors
from loracle.records.codec import from_plain, to_plain
from loracle.records.objective import Part, Report
from loracle.records.trial import Outcome
from loracle.text.escape import printable

HEADING_BYTES = 100  # at most
_HEADING = re.compile(rb"=== loracle: [^\n]{1,80} ===\n")


class GarbledError(Exception):
    """Something else than a message came from a worker; in a few words, what."""


@dataclass(frozen=True)
class Hello:
    """It has started, as this process."""

    kind: Literal["hello"] = field(default="hello", kw_only=True)
    pid: int


@dataclass(frozen=True)
class Ready:
    """It has loaded its objective. `report`: what a run has to know of that, where it was asked for."""

    kind: Literal["ready"] = field(default="ready", kw_only=True)
    report: Report | None


@dataclass(frozen=True)
class Alive:
    """It does something."""

    kind: Literal["alive"] = field(default="alive", kw_only=True)


@dataclass(frozen=True)
class Stepped:
    """Its job went on, as `Progress` has it; of several that train together, the one in this place."""

    kind: Literal["progress"] = field(default="progress", kw_only=True)
    step: int
    total: int
    loss: float | None
    part: Part = "training"
    place: int = 0


@dataclass(frozen=True)
class Refused:
    """The user's input is wrong, or the run cannot go on: the name of a Loracle error, and its line."""

    kind: Literal["refused"] = field(default="refused", kw_only=True)
    error: str
    message: str

    @classmethod
    def of(cls, error: errors.LoracleError) -> Refused:
        """To be sent where it was raised."""
        return cls(type(error).__name__, str(error))

    def as_error(self) -> errors.LoracleError:
        """To be raised where it is heard."""
        kind: type[errors.LoracleError] = getattr(errors, self.error, errors.LoracleError)
        return kind(self.message)


@dataclass(frozen=True)
class Finished:
    """Its job is over, or all that train together.

    Attributes:
        outcomes: what they gave, in the order in which they were given.
        bytes: memory that the worker keeps.
        files: whether the jobs' files are where the driver does not see them.
    """

    kind: Literal["done"] = field(default="done", kw_only=True)
    outcomes: tuple[Outcome, ...]
    bytes: int
    files: bool = False


Message = Hello | Ready | Alive | Stepped | Refused | Finished
_ANY: Any = Annotated[Message, Discriminator("kind")]


def line_of(message: Message) -> bytes:
    """A message as it is sent."""
    return json.dumps(to_plain(message)).encode() + b"\n"


def message_of(line: bytes | str) -> Message:
    """The message that was sent. Raises GarbledError."""
    try:
        message: Message = from_plain(_ANY, json.loads(line))
    except (ValueError, RecursionError):
        raise GarbledError(printable(repr(line[:100]))) from None
    return message


def lines_of(messages: Iterable[Message]) -> str:
    """Messages as one text."""
    return b"".join(map(line_of, messages)).decode()


def messages_of(lines: str) -> list[Message]:
    """The messages that were sent. Raises GarbledError."""
    return [message_of(line) for line in lines.splitlines()]


def heading(what: str) -> bytes:
    """The line of a worker's log before what it prints when it starts, or in a trial."""
    return f"=== loracle: {printable(what, 60)} ===\n".encode()


def after_headings(log: bytes) -> bytes:
    """What was printed after the last heading in a part of a log."""
    return _HEADING.split(log)[-1]
