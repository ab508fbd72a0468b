"""A search over `faults.py`, and waiting for what its workers give."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from conftest import write_config
from places import TESTS
from processes import PATIENCE

from loracle.execution.executor import Done, Executor

FAULTS = TESTS / "faults.py"
CONFIG = {"rank": 8, "alpha_ratio": 1, "alpha": 8, "learning_rate": 1e-3}


def config_file(folder: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "objective": {"function": f"{FAULTS}:train", "direction": "maximize"},
        "space": {
            "base": "empty",
            "knobs": {
                "rank": {"values": [1, 2, 4, 8, 16, 32], "scale": "log2"},
                "alpha_ratio": {"values": [1, 2]},
                "learning_rate": {"values": [1e-5, 1e-4, 1e-3, 1e-2], "scale": "log10"},
            },
        },
        "search": {"trials": 8},
    }
    return write_config(folder / "config.yaml", content, changes)


def wait(workers: Executor, seconds: float = PATIENCE) -> list[Done]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = workers.wait(1.0, lambda *_: None)
        if done:
            return done
    raise AssertionError(f"nothing came within {seconds} s")
