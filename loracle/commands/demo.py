"""`loracle demo`, in a folder that is nobody else's: a copy of what comes with the package."""

from __future__ import annotations

import os
import shlex
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson, changed_settings
from loracle.commands.tune import tune_and_tell
from loracle.errors import StudyError

_MARK = ".loracle-demo"  # made first
_EDITED = ("config.yaml", "README.md")  # what people change while they try


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("demo"),
    trials: Annotated[int | None, typer.Option(min=1, help="Total number of trials.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try everything on a tiny model that comes with Loracle: a few minutes on a CPU, no downloads."""
    from loracle.commands.terminal.console import console, say

    config = make_demo(folder)
    say(console(errors=True), f"a normal run: loracle tune {shlex.quote(str(config))}")
    tune_and_tell(changed_settings(config, trials, None), as_json)


def make_demo(folder: Path) -> Path:
    """Writes what is missing of the demo, and nothing that is there; returns its config.

    Raises:
        StudyError: the folder holds somebody else's files, or cannot be written.
    """
    try:
        with as_file(files("loracle").joinpath("demo")) as source:
            names = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
            contents = {name: (source / name).read_bytes() for name in names}
        _require_own(folder, contents)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / _MARK).exists():
            for name, content in contents.items():
                before = _read(folder / name)
                if before is not None and before != content and content.startswith(before):
                    _write(folder / name, content)  # an earlier version was cut off in the middle of it
        (folder / _MARK).touch()
        for name, content in contents.items():
            if not os.path.lexists(folder / name):
                _write(folder / name, content)
    except OSError as error:
        where = error.filename or folder
        raise StudyError(f"{where} cannot be made: {error.strerror or error}") from None
    return folder / "config.yaml"


def _require_own(folder: Path, contents: dict[Path, bytes]) -> None:
    """Refuses a folder with files that no demo made. One that was begun, and interrupted, is ours."""
    try:
        there = sorted(os.listdir(folder), key=lambda name: (name.startswith("."), name))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise StudyError(f"{folder} is a file; name a folder for the demo") from None
    if not there or _MARK in there or _is_earlier(folder, contents):
        return
    more = "" if len(there) == 1 else f" and {len(there) - 1:,} more"
    raise StudyError(
        f"{folder} holds {there[0]}{more}, which loracle demo did not make; name a new or an empty folder"
    )


def _is_earlier(folder: Path, contents: dict[Path, bytes]) -> bool:
    """Whether an earlier version, which left no mark, made the demo here, or was about to."""
    if all(_read(folder / name) == content for name, content in contents.items() if str(name) not in _EDITED):
        return True
    found = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    cut = {name: _read(folder / name) for name in found & contents.keys()}
    return found == cut.keys() and all(
        part is not None and contents[name].startswith(part) for name, part in cut.items()
    )


def _write(path: Path, content: bytes) -> None:
    """Writes a whole file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None
