"""The chart of what is believed over two knobs at once.

Values stand side by side at equal distances, as the search has no others between them: a square each, not a
contour, which would show a belief of configs that do not exist.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from loracle.records.space import Value, number
from loracle.report.findings.records import Findings, TrialRow
from loracle.report.findings.surface import Grid, Surface
from loracle.report.page import wording
from loracle.report.page.scores import heights_of, hovers
from loracle.report.page.traces import INK, LEVELS, ORANGE, RED, Chart, layout_of, marks_at
from loracle.text.quantities import show_share

SURFACE = "surface-chart"
_LIKELY = 0.5  # probability to keep every guard, below which a square is outlined
_TICKS = 8  # values with room beside one another
_SMALLEST, _SPAN = 0.25, 0.7  # side of a square of which nothing is known, and how much it may grow
_CLOUD = 0.6  # of a square, that trials of the same values share


def surface_chart(found: Findings, one: Surface) -> Chart:
    """Squares by their believed score, as large as that is sure, with the trials."""
    cells = [
        (x, y)
        for y in range(len(one.values[1]))
        for x in range(len(one.values[0]))
        if one.scores[y][x] is not None
    ]
    heights = heights_of(found, [one.scores[y][x] for x, y in cells])
    low, high = min(heights), max(heights)
    widths = [found.scale * (_at(one.highs, cell) - _at(one.lows, cell)) for cell in cells]
    shapes, levels = [], []
    for (x, y), height, width in zip(cells, heights, widths, strict=True):
        level = _level(height, low, high, less_is_better=found.less_is_better)
        levels.append(level)
        shapes.append(
            _square(x, y, _side(width, high - low), {"fillcolor": LEVELS[level], "line": {"width": 0}})
        )
    red = {"line": {"color": RED, "width": 1}, "fillcolor": "rgba(0,0,0,0)"}
    lost = [cell for cell in cells if one.keeps is not None and _at(one.keeps, cell) < _LIKELY]
    shapes += [_square(*cell, 0.96, red) for cell in lost]
    across, up = (places([value], values)[0] for value, values in zip(one.at, one.values, strict=True))
    if across is not None and up is not None:
        shapes.append(_square(across, up, 1.0, red | {"line": {"color": INK, "width": 2}}))
    texts = [_hover(found, one, cell) for cell in cells]
    unseen = marks_at([x for x, _ in cells], [y for _, y in cells], texts, "belief", LEVELS[2], "square")
    unseen["marker"] |= {"size": 16, "opacity": 0}
    good = [row for row in found.trials if row.score is not None]
    bad = [row for row in found.trials if row.state == "failed"]
    traces = [
        unseen | {"showlegend": False},
        *_key(found, levels, low, high),
        *([_sign("likely loses a guard", RED, "square-open")] if lost else []),
        *_trials(found, one, (("trials", ORANGE, "circle", good), ("failed", RED, "x", bad))),
    ]
    layout = layout_of(*map(wording.in_figure, one.knobs)) | {"shapes": shapes, "hoverdistance": 60}
    for axis, values in zip(("xaxis", "yaxis"), one.values, strict=True):
        layout[axis] |= _ticks(values) | {"range": [-0.6, len(values) - 0.4], "showgrid": False}
    layout["xaxis"]["tickangle"] = 0
    return {"data": traces, "layout": layout, "narrow": {"tickangle": -35}}


def likely_lost(one: Surface) -> bool:
    """Whether some of it likely loses a guard."""
    known = [] if one.keeps is None else [keeps for row in one.keeps for keeps in row if keeps is not None]
    return any(keeps < _LIKELY for keeps in known)


def places(values: Sequence[Value], shown: Sequence[Value]) -> list[float | None]:
    """Where values stand among those that are shown: numbers in between by their logarithm, if they have one;
    None: a name that is not there."""
    if any(isinstance(value, str) for value in (*shown, *values)):
        return [float(shown.index(value)) if value in shown else None for value in values]
    numbers = [number(value) for value in shown]
    scale = math.log if min(numbers) > 0 else float
    ends = numbers[0], numbers[-1]
    kept = [scale(min(max(number(value), ends[0]), ends[1])) for value in values]
    return [
        float(place) for place in np.interp(kept, [scale(value) for value in numbers], range(len(numbers)))
    ]


# -- helpers ----------------------------------------------------------------------------------------


def _at(grid: Grid, cell: tuple[int, int]) -> float:
    value = grid[cell[1]][cell[0]]
    assert value is not None
    return value


def _level(height: float, low: float, high: float, *, less_is_better: bool) -> int:
    """Fifth of the range of scores, 4 the best."""
    if high <= low:
        return len(LEVELS) - 1
    fifth = min(len(LEVELS) - 1, int(len(LEVELS) * (height - low) / (high - low)))
    return len(LEVELS) - 1 - fifth if less_is_better else fifth


def _side(width: float, span: float) -> float:
    """Of a square, 1 being all its room: near that where its interval is narrow beside what colours span."""
    return _SMALLEST + (_SPAN * span / (span + width) if span > 0 else 0.0)


def _square(x: float, y: float, side: float, look: Chart) -> Chart:
    half = side / 2
    ends = {"x0": x - half, "x1": x + half, "y0": y - half, "y1": y + half}
    return {"type": "rect", "layer": "below", **ends, **look}


def _hover(found: Findings, one: Surface, cell: tuple[int, int]) -> str:
    own = [values[place] for values, place in zip(one.values, cell, strict=True)]
    knobs = ", ".join(
        f"{wording.in_figure(name)} {wording.value(value)}"
        for name, value in zip(one.knobs, own, strict=True)
    )
    score, low, high = (wording.score(found, _at(grid, cell)) for grid in (one.scores, one.lows, one.highs))
    keeps = "" if one.keeps is None else f"<br>keeps the guards with {show_share(_at(one.keeps, cell))}"
    return f"{knobs}<br>believed {score} ({low} to {high}){keeps}"


def _key(found: Findings, levels: Sequence[int], low: float, high: float) -> list[Chart]:
    """What the colours that are there mean, the best first."""
    signs = []
    for level in sorted(set(levels), reverse=True):
        fifth = len(LEVELS) - 1 - level if found.less_is_better else level
        ends = [low + (high - low) * (fifth + more) / len(LEVELS) for more in (0, 1)]
        shown = [wording.score(found, end / found.scale) for end in ends]
        name = shown[0] if high <= low else " to ".join(dict.fromkeys(shown))
        signs.append(_sign(name, LEVELS[level], "square"))
    return signs


def _sign(name: str, colour: str, symbol: str) -> Chart:
    """A line of the legend that stands for nothing else."""
    trace = marks_at([None], [None], [""], name, colour, symbol)
    trace["marker"] |= {"opacity": 1, "size": 11}
    return trace


def _trials(
    found: Findings, one: Surface, kinds: Sequence[tuple[str, str, str, Sequence[TrialRow]]]
) -> list[Chart]:
    """Trials at their two values, those of the same side by side."""
    spots = {row.number: _spot(one, row) for _, _, _, rows in kinds for row in rows}
    sharing = defaultdict(list)
    for trial, spot in spots.items():
        if spot is not None:
            sharing[spot].append(trial)
    moved: dict[int, tuple[float, float]] = {}
    for (x, y), trials in sharing.items():
        columns = math.ceil(math.sqrt(len(trials)))
        lines = math.ceil(len(trials) / columns)
        for i, trial in enumerate(trials):
            right, up = i % columns - (columns - 1) / 2, i // columns - (lines - 1) / 2
            moved[trial] = (x + right * _CLOUD / columns, y + up * _CLOUD / columns)
    traces = []
    for name, colour, symbol, rows in kinds:
        shown = [row for row in rows if row.number in moved]
        if shown:
            at = [moved[row.number] for row in shown]
            marks = marks_at(
                [x for x, _ in at], [y for _, y in at], hovers(found, shown), name, colour, symbol
            )
            marks["marker"] |= {"size": 7, "opacity": 1, "line": {"width": 1, "color": "var(--paper)"}}
            traces.append(marks)
    return traces


def _spot(one: Surface, row: TrialRow) -> tuple[float, float] | None:
    x, y = (places([row.config[n]], values)[0] for n, values in zip(one.knobs, one.values, strict=True))
    return None if x is None or y is None else (x, y)


def _ticks(values: Sequence[Value]) -> Chart:
    """Names of values as far as there is room, both ends among them."""
    n = min(len(values), _TICKS)
    shown = sorted({round(i * (len(values) - 1) / max(n - 1, 1)) for i in range(n)})
    return {"tickvals": shown, "ticktext": [wording.tick(values[i]) for i in shown]}
