"""One worker process, as its driver sees it: started, talked to, and ended with all that it started.

It runs below a guard (`guard.py`), which ends it, and whatever it started, as soon as the driver has gone,
however the driver ended. Driver and worker talk over a socket, one JSON object a line.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loracle import guard

_LOG_BYTES = 1_000_000  # of what a worker prints; half of it is kept when there is more
_TAIL_BYTES = 2000  # of it that a failure shows
_PATIENCE = 15.0  # seconds for a guard to follow its worker; it needs milliseconds
_SECONDS_TO_PRINT = 0.3


class WorkerProcess:
    """A running worker.

    Args:
        config: JSON of the run's config, from which the worker builds its objective.
        log: file that takes what it prints.
        environment: of the worker, in full.

    Attributes:
        ready: whether it has loaded its objective; who reads its messages says so.
        started: when it was started, or last given a job; monotonic seconds.
        sign: when it last gave a sign of life; monotonic seconds.
        pid: None until it has said it.
    """

    def __init__(self, config: str, log: Path, environment: Mapping[str, str]) -> None:
        self.ready = False
        self.pid: int | None = None  # not the guard's
        self.started = self.sign = time.monotonic()
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._socket, theirs = socket.socketpair()
        self._unread = b""
        worker = [sys.executable, "-m", "loracle.worker_process", str(theirs.fileno())]
        with theirs, log.open("ab") as printed:
            self._print_begins = printed.tell()
            self._guard = guard.start(
                worker, stdout=printed, stderr=printed, env=dict(environment), pass_fds=[theirs.fileno()]
            )
        self._send(config)

    def fileno(self) -> int:
        """For selectors: readable when there is something to `receive`."""
        return self._socket.fileno()

    def give(self, job: Mapping[str, Any]) -> None:
        """Hands over a job."""
        self.started = self.sign = time.monotonic()
        self._print_begins = self._log.stat().st_size
        self._send(json.dumps(job))

    def receive(self) -> list[dict[str, Any]] | None:
        """What it said since the last time; None: it has died."""
        try:
            received = self._socket.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        if not received:
            return None
        self.sign = time.monotonic()
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]

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
        if self._log.stat().st_size > _LOG_BYTES:
            with self._log.open("rb+") as log:
                log.seek(-_LOG_BYTES // 2, os.SEEK_END)
                end = log.read()
                log.truncate(0)
            with self._log.open("ab") as log:
                log.write(end)
            self._print_begins = 0

    def _send(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; `receive` finds out
            self._socket.sendall(line.encode() + b"\n")
