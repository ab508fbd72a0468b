"""What config files and the search both name: the settings everybody uses, scales of knobs, and the presets.

The settings are what a search tries first, and what its winner is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from loracle.records.space import Scale, Value

STANDARD: Mapping[str, Value] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.05,
    "learning_rate": 2e-4,
    "batch_size": 16,
}

# The scale on which the steps of a knob are comparable; that of other knobs is linear, or not known.
SCALES: Mapping[str, Scale] = {
    "rank": "log2",
    "alpha": "log2",
    "alpha_ratio": "log2",
    "batch_size": "log2",
    "learning_rate": "log10",
}

# Each described in `search/presets.py`.
PresetName = Literal["default", "thorough", "numeric", "language", "paper"]
