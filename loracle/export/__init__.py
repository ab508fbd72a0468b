"""The winner for other tools. Each other module of this folder is a dialect, found by its name.

A dialect has `write(winner, folder)`: it writes the winner of a run into a folder that is new and empty,
returns in words what its files cannot say, and raises LoracleError where it cannot hold the winner at all.
One whose files are settings and rows has `settings(winner, rows)`, too: the former's texts by file name.
One that loads the model or its tokenizer has `LOADS_MODELS = True`.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from loracle.errors import LoracleError, StudyError, suggest
from loracle.export.winner.reading import Winner, require_winner
from loracle.export.winner.whole import require_whole

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example


@dataclass(frozen=True)
class Exported:
    """Files that were written, and in words what they cannot say, or what was found while they were made."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def dialects() -> tuple[str, ...]:
    """Names of the dialects that there are; none is loaded."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg))


def loads_models(dialect: str) -> bool:
    """Whether a dialect loads the model or its tokenizer; no word of theirs is for the user."""
    return dialect in dialects() and getattr(import_module(f"{__name__}.{dialect}"), "LOADS_MODELS", False)


def export(
    run: Path, destination: Path, dialect: str, *, devices: int = 1, micro_batch: int | None = None
) -> Exported:
    """Writes the winner of a run in a dialect: whole, or not at all.

    Args:
        run: a finished run folder.
        destination: a folder that is new or empty.
        dialect: one of `dialects`.
        devices: that shall train together, where the dialect is that of a trainer.
        micro_batch: sequences on each of them at once; None: as many as are known to fit.

    Raises:
        LoracleError: there is no such dialect, it cannot hold the winner, the run lacks what it needs, the
            effective batch cannot be split so, the adapter is damaged, or the destination is in use.
    """
    if dialect not in dialects():
        close = suggest(dialect, dialects()).replace("it has", "there are:")
        raise StudyError(f"there is no format {dialect!r} to export to{close}")
    write = import_module(f"{__name__}.{dialect}").write
    try:
        if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
            raise StudyError(f"{destination} is not an empty folder; name another")
        require_winner(run)
        require_whole(run)
        notes = _written(write, Winner(run, devices, micro_batch), destination)
    except OSError as error:
        raise StudyError(_stopped(error, destination)) from None
    except SafetensorError as error:  # of a run without checksums
        raise StudyError(
            f"{run / 'best'}: the adapter cannot be read ({error}); loracle tune {run / 'config.yaml'} makes "
            "it again"
        ) from None
    files = sorted(path for path in destination.rglob("*") if path.is_file())
    return Exported(tuple(files), tuple(notes))


def settings_texts(run: Path, rows: Sequence[Example]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The winner's settings in every dialect that has a text of them: by dialect, then by file name.

    And by dialect, why there are none: it cannot hold this winner, or looks at the rows, and none are given.
    Nothing is written or fetched, no model is loaded.

    Args:
        run: a finished run folder.
        rows: that were trained on, or some of them: what they look like decides how a dialect reads them.

    Raises:
        LoracleError: the run has left no adapter, or its recipe cannot be read.
    """
    require_winner(run)
    winner, found, without = Winner(run), {}, {}
    for dialect in dialects():
        module = import_module(f"{__name__}.{dialect}")
        if not hasattr(module, "settings"):
            continue
        if not rows and getattr(module, "NEEDS_ROWS", True):
            without[dialect] = "its settings depend on the rows, which are not read here"
            continue
        try:
            found[dialect] = dict(module.settings(winner, rows)[0])
        except LoracleError as error:
            without[dialect] = str(error)
    return found, without


def _written(
    write: Callable[[Winner, Path], Sequence[str]], winner: Winner, destination: Path
) -> Sequence[str]:
    """Has a dialect write into a folder beside the destination, which then gets its name; its notes."""
    near = next(folder for folder in destination.absolute().parents if folder.exists())
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=near))
    try:
        notes = write(winner, partial)
        partial.chmod(0o755)
        destination.parent.mkdir(parents=True, exist_ok=True)
        _put(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return notes


def _stopped(error: OSError, destination: Path) -> str:
    """What kept an export from being made: something that it writes, or something that it is made of."""
    if isinstance(error, shutil.Error):  # of files that were copied together
        source, _, why = error.args[0][0]
        return f"{destination} cannot be made of {source}: {why}"
    why = error.strerror or str(error)
    if error.filename is None:
        return f"{destination} cannot be made: {why}"
    place, made = Path(os.fsdecode(error.filename)).absolute(), destination.absolute()
    partly = any(part.startswith(f".{destination.name}-") for part in place.parts)
    if partly or place == made or place in made.parents or made in place.parents:
        return f"{destination} cannot be written: {why}"
    return f"{destination} cannot be made of {place}: {why}"


def _put(made: Path, destination: Path) -> None:
    """Gives a finished folder its name: at once, where that is not the folder that somebody is in."""
    try:
        os.replace(made, destination)
    except OSError:
        destination.mkdir(exist_ok=True)
        for file in made.iterdir():
            os.replace(file, destination / file.name)
