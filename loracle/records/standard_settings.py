"""The settings everybody uses: what a search tries first, and what its winner is compared with."""

from __future__ import annotations

from collections.abc import Mapping

from loracle.records.space import Value

STANDARD: Mapping[str, Value] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.05,
    "learning_rate": 2e-4,
    "batch_size": 16,
}
