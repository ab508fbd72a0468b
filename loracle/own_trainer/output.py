"""What a trainer of the user's own prints: kept, searched for the result, and taken as a sign of life.

A trainer may print a gigabyte, so no line is looked at that need not be: bars and losses are read
when progress is told, and lines are searched from the last one back, those first that hold the text which
every match has.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from loracle.errors import ConfigError
from loracle.own_trainer.curve_lines import BAR, CurveLines
from loracle.records.curves.recorder import CurveRecorder
from loracle.text.patterns import Pattern

if TYPE_CHECKING:
    from loracle.records.objective import Progress

LOG_PART = 1_000_000  # bytes kept of the beginning, and at least as many of the end
_LINE = 64_000  # bytes that are searched at a time; a longer line is searched in pieces
_MANY_LINES = 8
_TAIL = 64_000  # bytes in `tail`
_RECENT = 16_000  # bytes that are searched for bars and losses, each time that progress is told
SECONDS_BETWEEN_SIGNS = 0.5
_SECONDS_BETWEEN_PARTS = 10.0  # where no line is finished, as by some progress bars

_LOSS = re.compile(r"\bloss\W{0,4}([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)")


class Output:
    """Takes in what is printed. Use as a context manager.

    The log keeps the beginning and the end of what is written, at most about 3 MB, says how many bytes it
    leaves out between them, and is up to date at any time. A log that was there before is kept beside it, as
    `log-1.txt`. A bar such as `5/100` and `loss 1.3` are passed on as progress.

    Attributes:
        found: what the pattern found in the last line in which it found anything.
    """

    def __init__(
        self,
        path: Path,
        pattern: Pattern | None,
        progress: Progress | None,
        curve: CurveRecorder | None = None,
    ) -> None:
        _keep(path)
        self._curve = CurveLines(CurveRecorder() if curve is None else curve)
        self._file = path.open("w+b")
        self._pattern = pattern
        self._always = always_there(pattern.text) if pattern is not None else b""
        self._at_once = None if pattern is None else _of_many_lines(pattern)
        self._progress = progress
        self._size = self._left_out = 0  # bytes in the file, and of what was written between its parts
        self._notice = 0  # bytes in the file that say so
        self._line, self._tail, self._recent = b"", b"", b""
        self._lines = self._step = self._total = 0
        self._loss: float | None = None
        self._last_sign = time.monotonic() - SECONDS_BETWEEN_SIGNS
        self._lock = threading.RLock()  # a function's threads print, too
        self.found: str | None = None

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._look_for_bars(last=True)
            self._curve.end()
            self._file.close()
            if self._line and self._pattern is not None:
                line, self._line = self._line, b""
                self._search(line)

    @property
    def tail(self) -> str:
        """The last part of what was printed."""
        return self._tail.decode(errors="replace").replace("\r", "\n")

    @property
    def told(self) -> dict[str, float]:
        """Numbers that were told beside the result, by name."""
        with self._lock:
            return dict(self._curve.beside)

    def feed(self, chunk: bytes) -> None:
        """Takes in the next bytes.

        Raises:
            ConfigError: the pattern took too long.
        """
        with self._lock:
            if self._file.closed:  # a thread that outlives its trial
                return
            self._write(chunk)
            self._tail = (self._tail + chunk)[-_TAIL:]
            self._recent = (self._recent + chunk)[-_RECENT:]
            self._curve.feed(chunk)
            ends = chunk.count(b"\n") + chunk.count(b"\r")
            self._lines += ends
            if self._pattern is not None:
                self._search_lines(chunk)
            self._report(SECONDS_BETWEEN_SIGNS if ends else _SECONDS_BETWEEN_PARTS)

    def note(self, text: str) -> None:
        """Writes something into the log that the trainer did not print."""
        with self._lock:
            self._write(text.encode(errors="replace"))

    # -- the log --------------------------------------------------------------------------------

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()
        self._size += len(content)
        if self._size > 3 * LOG_PART:
            self._file.seek(self._size - LOG_PART)
            end = self._file.read()
            self._left_out += self._size - 2 * LOG_PART - self._notice
            notice = f"\n... {self._left_out:,} bytes are left out here ...\n".encode()
            self._file.seek(LOG_PART)
            self._file.write(notice + end)
            self._file.truncate()
            self._file.flush()
            self._notice = len(notice)
            self._size = self._file.tell()

    # -- the result -----------------------------------------------------------------------------

    def _search_lines(self, chunk: bytes) -> None:
        """Searches the lines that a chunk ends; what is left is the beginning of the next."""
        text = (self._line + chunk).replace(b"\r", b"\n")
        whole, end, self._line = text.rpartition(b"\n")
        if end:
            self._search(whole)
        while len(self._line) > _LINE:
            piece, self._line = self._line[:_LINE], self._line[_LINE:]
            self._search(piece)

    def _search(self, text: bytes) -> None:
        """Searches lines, the last one first; none before a match can change what is found."""
        if self._always not in text or self._can_have_none(text):
            return
        end = len(text)
        while end >= 0:
            if self._always and (end := text.rfind(self._always, 0, end) + len(self._always)) < len(
                self._always
            ):
                return
            stop = text.find(b"\n", end)
            stop = len(text) if stop < 0 else stop
            start = text.rfind(b"\n", 0, end) + 1
            if self._matches(text[start:stop]):
                return
            end = start - 1

    def _can_have_none(self, text: bytes) -> bool:
        """Whether one look at many lines shows that none matches."""
        if self._at_once is None or text.count(b"\n") < _MANY_LINES:
            return False
        try:
            return not self._at_once.matches(text.decode(errors="replace"))
        except ConfigError:  # slow on so much text at once
            self._at_once = None
            return False

    def _matches(self, line: bytes) -> bool:
        assert self._pattern is not None
        for start in range((max(len(line), 1) - 1) // _LINE * _LINE, -1, -_LINE):
            found = self._pattern.first(line[start : start + _LINE].decode(errors="replace"))
            if found is not None:
                self.found = found
                return True
        return False

    # -- progress -------------------------------------------------------------------------------

    def _report(self, seconds: float) -> None:
        """Passes progress on, unless that was less than so many seconds ago."""
        now = time.monotonic()
        if now < self._last_sign + seconds:
            return
        self._last_sign = now
        self._look_for_bars()
        if self._progress is not None:
            self._progress(self._step or self._lines, self._total, self._loss)

    def _look_for_bars(self, *, last: bool = False) -> None:
        *lines, rest = re.split(rb"[\r\n]+", self._recent)
        lines += [rest] if last else []
        self._recent = b"" if last else rest  # its end may not have come
        self._curve.look(lines)
        bar = loss = None
        for line in reversed(lines):
            text = line.decode(errors="replace")
            if bar is None and (found := BAR.search(text)) and 0 < int(found[1]) <= int(found[2]):
                bar = found
            loss = loss or _LOSS.search(text)
            if bar and loss:
                break
        if bar:
            self._step, self._total = int(bar[1]), int(bar[2])
        if loss:
            self._loss = float(loss[1])


def _keep(path: Path) -> None:
    """Gives a log that is there another name."""
    if path.exists() and path.stat().st_size:
        n = 1
        while (old := path.with_name(f"{path.stem}-{n}{path.suffix}")).exists():
            n += 1
        path.rename(old)


# What a pattern is made of, as far as it must be told apart: sets, repeats, escapes, marks of groups.
_PART = re.compile(
    r"(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<repeat>\{(?:\d+(?:,\d*)?|,\d*)\}|[*?])|\\(?P<escape>.)"
    r"|(?P<mark>[.^$+()|{\[])|(?P<text>.)",
    re.DOTALL,
)


def always_there(pattern: str) -> bytes:
    """A text of every line in which the pattern finds anything; empty where that is not plain to see."""
    if "(?" in pattern.replace("(?:", "").replace("(?P<", ""):  # flags, conditions, comments
        return b""
    runs, depth = [""], 0
    for part in _PART.finditer(pattern):
        text = part["text"] or part["escape"]
        if part["escape"] and part["escape"].isalnum():
            if part["escape"] not in "dDwWsSbB":  # `\x41` goes on
                return b""
            runs.append("")
        elif text:
            runs[-1] += text if depth == 0 else ""
        elif part["repeat"]:
            runs[-1] = runs[-1][:-1]  # it may stand there no times
            runs.append("")
        else:
            if part["mark"] == "|" and depth == 0:
                return b""
            depth += {"(": 1, ")": -1}.get(part["mark"] or "", 0)
            runs.append("")
    longest = max(runs, key=len)
    return b"" if "\ufffd" in longest else longest.encode()


# Whatever looks around, does not go back, or knows the ends of the text, may match a line alone only. Flags
# must stand first.
_BOUND_TO_ITS_TEXT = re.compile(r"\(\?(?!:|P<)|[*+?}]\+|\\[AZ]")


def _of_many_lines(pattern: Pattern) -> Pattern | None:
    """A pattern that matches many lines together wherever `pattern` matches one of them; None: not known."""
    if _BOUND_TO_ITS_TEXT.search(pattern.text):
        return None
    return Pattern(f"(?m){pattern.text}", pattern.setting, seconds=pattern.seconds)


# -- of a function ----------------------------------------------------------------------------------


class _Printed(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr`, and takes what Python code prints into the trial's output.

    Who keeps it, such as a logging handler that is made once, writes into the output of whatever trial runs
    then, and between trials to where the process prints. So does what an output prints itself, of progress.
    """

    output: Output | None = None  # of the trial that runs; of the class, as one runs at a time
    encoding = "utf-8"
    errors = "replace"
    _here = threading.local()

    def __init__(self, old: IO[str]) -> None:
        self._old = old
        self.buffer = _PrintedBytes(self)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._old.fileno()  # for programs that a function starts

    def reconfigure(self, **_: Any) -> None:
        pass

    def close(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.output is None or getattr(self._here, "feeds", False):
            return self._old.write(text)
        self.feed(text.encode(errors="replace"))
        return len(text)

    def feed(self, content: bytes) -> None:
        output = self.output
        if output is not None:
            self._here.feeds = True
            try:
                output.feed(content)
            finally:
                self._here.feeds = False


class _PrintedBytes(io.RawIOBase):
    """The `buffer` of the stream."""

    def __init__(self, stream: _Printed) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        content = bytes(content)
        self._stream.feed(content)
        return len(content)


@contextlib.contextmanager
def printing_to(output: Output) -> Iterator[None]:
    """What Python code prints meanwhile goes there."""
    _Printed.output = output
    try:
        with (
            contextlib.redirect_stdout(_Printed(sys.stdout)),
            contextlib.redirect_stderr(_Printed(sys.stderr)),
        ):
            yield
    finally:
        _Printed.output = None
