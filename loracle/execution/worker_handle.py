"""One worker process, as its driver sees it: started, talked to, and ended with all that it started.

It runs below a guard (`guard.py`), which ends it, and whatever it started, as soon as the driver has gone,
however the driver ended. Driver and worker talk over a socket, one JSON object a line. Whatever runs in the
worker can write there, too, so what comes is checked, and anything else than a message ends the worker alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from loracle.execution import guard
from loracle.execution.executor import Job
from loracle.execution.messages import (
    HEADING_BYTES,
    GarbledError,
    Message,
    after_headings,
    heading,
    message_of,
)
from loracle.records.codec import to_plain
from loracle.records.contents import Beginning
from loracle.records.trial import Failure, FailureKind

_LOG_BYTES = 1_000_000  # of what a worker prints
_MESSAGE_BYTES = 4_000_000  # of up to eight trials; a thousand metrics with long names take a tenth of it
_TAIL_BYTES = 2000  # of it that a failure shows
_PATIENCE = 15.0  # seconds for a guard to follow its worker; it needs milliseconds
_SECONDS_TO_PRINT = 0.3

# Signals from outside say nothing about the config, unlike those that a program earns itself.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class WorkerProcess:
    """A running worker.

    Args:
        config: JSON of the run's config, from which the worker builds its objective.
        log: file that takes what it prints.
        environment: of the worker, in full.
        program: what it runs; see `worker.py`.
        report: whether it is to say, once it is ready, what a run has to know of its objective.

    Attributes:
        pid: the worker's own, and not its guard's; who reads its messages sets it.
    """

    def __init__(
        self, config: str, log: Path, environment: Mapping[str, str], program: Path, *, report: bool = False
    ) -> None:
        self.pid: int | None = None
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._socket, theirs = socket.socketpair()
        self._unread: list[bytes] = []  # parts of a line whose end has not come
        # -P: what lies in the current folder, such as a yaml.py, is not what Loracle imports.
        worker = [sys.executable, "-P", str(program), str(theirs.fileno())]
        with theirs, log.open("a+b", buffering=0) as printed:
            printed.write(heading("worker"))
            self._guard = guard.start(
                worker,
                log_bytes=_LOG_BYTES,
                stdout=printed,
                stderr=printed,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
            )
        self._send(f'{{"config": {config}, "report": {json.dumps(report)}}}')

    def fileno(self) -> int:
        """For selectors: readable when there is something to `receive`."""
        return self._socket.fileno()

    def give(self, jobs: Sequence[Job], began: Beginning | None = None) -> None:
        """Hands over a job, or several that train together, of a run that `began` with this."""
        self._send(json.dumps({"jobs": list(map(to_plain, jobs)), "began": to_plain(began)}))

    def receive(self) -> list[Message] | None:
        """What it said since the last time; None: it has died.

        Raises:
            GarbledError: it said something that is no message.
        """
        try:
            received = self._socket.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        if not received:
            return None
        *lines, rest = received.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._unread, lines[0]))
            self._unread = []
        self._unread.append(rest)
        if sum(map(len, self._unread)) > _MESSAGE_BYTES:
            raise GarbledError(f"more than {_MESSAGE_BYTES:,} bytes without a line end")
        return [message_of(line) for line in lines]

    def wait(self) -> None:
        """Waits a while for the end of a worker that has died, and of what it started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(_PATIENCE)

    def end(self) -> int:
        """Ends the worker, should it live, and whatever it started; returns how it ended: its exit code, or
        negative, the signal that it died of."""
        self._socket.close()
        return guard.end(self._guard)

    def ask_where_it_stands(self) -> None:
        """Lets a worker that hangs print its stack."""
        if self.pid is not None and self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
            time.sleep(_SECONDS_TO_PRINT)

    def printed(self) -> str:
        """The end of what it printed since it was given its job, or started; all of it once it has ended."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _TAIL_BYTES - HEADING_BYTES))
            said = after_headings(log.read())
            return said[-_TAIL_BYTES:].decode(errors="replace")

    def _send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; `receive` finds out
            self._socket.sendall(line.encode() + b"\n")


def cause_of_death(code: int) -> Failure:
    """What the exit code of a worker says."""
    if code == -signal.SIGKILL:
        message = "the worker was killed (signal 9); usually the system had no memory left"
        return Failure(FailureKind.LOST, message)
    if code < 0:
        kind = FailureKind.LOST if -code in _FROM_OUTSIDE else FailureKind.CRASHED
        return Failure(kind, f"the worker died of {signal.Signals(-code).name}")
    return Failure(FailureKind.CRASHED, f"the worker ended with exit code {code}")
