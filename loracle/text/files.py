"""Files that are whole or not there, whenever a process dies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a file that is whole or not there, whenever the process dies; `private`: for its owner alone.

    Half of a character, as broken programs print it, is spelt `\\ud800`, which JSON reads as what it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    if private:
        partial.unlink(missing_ok=True)  # it may be another's to read
    handle = os.open(partial, _WRITE, 0o600 if private else 0o666)
    try:
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(partial, path)
    except OSError:  # such as a full disk's, which has no room for half of a file
        partial.unlink(missing_ok=True)
        raise


def move_files(source: Path, destination: Path) -> None:
    """Moves all files of a folder into another, each in one step, and removes the folder."""
    for path in sorted(source.rglob("*")):
        place = destination / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.replace(path, place)
    shutil.rmtree(source)
