"""Whether processes live, for tests that start and end real ones."""

from __future__ import annotations

import time
from pathlib import Path

PATIENCE = 300.0  # seconds that a test waits for what comes at once on an idle machine


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent(pid: int) -> int:
    """The process that a process is a child of."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def gone(pids: list[int], seconds: float = PATIENCE) -> bool:
    """Whether all of them have ended within that time."""
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))
