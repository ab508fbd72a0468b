"""The winner for other tools."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from loracle.errors import StudyError

_PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")


def export_peft(run: Path, destination: Path) -> list[Path]:
    """Copies the winning adapter, in PEFT's layout, and its recipe; returns the files written.

    `PeftModel.from_pretrained(base, destination)` loads it.

    Args:
        run: a finished run folder.
        destination: a folder that is new or empty.

    Raises:
        StudyError: the run has no adapter yet, or the destination is in use.
    """
    source = run / "best"
    missing = [name for name in _PEFT_FILES if not (source / name).exists()]
    if missing:
        raise StudyError(
            f"{run}: there is no trained adapter yet (no best/{missing[0]}); run loracle tune first"
        )
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise StudyError(f"{destination} is not an empty folder; name another")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
        try:
            shutil.copytree(source, partial, dirs_exist_ok=True)
            partial.chmod(0o755)
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
