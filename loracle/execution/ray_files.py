"""Files of trials on nodes that do not see the run folder: kept there for a while, and brought here."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from loracle.execution.executor import Job

PIECE = 8_000_000  # bytes of a file that travel at a time
ADAPTER = "adapter"


def run_identity(output: Path) -> str:
    """Tells whether two machines see the same run folder: its lock is the same file. Empty: there is none.

    Where a file system makes that differ, files travel although they need not.
    """
    try:
        found = (output / ".lock").stat()
    except OSError:
        return ""
    return f"{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"


def scratch_folder() -> Path:
    """A folder for this process. Those of processes that were killed before they could remove them go now."""
    prefix = f"loracle-{os.getuid()}-"
    for old in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, ValueError):
            if old.stat().st_uid == os.getuid() and not _runs(int(old.name.split("-")[2])):
                shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def fetch(files: Iterable[tuple[str, Iterable[bytes]]], job: Job) -> None:
    """Writes what a node sends, piece by piece: the trial's files, and the adapter, whole or not at all."""
    partial = None if job.adapter is None else job.adapter.with_name(f"{job.adapter.name}.partial")
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    for name, pieces in files:
        top, _, rest = name.partition("/")
        home = {job.folder.name: job.folder, ADAPTER: partial}.get(top)
        if home is None or not rest or not (path := (home / rest).resolve()).is_relative_to(home.resolve()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        coming = path.with_name(f"{path.name}.coming")
        with coming.open("wb") as whole:
            whole.writelines(pieces)
        os.replace(coming, path)
    if partial is not None and job.adapter is not None and partial.exists():
        job.adapter.mkdir(exist_ok=True)  # with whatever else the user keeps there
        for file in partial.iterdir():
            os.replace(file, job.adapter / file.name)
        partial.rmdir()
