"""What a trainer of the user's own prints: kept, searched for the result, and taken as a sign of life."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loracle.objective import Progress

_LOG_PART = 1_000_000  # bytes kept of the beginning, and at least as many of the end
_LINE = 64_000  # bytes of a line that are looked at
_TAIL = 64_000  # bytes in `tail`
_SECONDS_BETWEEN_SIGNS = 0.5
_SECONDS_BETWEEN_PARTS = 10.0  # where no line is finished, as by some progress bars

_STEP = re.compile(r"(?<![\d/.])(\d{1,9})/(\d{1,9})(?![\d/.])")  # as progress bars write it
_LOSS = re.compile(r"\bloss\W{0,4}([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)")


class Output:
    """Takes in what is printed. Use as a context manager.

    The log keeps the beginning and the end of what is written, at most about 3 MB, and is up to date at any
    time. A bar such as `5/100` and `loss 1.3` are passed on as progress.

    Attributes:
        found: the last match of `pattern`: its first group, or all of it.
    """

    def __init__(self, path: Path, pattern: str | None, progress: Progress | None) -> None:
        self._file = path.open("w+b")
        self._pattern = re.compile(pattern) if pattern is not None else None
        self._progress = progress
        self._written = self._left_out = 0  # bytes
        self._line, self._tail = b"", b""
        self._lines = self._step = self._total = 0
        self._loss: float | None = None
        self._last_sign = time.monotonic() - _SECONDS_BETWEEN_SIGNS
        self.found: str | None = None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line:
            self._look_at(self._line)
        self._file.close()

    @property
    def tail(self) -> str:
        """The last part of what was printed."""
        return self._tail.decode(errors="replace").replace("\r", "\n")

    def feed(self, chunk: bytes) -> None:
        """Takes in the next bytes."""
        self._write(chunk)
        self._tail = (self._tail + chunk)[-_TAIL:]
        *lines, self._line = re.split(rb"[\r\n]", self._line + chunk)
        for line in lines:
            self._look_at(line)
        if len(self._line) > _LINE:
            self._look_at(self._line)
            self._line = b""
        self._report(_SECONDS_BETWEEN_SIGNS if lines else _SECONDS_BETWEEN_PARTS)

    def note(self, text: str) -> None:
        """Writes something into the log that the trainer did not print."""
        self._write(text.encode(errors="replace"))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()
        self._written += len(content)
        if self._written > 3 * _LOG_PART:
            self._file.seek(self._written - _LOG_PART)
            end = self._file.read()
            self._left_out += self._written - 2 * _LOG_PART
            self._file.seek(_LOG_PART)
            self._file.write(f"\n... about {self._left_out:,} bytes are left out here ...\n".encode() + end)
            self._file.truncate()
            self._written = self._file.tell()

    def _look_at(self, line: bytes) -> None:
        text = line[:_LINE].decode(errors="replace")
        self._lines += 1
        if self._pattern is not None and (match := self._pattern.search(text)):
            self.found = match.group(1) if match.re.groups else match.group()
        if (bar := _STEP.search(text)) and 0 < int(bar[1]) <= int(bar[2]):
            self._step, self._total = int(bar[1]), int(bar[2])
        if loss := _LOSS.search(text):
            self._loss = float(loss[1])

    def _report(self, seconds: float) -> None:
        """Passes progress on, unless that was less than so many seconds ago."""
        now = time.monotonic()
        if self._progress is not None and now >= self._last_sign + seconds:
            self._last_sign = now
            self._progress(self._step or self._lines, self._total, self._loss)


class _Stream(io.TextIOBase):
    """A text stream into an `Output`. Progress is told with the old streams in place: it may print, too."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._old = (sys.stdout, sys.stderr)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        new = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = self._old
        try:
            self._output.feed(text.encode(errors="replace"))
        finally:
            sys.stdout, sys.stderr = new
        return len(text)


@contextlib.contextmanager
def printing_to(output: Output) -> Iterator[None]:
    """What Python code prints meanwhile goes there."""
    stream = _Stream(output)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield
