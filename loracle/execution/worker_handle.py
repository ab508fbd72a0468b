"""One worker process, as its driver sees it: started, talked to, and ended with all that it started.

It runs below a guard (`guard.py`), which ends it, and whatever it started, as soon as the driver has gone,
however the driver ended. Driver and worker talk over a socket, one JSON object a line. Whatever runs in the
worker can write there, too, so what comes is checked, and anything else than a message ends the worker alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loracle.execution import guard
from loracle.records.codec import from_plain
from loracle.records.objective import Report
from loracle.records.outcome_files import outcome_of
from loracle.records.trial import Outcome
from loracle.text.escape import printable

_LOG_BYTES = 1_000_000  # of what a worker prints; half of it is kept when there is more
_MESSAGE_BYTES = 4_000_000  # a thousand metrics with long names take a tenth of it
_TAIL_BYTES = 2000  # of it that a failure shows
_PATIENCE = 15.0  # seconds for a guard to follow its worker; it needs milliseconds
_SECONDS_TO_PRINT = 0.3

_LEFT_OUT = re.compile(rb"\.\.\. ([\d,]+) bytes before are left out here \.\.\.\n")

# The fields of each message, and their types; `None` beside a type: it may be null.
_FIELDS: Mapping[str, Mapping[str, tuple[type | None, ...]]] = {
    "hello": {"pid": (int,)},
    "ready": {"report": (Report, None)},
    "alive": {},
    "progress": {"step": (int,), "total": (int,), "loss": (float, int, None)},
    "refused": {"error": (str,), "message": (str,)},
    "done": {"outcome": (Outcome,), "bytes": (int,)},
}


class GarbledError(Exception):
    """Something else than a message came from a worker; in a few words, what."""


class WorkerProcess:
    """A running worker.

    Args:
        config: JSON of the run's config, from which the worker builds its objective.
        log: file that takes what it prints.
        environment: of the worker, in full.
        program: what it runs; see `worker.py`.
        report: whether it is to say, once it is ready, what a run has to know of its objective.

    Attributes:
        ready: whether it has loaded its objective; who reads its messages says so.
        started: when it was started, or last given a job; monotonic seconds.
        sign: when it last gave a sign of life; monotonic seconds.
        pid: None until it has said it.
    """

    def __init__(
        self, config: str, log: Path, environment: Mapping[str, str], program: Path, *, report: bool = False
    ) -> None:
        self.ready = False
        self.pid: int | None = None  # not the guard's
        self.started = self.sign = time.monotonic()
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._socket, theirs = socket.socketpair()
        self._unread: list[bytes] = []  # parts of a line whose end has not come
        # -P: what lies in the current folder, such as a yaml.py, is not what Loracle imports.
        worker = [sys.executable, "-P", str(program), str(theirs.fileno())]
        with theirs, log.open("ab") as printed:
            self._print_begins = printed.tell()
            self._guard = guard.start(
                worker, stdout=printed, stderr=printed, env=dict(environment), pass_fds=[theirs.fileno()]
            )
        self._send(f'{{"config": {config}, "report": {json.dumps(report)}}}')

    def fileno(self) -> int:
        """For selectors: readable when there is something to `receive`."""
        return self._socket.fileno()

    def give(self, job: Mapping[str, Any]) -> None:
        """Hands over a job."""
        self.started = self.sign = time.monotonic()
        self._print_begins = self._log.stat().st_size
        self._send(json.dumps(job))

    def receive(self) -> list[dict[str, Any]] | None:
        """What it said since the last time; None: it has died. An outcome comes as an `Outcome`.

        Raises:
            GarbledError: it said something that is no message.
        """
        try:
            received = self._socket.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        if not received:
            return None
        self.sign = time.monotonic()
        *lines, rest = received.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._unread, lines[0]))
            self._unread = []
        self._unread.append(rest)
        if sum(map(len, self._unread)) > _MESSAGE_BYTES:
            raise GarbledError(f"more than {_MESSAGE_BYTES:,} bytes without a line end")
        return [_message(line) for line in lines]

    def exit_code(self) -> int:
        """How a worker that has died ended; negative: the signal that it died of."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_PATIENCE)  # it ends as the worker did
        return self.end()

    def end(self) -> int:
        """Ends the worker, should it live, and whatever it started; returns the exit code."""
        self._socket.close()
        return guard.end(self._guard)

    def printed(self, *, where_it_stands: bool = False) -> str:
        """The end of what it printed since it was given its job, or started.

        Args:
            where_it_stands: let it print its stack first.
        """
        if where_it_stands and self.pid is not None and self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
            time.sleep(_SECONDS_TO_PRINT)
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(min(self._print_begins, size), size - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def trim_log(self) -> None:
        """Keeps the log small, also while the worker writes to it: it appends, wherever the end is."""
        if self._log.stat().st_size <= _LOG_BYTES:
            return
        with self._log.open("rb+") as log:
            said = _LEFT_OUT.match(log.read(100))
            size = log.seek(0, os.SEEK_END)
            log.seek(size - _LOG_BYTES // 2)
            end = log.read()  # with what has come meanwhile
            log.truncate(0)
        before = int(said[1].replace(b",", b"")) - len(said[0]) if said else 0
        notice = f"... {before + size - _LOG_BYTES // 2:,} bytes before are left out here ...\n"
        with self._log.open("ab") as log:
            log.write(notice.encode() + end)
        self._print_begins = 0

    def _send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; `receive` finds out
            self._socket.sendall(line.encode() + b"\n")


def _message(line: bytes) -> dict[str, Any]:
    """Raises GarbledError."""
    try:
        message = json.loads(line)
        fields = _FIELDS[message["kind"]]
        if message["kind"] == "done":
            message["outcome"] = outcome_of(message["outcome"])
        if message["kind"] == "ready" and message["report"] is not None:
            message["report"] = from_plain(Report, message["report"])
        for name, types in fields.items():
            value = message[name]
            if (None if value is None else type(value)) not in types:
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise GarbledError(printable(repr(line[:100]))) from None
    return dict(message)
