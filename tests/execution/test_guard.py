from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE, alive, gone

from loracle.execution import guard

GUARD = [sys.executable, "-I", "-S", guard.__file__, "0"]  # no log
# Three processes that never end, each a way to get away: a child, one with its own session, and an orphan.
ESCAPE = """
import subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
held = [subprocess.Popen(["sleep", "3600"], start_new_session=own, **quiet) for own in (False, True)]
script = "import subprocess as s; print(s.Popen(['sleep', '3600'], start_new_session=True, stdout=-3).pid)"
orphan = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True).stdout.strip()
print(*(p.pid for p in held), orphan, flush=True)
"""


def start(*command: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*GUARD, *command], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """What it prints until it ends, with its input held open."""
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdout, process.stdin:
        output = process.stdout.read()
        process.wait(PATIENCE)
    return output


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.kill(os.getpid(), 11)", -signal.SIGSEGV),
        ("import os; os.kill(os.getpid(), 2)", -signal.SIGINT),
    ],
)
def test_it_ends_as_the_command_does(script: str, code: int) -> None:
    process = start(sys.executable, "-c", script)
    output = finish(process)
    assert process.returncode == code
    assert code == -signal.SIGINT or output == ""


def test_a_program_that_is_not_there_is_said() -> None:
    process = start("no-such-program")
    assert finish(process) == "no-such-program: No such file or directory\n"
    assert process.returncode == 127


def test_what_a_command_leaves_behind_is_ended_with_it() -> None:
    pids = [int(pid) for pid in finish(start(sys.executable, "-c", ESCAPE)).split()]
    assert len(pids) == 3
    assert gone(pids)


def test_a_command_that_nobody_wants_is_ended_with_all_it_started() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    process = start(sys.executable, "-c", ESCAPE + deaf)
    assert process.stdout is not None
    assert process.stdin is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(alive, pids))
    process.stdin.close()
    assert gone(pids)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    process.stdout.close()


def test_what_is_handed_over_reaches_the_command() -> None:
    reading, writing = os.pipe()
    command = [*GUARD, sys.executable, "-c", f"import os; os.write({writing}, b'here')"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writing]) as process:
        assert process.wait(PATIENCE) == 0
    assert os.read(reading, 10) == b"here"
    os.close(reading)
    os.close(writing)


PRINTING = """
import os, subprocess, sys
script = "import os; [os.write(1, b'%0100d' % i) for i in range(20_000)]"
others = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
for other in others:
    other.wait()
os.write(2, b"the end\\n")
"""


def test_whatever_is_printed_is_in_the_log_or_counted(tmp_path: Path) -> None:
    """Also by several processes at a time, while the beginning is left out again and again."""
    path = tmp_path / "log"
    with path.open("a+b") as log:
        log.write(b"before\n")
    with path.open("a+b") as log:
        process = guard.start([sys.executable, "-c", PRINTING], log_bytes=100_000, stdout=log, stderr=log)
    process.wait(PATIENCE)
    assert guard.end(process) == 0
    content = path.read_bytes()
    said = re.match(rb"\.\.\. ([\d,]+) bytes before are left out here \.\.\.\n", content)
    assert said is not None
    assert len(content) <= 100_000 + (1 << 16)
    missing = int(said[1].replace(b",", b""))
    assert missing + len(content) - len(said[0]) == len("before\n") + 3 * 20_000 * 100 + len("the end\n")
    assert content.endswith(b"the end\n")


def test_a_log_that_stays_small_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("a+b") as log:
        process = guard.start(["echo", "hello"], log_bytes=100_000, stdout=log, stderr=log)
    process.wait(PATIENCE)
    guard.end(process)
    assert path.read_bytes() == b"hello\n"
