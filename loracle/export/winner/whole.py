"""Whether `best/` of a run is what its final training wrote."""

from __future__ import annotations

import json
from pathlib import Path

from loracle.errors import StudyError
from loracle.records.contents import checksum
from loracle.records.trial_files import BASE_PLACE, CHECKSUMS

_SETTINGS = "adapter_config.json"
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
        noted = json.loads((run / "final" / name / CHECKSUMS).read_text(encoding="utf-8"))
        files = {
            file.removeprefix("adapter/"): of for file, of in noted.items() if file.startswith("adapter/")
        }
    except (OSError, ValueError, AttributeError):
        return None
    adapter = run / "final" / name / "adapter"
    return [
        file
        for file, of in files.items()
        if file not in _OWN
        and not _is(run / "best" / file, of)
        and not (file == _SETTINGS and _is(adapter / file, of) and _names_another_place(run, adapter))
    ]


def _is(path: Path, noted: str) -> bool:
    """Whether a file is there, and what it was."""
    return path.is_file() and checksum(path) == noted


def _names_another_place(run: Path, adapter: Path) -> bool:
    """Whether the settings of the adapter in `best/` are those of this one but for the place of the base
    model, which was moved."""
    try:
        ours, theirs = (
            json.loads((folder / _SETTINGS).read_text(encoding="utf-8")) for folder in (run / "best", adapter)
        )
        return isinstance(ours.pop(BASE_PLACE), str) and ours == {
            name: value for name, value in theirs.items() if name != BASE_PLACE
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return False
