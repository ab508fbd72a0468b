"""Whether `best/` of a run is what its final training wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from loracle.errors import StudyError

_OWN = ("README.md", "recipe.yaml")  # written for `best/` alone


def require_whole(run: Path) -> None:
    """Compares `best/` with the checksums of the final training that it was made of.

    A run without them, of an earlier version or copied without `final/`, is taken as it is.

    Raises:
        StudyError: a file is missing, or is not what was written.
    """
    wrong = [found for name in ("winner", "standard") if (found := _wrong(run, name)) is not None]
    if wrong and all(wrong):
        files = min(wrong, key=len)
        said = ", ".join(
            f"{name} is {'damaged' if (run / 'best' / name).exists() else 'missing'}" for name in files
        )
        raise StudyError(f"{run / 'best'}: {said}; loracle tune {run / 'config.yaml'} makes it again")


def _wrong(run: Path, name: str) -> list[str] | None:
    """Files of `best/` that are not those of this final training; None where nobody noted its checksums."""
    try:
        noted = json.loads((run / "final" / name / "checksums.json").read_text(encoding="utf-8"))
        files = {
            file.removeprefix("adapter/"): of for file, of in noted.items() if file.startswith("adapter/")
        }
    except (OSError, ValueError, AttributeError):
        return None
    return [file for file, of in files.items() if file not in _OWN and _sum(run / "best" / file) != of]


def _sum(path: Path) -> str | None:
    """sha256 of a file; None: it is not there."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
