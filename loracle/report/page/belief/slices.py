"""The chart of what is believed along one knob."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loracle.records.space import Value, number
from loracle.report.findings.records import Findings, Slice, TrialRow
from loracle.report.page import wording
from loracle.report.page.scores import axis_title, floor_of, heights_of, hovers
from loracle.report.page.traces import BAND, BLUE, GREY, ORANGE, RED, Chart, layout_of, line_through, marks_at

_TICKS = 8
_LONG = 10  # characters of a name that need room


def slice_chart(found: Findings, one: Slice) -> Chart:
    """What is believed along a knob, with the trials; names stand side by side, without a line."""
    names = _names(found, one)
    place = {name: float(i) for i, name in enumerate(names)}.__getitem__ if one.named else number
    good = [row for row in found.trials if row.score is not None]
    bad = [row for row in found.trials if row.state == "failed"]
    heights = heights_of(found, [row.score for row in good])
    low, middle, high = (
        heights_of(found, [getattr(p, name) for p in one.points], among=heights)
        for name in ("low", "score", "high")
    )
    floor = floor_of(found, [*heights, *low, *high])

    def at(rows: Sequence[TrialRow]) -> list[float]:
        return [place(row.config[one.knob]) for row in rows]

    traces = [
        *_believed(found, one, [place(point.value) for point in one.points], (low, middle, high)),
        marks_at(at(good), heights, hovers(found, good), "trials", ORANGE),
        marks_at(at(bad), [floor] * len(bad), hovers(found, bad), "failed", RED, "x"),
    ]
    layout = layout_of(wording.in_figure(one.knob), axis_title(found))
    shown = names if one.named else _apart(one)
    texts = list(map(wording.tick, shown))
    layout["xaxis"] |= {"tickvals": list(map(place, shown)), "ticktext": texts, "tickangle": 0}
    if one.named:
        layout["xaxis"] |= {"range": [-0.5, len(names) - 0.5], "showgrid": False}
        layout["xaxis"]["tickangle"] = -35 if max(map(len, texts)) > _LONG else 0
    if one.logarithmic:
        layout["xaxis"]["type"] = "log"
    look = {"color": GREY, "width": 1, "dash": "dot"}
    ends = {"x0": place(one.at), "x1": place(one.at), "yref": "paper", "y0": 0, "y1": 1}
    layout["shapes"] = [{"type": "line", **ends, "line": look}]
    layout["showlegend"] = False
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def _believed(
    found: Findings, one: Slice, x: Sequence[float], ends: tuple[list[float], list[float], list[float]]
) -> list[Chart]:
    """The belief with its interval: a band, or for names a bar each."""
    low, middle, high = ends
    texts = [
        f"{wording.in_figure(one.knob)} {wording.value(p.value)}<br>believed {wording.score(found, p.score)} "
        f"({wording.score(found, p.low)} to {wording.score(found, p.high)})"
        for p in one.points
    ]
    name = "belief, the other knobs as leading"
    if one.named:
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [top - own for top, own in zip(high, middle, strict=True)],
            "arrayminus": [own - bottom for bottom, own in zip(low, middle, strict=True)],
            "color": BLUE,
            "thickness": 1.2,
        }
        return [marks_at(x, middle, texts, name, BLUE, "line-ew-open") | {"error_y": bars}]
    band = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    line = line_through(x, middle, name, BLUE) | {"hovertext": texts, "hoverinfo": "text"}
    return [
        band | {"x": x, "y": low},
        band | {"x": x, "y": high, "fill": "tonexty", "fillcolor": BAND},
        line | {"mode": "lines+markers", "marker": {"size": 5}},
    ]


def _names(found: Findings, one: Slice) -> list[Value]:
    """The names that stand side by side: those of the belief, then those that only trials have."""
    tried = (row.config[one.knob] for row in found.trials)
    return list(dict.fromkeys((*(point.value for point in one.points), one.at, *tried)))


def _apart(one: Slice) -> list[float]:
    """Values of a knob that have room side by side: both ends, and what is far enough from all."""
    values = [number(point.value) for point in one.points]
    places = np.array([math.log(value) if one.logarithmic else value for value in values])
    places = (places - places[0]) / (places[-1] - places[0])
    kept = [0, len(values) - 1]
    for i in range(1, len(values) - 1):
        if min(abs(places[i] - places[j]) for j in kept) >= 1 / _TICKS:
            kept.append(i)
    return [values[i] for i in sorted(kept)]
