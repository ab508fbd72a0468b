"""PEFT's own layout: the adapter with its tokenizer, and the recipe.

`PeftModel.from_pretrained(base, folder)` loads it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from loracle.errors import StudyError

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write(run: Path, folder: Path) -> None:
    """Copies `best/` of a run. Raises StudyError: there is no adapter yet."""
    source = run / "best"
    missing = [name for name in _FILES if not (source / name).exists()]
    if missing:
        raise StudyError(
            f"{run}: there is no trained adapter yet (no best/{missing[0]}); run loracle tune first"
        )
    shutil.copytree(source, folder, dirs_exist_ok=True)
