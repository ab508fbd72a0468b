"""What scores of a user's own trainer are."""

from __future__ import annotations

from loracle.config.metrics.metric import Metric


class OwnValue(Metric):
    """What a trainer of the user's own gives, shown as it is."""

    name, needs = "value", "nothing"
    table = "own"


class OwnCost(OwnValue):
    """The same, where less is better."""

    name, less_is_better = "cost", True
