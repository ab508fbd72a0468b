"""The winner for other tools. Each other module of this folder is a dialect, found by its name.

A dialect has `write(run, folder)`: it writes the winner of a run folder into a folder that is new and empty,
and raises StudyError where the run lacks what it needs.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import tempfile
from importlib import import_module
from pathlib import Path

from loracle.errors import StudyError


def dialects() -> tuple[str, ...]:
    """Names of the dialects that there are; none is loaded."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def export(run: Path, destination: Path, dialect: str) -> list[Path]:
    """Writes the winner of a run in a dialect: whole, or not at all; returns the files written.

    Args:
        run: a finished run folder.
        destination: a folder that is new or empty.
        dialect: one of `dialects`.

    Raises:
        StudyError: there is no such dialect, the run lacks what it needs, or the destination is in use.
    """
    if dialect not in dialects():
        raise StudyError(f"there is no format {dialect!r} to export to; there are: {', '.join(dialects())}")
    write = import_module(f"{__name__}.{dialect}").write
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise StudyError(f"{destination} is not an empty folder; name another")
    try:
        near = next(folder for folder in destination.absolute().parents if folder.exists())
        partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=near))
        try:
            write(run, partial)
            partial.chmod(0o755)
            destination.parent.mkdir(parents=True, exist_ok=True)
            _put(partial, destination)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise StudyError(f"{destination} cannot be written: {error.strerror or error}") from None
    return sorted(path for path in destination.rglob("*") if path.is_file())


def _put(made: Path, destination: Path) -> None:
    """Gives a finished folder its name: at once, where that is not the folder that somebody is in."""
    try:
        os.replace(made, destination)
    except OSError:
        destination.mkdir(exist_ok=True)
        for file in made.iterdir():
            os.replace(file, destination / file.name)
