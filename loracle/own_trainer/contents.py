"""Hashes of the source of a user's own trainer: what its command names, or where its function is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from loracle.config.placeholders import placeholders, split_command
from loracle.config.settings import ObjectiveConfig
from loracle.records.contents import file_hash

_LARGEST_FILE = 64_000_000  # bytes of a command's file: what is larger is no script


def trainer_contents(settings: ObjectiveConfig) -> dict[str, str]:
    """Hashes by name; empty where the source cannot be told."""
    if settings.function is not None:
        source = _source(settings.function.rpartition(":")[0], settings.working_folder)
        return {} if source is None else {f"source of {settings.function}": file_hash(source)}
    assert settings.command is not None
    found = {}
    for part in split_command(settings.command):
        path = settings.working_folder / part
        if not placeholders(part) and path.is_file() and path.stat().st_size <= _LARGEST_FILE:
            found[part] = file_hash(path)
    return found


def _source(module: str, folder: Path) -> Path | None:
    """The file that a function comes from; None: it cannot be told without importing anything."""
    if module.endswith(".py"):
        return folder / module
    nested = folder.joinpath(*module.split("."))
    for path in (nested.with_suffix(".py"), nested / "__init__.py"):
        if path.is_file():
            return path
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is None:
        try:
            spec = importlib.util.find_spec(module.partition(".")[0])
        except (ImportError, ValueError):
            return None
        known = spec.origin if spec is not None and "." not in module else None
    return None if known is None or not Path(known).is_file() else Path(known)
