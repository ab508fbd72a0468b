"""A worker's own side: holds an objective, with its base model, and runs one job after the other.

Its driver starts it as a program that calls `serve`. It talks to its driver over a socket, one JSON object a
line: first the run's config comes in, then jobs. Out go the messages of `messages.py`. Its guard ends it when
the driver has gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from loracle.config.settings import RunConfig
from loracle.errors import LoracleError
from loracle.execution.executor import Job, run_jobs
from loracle.execution.messages import (
    Alive,
    Finished,
    Hello,
    Message,
    Ready,
    Refused,
    Stepped,
    heading,
    line_of,
)
from loracle.records.codec import from_plain
from loracle.records.contents import Beginning
from loracle.records.objective import Objective, Part, Progress

_SECONDS_BETWEEN_SIGNS = 0.5
_PREFERRED_VICTIM = 500  # of 1000: who the kernel should kill first when memory runs out


class _Driver:
    """The other end of the socket."""

    def __init__(self, handle: int) -> None:
        os.set_inheritable(handle, False)  # for programs that a trial starts
        self._socket = socket.socket(fileno=handle)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()  # signs of life come from a thread of their own

    def tell(self, message: Message) -> None:
        with self._lock:
            self._socket.sendall(line_of(message))

    def hear(self) -> dict[str, Any]:
        """The next message. Raises EOFError when the driver has gone."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message


def serve(handle: int, load: Callable[[RunConfig], Objective]) -> None:
    """Serves jobs until the driver closes the socket, whose handle is given. `load` makes the objective."""
    faulthandler.enable()  # a crash leaves its stack in the log
    faulthandler.register(signal.SIGUSR1)  # and so does a worker that hangs, when it is asked
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text(str(_PREFERRED_VICTIM))  # rather than the driver
    driver = _Driver(handle)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, EOFError):
        driver.tell(Hello(os.getpid()))
        _serve(driver, load)


def _serve(driver: _Driver, load: Callable[[RunConfig], Objective]) -> None:
    threading.Thread(target=_show_life, args=(driver, threading.get_ident()), daemon=True).start()
    first = driver.hear()
    config = RunConfig.model_validate(first["config"])
    log = os.dup(2)
    try:
        gc.disable()  # a large tokenizer is millions of objects: looking through them is a fifth of a start
        objective = load(config)
        report = objective.report() if first["report"] else None
        gc.collect()
        gc.freeze()  # what is loaded stays: looking for garbage among it takes a tenth of a second a trial
        gc.enable()
        driver.tell(Ready(report))
        while True:
            given = driver.hear()
            jobs = [from_plain(Job, job) for job in given["jobs"]]
            began = None if given["began"] is None else from_plain(Beginning, given["began"])
            _open_standard_streams(log)
            with contextlib.suppress(OSError):  # a full disk
                os.write(2, heading(f"trial {', '.join(job.folder.name for job in jobs)}"))
            told = [_reporter(driver, place) for place in range(len(jobs))]
            outcomes = run_jobs(jobs, objective, told, began)
            driver.tell(Finished(tuple(outcomes), memory_bytes()))
    except LoracleError as error:
        driver.tell(Refused.of(error))
    except ConnectionError:
        raise
    except OSError as error:  # a trial's own are outcomes; this is a run folder that cannot be written
        message = f"{error.filename or config.output}: {error.strerror or error}"
        driver.tell(Refused("StudyError", message))


def _open_standard_streams(log: int) -> None:
    """Opens those that a trial has closed: else the next file that is opened takes their place."""
    with contextlib.suppress(OSError):  # it has closed everything
        for handle in (0, 1, 2):
            try:
                os.fstat(handle)
            except OSError:
                os.dup2(log, handle)


def memory_bytes() -> int:
    """Memory that this process keeps between trials, in bytes: resident, and allocated on a CUDA device."""
    gc.collect()
    torch = sys.modules.get("torch")  # without it there is nothing on a device
    used: int = torch.cuda.memory_allocated() if torch is not None else 0  # 0 without CUDA
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no such thing here, as on macOS
        return used
    return used + pages * os.sysconf("SC_PAGE_SIZE")


def _reporter(driver: _Driver, place: int) -> Progress:
    """Sends progress of a job among those that train together, at most twice a second, and the last step
    always."""
    next_time = 0.0

    def report(step: int, total: int, loss: float | None, part: Part = "training") -> None:
        nonlocal next_time
        now = time.monotonic()
        if now >= next_time or step == total:
            next_time = now + _SECONDS_BETWEEN_SIGNS
            driver.tell(Stepped(step, total, loss, part, place))

    return report


def _show_life(driver: _Driver, main_thread: int) -> None:
    """Says `alive` while the main thread moves: while it is not where it was a moment ago.

    Loading reports no steps, nor does a batch while it is read, and both may take long. A call that never
    returns says nothing, and neither does one that keeps Python from running this.
    """
    before: list[tuple[int, int]] = []
    with contextlib.suppress(OSError):  # the driver has gone
        while True:
            time.sleep(_SECONDS_BETWEEN_SIGNS)
            now = _place(sys._current_frames().get(main_thread))
            if now != before:
                driver.tell(Alive())
            before = now


def _place(frame: FrameType | None) -> list[tuple[int, int]]:
    """Where a thread is: function and instruction, from the inside out."""
    place = []
    while frame is not None:
        place.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return place
