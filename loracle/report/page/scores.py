"""What the charts of the page share: scores as heights, and what a trial tells who hovers over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from loracle.report.axis_limits import clipped
from loracle.report.findings.records import Findings, TrialRow
from loracle.report.page import wording
from loracle.report.wording import shown_knobs
from loracle.text.quantities import show_duration


def hovers(found: Findings, rows: Iterable[TrialRow]) -> list[str]:
    """What each of some trials tells."""
    return [hover(found, row) for row in rows]


def hover(found: Findings, row: TrialRow) -> str:
    """What came of a trial, and its settings, in a few lines."""
    head = f"<b>trial {row.number}</b>"
    if row.score is not None:
        head += f": {wording.score(found, row.score)}"
    elif row.failure:
        head += f": {wording.in_figure(row.failure.replace('_', ' '))}"
    lines = [f"{wording.in_figure(name)} {wording.value(x)}" for name, x in shown_knobs(row.config).items()]
    shown = [", ".join(lines[i : i + 2]) for i in range(0, len(lines), 2)]
    if row.seconds is not None:
        shown.append(show_duration(row.seconds))
    if row.broken:
        shown.append(f"loses {wording.in_figure(' and '.join(row.broken))}")
    return "<br>".join([head, *shown])


def axis_title(found: Findings) -> str:
    """The metric with its unit."""
    return wording.in_figure(f"{found.title}, {found.unit}" if found.unit else found.title)


def heights_of(
    found: Findings, scores: Sequence[float | None], among: Sequence[float] | None = None
) -> list[float]:
    """Scores as the axis shows them; those far from the others, `among` which they are drawn, at the edge.

    Shares stay: all are between 0 and 100.
    """
    values = np.array([found.scale * (score or 0.0) for score in scores], dtype=float)
    if found.unit == "%" or not len(values):
        return [float(value) for value in values]
    if among is None:
        shown, _, _ = clipped(np.clip(values, -1e30, 1e30))
    else:
        ends = [end for end in among if math.isfinite(end)] or [0.0]
        low, high = clipped(np.clip(np.array(ends), -1e30, 1e30))[1:]
        shown = np.clip(values, low, high) if low > -math.inf else np.clip(values, -1e30, 1e30)
    return [float(value) for value in shown]


def floor_of(found: Findings, heights: Sequence[float]) -> float:
    """Where failed trials stand: with the worst that is shown."""
    if not heights:
        return 0.0
    return max(heights) if found.less_is_better else min(heights)
