"""Runs one command, and ends everything that it started: when it ends, or when whoever asked for it is gone.

`start` runs it as `python -I -S guard.py LOG_BYTES COMMAND...`, with a pipe as its input that nobody writes
to. When the command has ended, or the pipe closes because its holder closed it or died, all descendants of
the command are killed, also those that lead sessions of their own, as torchrun's do. Then the guard ends as
the command did: with its exit code, or of the same signal.

With LOG_BYTES other than 0, its output is a log that is kept so small: what the command and its descendants
print goes through here, so that nothing is lost unseen when the beginning is left out.

The standard library alone, and nothing of the package, so that it starts in a few hundredths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
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
_LEFT_OUT = re.compile(rb"\.\.\. ([\d,]+) bytes before are left out here \.\.\.\n")
_PATIENCE_WITH_GUARD = 15.0  # seconds for the guard itself to end; it needs milliseconds


def start(command: Sequence[str], *, log_bytes: int = 0, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a guard with its command. `end` ends both.

    Args:
        log_bytes: the most that a log has; its `stdout` is then a file that was opened with `a+b`. When there
            is more, its second half is kept, and its first line says how much was left out. 0: no limit.
        options: those of `subprocess.Popen`.
    """
    guard = [
        sys.executable,
        "-I",
        "-S",
        __file__,
        str(log_bytes),
    ]  # it needs nothing installed: starts faster
    return subprocess.Popen(
        [*guard, *command],
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


def main(log_bytes: int, command: list[str]) -> None:
    """Runs `command`; does not return."""
    _ask_linux(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become children of this process, so none gets away
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # not what the worker ignores
    reader, writer = os.pipe() if log_bytes else (0, None)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            close_fds=False,  # what this process was handed over, and nothing else, can be inherited
            start_new_session=True,
            preexec_fn=lambda: _ask_linux(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    printing = threading.Thread(target=_keep_log, args=(reader, log_bytes), daemon=True)
    if writer is not None:
        os.close(writer)
        printing.start()
    code = child.wait()
    _kill_group(child.pid)
    _kill_descendants()
    if writer is not None:  # all who could print are dead, so this ends
        printing.join(_PATIENCE)
    _end_like(code)


def _watch(child: subprocess.Popen[bytes]) -> None:
    """Kills the command when nobody wants it any more."""
    while os.read(0, 1024):
        pass
    _kill_group(child.pid)


def _keep_log(reader: int, limit: int) -> None:
    """Writes what comes to the log, and nobody else does."""
    missing = 0  # bytes that there was no room for
    while chunk := os.read(reader, 1 << 16):
        try:
            if os.fstat(1).st_size + len(chunk) > limit:
                missing = _leave_out(limit // 2, missing)
            while chunk:
                chunk = chunk[os.write(1, chunk) :]
        except OSError:  # the disk is full, which is no reason to stop the command
            pass
        missing += len(chunk)


def _leave_out(keep: int, missing: int) -> int:
    """Keeps the last bytes of the log; returns how many bytes are missing after its end."""
    size, said = os.fstat(1).st_size, _LEFT_OUT.match(os.pread(1, 100, 0))
    end = os.pread(1, keep, max(0, size - keep))
    missing += size - len(end)
    if said is not None:
        missing += int(said[1].replace(b",", b"")) - len(said[0])
    os.ftruncate(1, 0)
    content = f"... {missing:,} bytes before are left out here ...\n".encode() + end
    while content:
        content = content[os.write(1, content) :]
    return 0


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
    main(int(sys.argv[1]), sys.argv[2:])
