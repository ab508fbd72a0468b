"""Runs that are really finished, on the tiny model, for what reads a run's folder afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import copy_rows, write_config

from loracle.config.loading import load_config
from loracle.run.tune import tune


def finish(
    folder: Path, model: Path, rows: Sequence[Mapping[str, Any]] | None = None, **changes: Any
) -> Path:
    """Runs one trial and the final training; gives the run's folder. Keyword arguments change the config."""
    knobs = {"rank": [4], "alpha_ratio": [2], "dropout": [0.0], "batch_size": [8], "learning_rate": [1e-3]}
    used = copy_rows(60) if rows is None else rows
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in used))
    content = {
        "model": str(model),
        "device": "cpu",
        "threads": 1,
        "data": {"train": "train.jsonl", "proxy": 0.5, "proxy_minimum": 10, "max_length": 48},
        "space": {"base": "empty", "knobs": {name: {"values": values} for name, values in knobs.items()}},
        "standard": {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-3},
        "language": {"model": "none"},
        "search": {"trials": 1},
        "execution": {"workers": 0},
    }
    path = write_config(folder / "config.yaml", content, changes)
    tune(load_config(path))
    return folder / "run"
