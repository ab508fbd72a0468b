"""PEFT's own layout: the adapter with its tokenizer, chat template and model card, and the recipe.

`PeftModel.from_pretrained(base, folder)` loads it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from loracle.export.winner.reading import Winner


def write(winner: Winner, folder: Path) -> list[str]:
    """Copies `best/` of a run."""
    shutil.copytree(winner.adapter, folder, dirs_exist_ok=True)
    if winner.devices != 1 or winner.micro_batch is not None:
        return [
            "--devices and --micro-batch change nothing here: an adapter is trained, and its recipe says how"
        ]
    return []
