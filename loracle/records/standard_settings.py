"""What config files and the search both name: the settings everybody uses, and the presets.

The settings are what a search tries first, and what its winner is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loracle.records.space import Value

STANDARD: Mapping[str, Value] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.05,
    "learning_rate": 2e-4,
    "batch_size": 16,
}

PresetName = Literal["default", "numeric", "language", "paper"]  # each described in `search/presets.py`
