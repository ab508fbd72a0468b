"""The metrics that trials are scored by, one small object each. A new metric is a new object in `METRICS`.

A metric says what it `needs` of the trained model; `training/scoring` provides that for every example, and
asks the metric to `rate` it. Everything that writes a score asks the metric to `show` it.
"""

from __future__ import annotations

from loracle.config.metrics.metric import Item, Metric, Needs, Share, show_loss
from loracle.config.metrics.registry import METRICS, OWN_METRICS, known_metrics, metric_of

__all__ = [
    "METRICS",
    "OWN_METRICS",
    "Item",
    "Metric",
    "Needs",
    "Share",
    "known_metrics",
    "metric_of",
    "show_loss",
]
