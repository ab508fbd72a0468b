"""Hashes of the source of a user's own trainer: what its command names, or what its function is made of."""

from __future__ import annotations

from loracle.config.placeholders import placeholders, split_command
from loracle.config.settings import ObjectiveConfig
from loracle.config.user_function import source_hashes
from loracle.records.contents import file_hash

_LARGEST_FILE = 64_000_000  # bytes of a command's file: what is larger is no script


def trainer_contents(settings: ObjectiveConfig) -> dict[str, str]:
    """Hashes by name; empty where the source cannot be told."""
    if settings.function is not None:
        return source_hashes(settings.function, settings.working_folder)
    assert settings.command is not None
    found = {}
    for part in split_command(settings.command):
        path = settings.working_folder / part
        if not placeholders(part) and path.is_file() and path.stat().st_size <= _LARGEST_FILE:
            found[part] = file_hash(path)
    return found
