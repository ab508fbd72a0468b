"""What came of a run: the comparison as a record, its sentences, and the file that keeps both."""

from __future__ import annotations

from loracle.report.verdict.comparison import (
    MIN_DIFFERING,
    RUNNERS_UP,
    Comparison,
    Difference,
    Finalist,
    GivenUp,
    GuardedSearch,
    PassedOver,
    Replicated,
    Replication,
    Standing,
)
from loracle.report.verdict.guards import guarded_search
from loracle.report.verdict.sentences import (
    edges,
    headline,
    not_measured,
    nothing_learnt,
    paired,
    relative_gain,
    result_notices,
    trained_once,
    verdict,
    verdict_lines,
)

__all__ = [
    "MIN_DIFFERING",
    "RUNNERS_UP",
    "Comparison",
    "Difference",
    "Finalist",
    "GivenUp",
    "GuardedSearch",
    "PassedOver",
    "Replicated",
    "Replication",
    "Standing",
    "edges",
    "guarded_search",
    "headline",
    "not_measured",
    "nothing_learnt",
    "paired",
    "relative_gain",
    "result_notices",
    "trained_once",
    "verdict",
    "verdict_lines",
]
