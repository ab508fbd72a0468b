"""Runs a Python program that nobody trusts: `python -I sandbox_program.py LIMITS`, the program on its input.

As far as the system can: in namespaces of its own, without a network and with processes that all end with it;
writing into the current folder alone (Landlock); with limits of time, memory, files and processes. It exits
with 0 where the program came to its end. The standard library alone, and nothing of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import stat
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

_NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NOBODY = 65534
_LEAST = 20  # of such exit codes
# Landlock: the rights to change files, by the version of its interface; and its system calls.
_WRITES = {1: 0b1111111110010, 2: 0b11111111110010, 3: 0b111111111110010}
_CREATE, _ADD, _RESTRICT, _PATH = 444, 445, 446, 1


def main(limits: dict[str, Any]) -> int:
    """0 where the program came to its end, else 1."""
    code = sys.stdin.read()
    end = _LEAST + os.urandom(1)[0] % 100  # what it exits with then: not what a program may end itself with
    _drop_root()
    apart = _unshare()
    child = os.fork()
    if child:
        return int(_code(os.waitpid(child, 0)[1]) != end)
    _end_with_parent()
    if apart:  # the first process of its namespace: when it ends, all others do
        runner = os.fork()
        if runner:
            os._exit(_code(os.waitpid(runner, 0)[1]))
        _end_with_parent()
    _limit(limits)
    return _run(code, end)


def _run(code: str, end: int) -> NoReturn:
    """Exits with `end` where the program comes to its end; where it ends itself, it has not."""
    found = 1
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for handle, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(handle, target)
    os.closerange(3, 64)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(handle, mode) for handle, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    module = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        exec(compile(code, "program.py", "exec"), module)
        found = end
    except BaseException as error:  # SystemExit too
        with contextlib.suppress(BaseException):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(found)


def _code(status: int) -> int:
    found = os.waitstatus_to_exitcode(status)
    return found if found >= 0 else 128 - found


def _drop_root() -> None:
    """From root to nobody, where nobody can read Python: no limit of processes holds for root."""
    if os.getuid() != 0 or not _readable_by_all(Path(os.__file__)):
        return
    with contextlib.suppress(OSError):
        os.chown(".", _NOBODY, _NOBODY)
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def _readable_by_all(path: Path) -> bool:
    place = path.resolve()
    folders = all(parent.stat().st_mode & stat.S_IXOTH for parent in place.parents)
    return folders and bool(place.stat().st_mode & stat.S_IROTH)


def _unshare() -> bool:
    """Enters new namespaces; whether the system lets it."""
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(_NEW_USER | _NEW_PID | _NEW_NET | _NEW_IPC) != 0:
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit(limits: dict[str, Any]) -> None:
    seconds, memory = int(limits["seconds"]) + 1, int(limits["memory"])
    wanted = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_FSIZE: (int(limits["file"]), int(limits["file"])),
        resource.RLIMIT_NPROC: (int(limits["processes"]), int(limits["processes"])),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, ends in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # the system allows less
            resource.setrlimit(what, ends)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _write_here_alone()


def _write_here_alone() -> None:
    """Landlock: from here on, files can be changed in the current folder alone, where the kernel knows it."""
    call = ctypes.CDLL(None).syscall
    version = call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return
    rights = _WRITES[min(version, max(_WRITES))]
    handled = ctypes.create_string_buffer(struct.pack("=Q", rights))
    rules = call(_CREATE, handled, ctypes.c_size_t(8), ctypes.c_uint32(0))
    if rules < 0:
        return
    for place, allowed in ((".", rights), (os.devnull, 0b10)):
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_PATH", 0))
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, handle))
        call(_ADD, rules, _PATH, rule, ctypes.c_uint32(0))
        os.close(handle)
    call(_RESTRICT, rules, ctypes.c_uint32(0))
    os.close(rules)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
