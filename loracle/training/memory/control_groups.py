"""Limits on memory that containers set: Linux's control groups. psutil knows the whole machine alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def free_in_groups(
    listing: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """What each control group of this process has left, in bytes.

    `listing` says which groups those are, and `mounted` is where they stand.
    """
    for line in listing.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = mounted / "memory" if controllers else mounted  # version 1, or the unified one
        names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        group = root / name.strip("/")
        for folder in (group, *group.parents):  # a container may see its own group as the root
            with contextlib.suppress(OSError, ValueError):  # no such group here, or no limit ("max")
                limit, usage = (int((folder / f"memory.{name}").read_text()) for name in names)
                yield limit - usage + _reclaimable(folder)
            if folder == root:
                break


def _reclaimable(group: Path) -> int:
    """Bytes of files that the kernel gives up before anything fails."""
    for line in (group / "memory.stat").read_text().splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0
