"""Runs one command, and ends everything that it started: when it ends, or when whoever asked for it is gone.

`start` runs it as `python -I -S guard.py COMMAND...`, with a pipe as its input that nobody writes to. When
the command has ended, or the pipe closes because its holder closed it or died, all descendants of the command
are killed, also those that lead sessions of their own, as torchrun's do. Then the guard ends as the command
did: with its exit code, or of the same signal.

The standard library alone, and nothing of the package, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # Linux: prctl(2)
_PATIENCE = 10.0  # seconds for processes that the kernel holds; they are killed already
_PATIENCE_WITH_GUARD = 15.0  # seconds for the guard itself to end; it needs milliseconds


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a guard with its command; `options` are those of `subprocess.Popen`. `end` ends both."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *command],  # it needs nothing installed, and starts faster
        stdin=subprocess.PIPE,  # held open as long as the command may run
        start_new_session=True,  # so that Ctrl-C in the terminal comes to the caller alone
        **options,
    )


def end(process: subprocess.Popen[bytes]) -> int:
    """Ends a guard, and with it the command and all it started, if they have not ended; the exit code."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        return process.wait(_PATIENCE_WITH_GUARD)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main(command: list[str]) -> None:
    """Runs `command`; does not return."""
    _ask_linux(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process, so none gets away
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # not what the worker ignores
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            close_fds=False,  # what this process was handed over, and nothing else, can be inherited
            start_new_session=True,
            preexec_fn=lambda: _ask_linux(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    _kill_group(child.pid)
    _kill_descendants()
    _end_like(code)


def _watch(child: subprocess.Popen[bytes]) -> None:
    """Kills the command when nobody wants it any more."""
    while os.read(0, 1024):
        pass
    _kill_group(child.pid)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # PermissionError: macOS, only zombies left
        os.killpg(leader, signal.SIGKILL)


def _kill_descendants() -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # all are gone
            return
        time.sleep(0.005)


def _descendants() -> Iterator[int]:
    """Processes below this one; none where there is no /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_bytes().rpartition(b")")[2].split()  # the name before may hold anything
            parents[int(stat.parent.name)] = int(fields[1])
    wanted = {os.getpid()}
    while below := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= below
        yield from below


def _end_like(code: int) -> None:
    if code >= 0:
        sys.exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core dump is enough
    with contextlib.suppress(OSError):  # SIGKILL has no handler
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def _ask_linux(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main(sys.argv[1:])
