"""The charts of the page, as plotly takes them: plain data. Colours are names of the page's own variables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from loracle.config.metrics import show_loss
from loracle.records.space import Value
from loracle.report.findings.records import Curve, Findings, Share, TrialRow
from loracle.report.page import wording
from loracle.report.page.belief.slices import slice_chart
from loracle.report.page.belief.surface import SURFACE, surface_chart
from loracle.report.page.pareto import pareto_charts
from loracle.report.page.scores import axis_title, floor_of, heights_of, hover, hovers
from loracle.report.page.traces import (
    BLUE,
    GREY,
    INK,
    LEVELS,
    ORANGE,
    RED,
    Chart,
    layout_of,
    line_through,
    marks_at,
)
from loracle.text.quantities import show_share

_TICKS = 8


def charts(found: Findings) -> dict[str, Chart]:
    """All that there are data for, by the id of their place in the page."""
    made: dict[str, Chart] = {}
    if found.progress:
        made["progress-chart"] = _progress(found)
    made |= pareto_charts(found)
    if found.curves:
        made["curves-chart"] = _curves(found)
    if varied_knobs(found):
        made["parallel-chart"] = _parallel(found)
    for place, one in enumerate(found.slices):
        made[f"slice-{place}"] = slice_chart(found, one)
    if found.surface:
        made[SURFACE] = surface_chart(found, found.surface)
    if found.importance and len(found.importance.knobs) > 1:
        made["importance-chart"] = _importance(found)
    if found.prior:
        made["prior-chart"] = _prior(found)
    return made


# -- best so far --------------------------------------------------------------------------------------


def _progress(found: Findings) -> Chart:
    progress = found.progress
    assert progress is not None
    spent = dict(zip(progress.numbers, progress.seconds, strict=True))
    good = [row for row in found.trials if row.score is not None and row.number in spent]
    bad = [row for row in found.trials if row.failure and row.number in spent]
    heights = heights_of(found, [row.score for row in good])
    level_of = dict(zip([row.number for row in good], heights, strict=True))
    kept, lost = ([row for row in good if bool(row.broken) is one] for one in (False, True))
    floor = floor_of(found, heights)
    known = [(n, y) for n, y in zip(progress.numbers, progress.best, strict=True) if y is not None]
    reach = heights_of(found, [y for _, y in known], among=heights)
    ends = [progress.numbers[0], progress.numbers[-1]]
    word = "lowest" if found.less_is_better else "highest"
    traces = [
        *(
            marks_at([r.number for r in some], [level_of[r.number] for r in some], hovers(found, some), *look)
            for some, look in ((kept, ("trial", BLUE)), (lost, ("loses a guard", GREY, "circle-open")))
        ),
        line_through([n for n, _ in known], reach, f"{word} so far", ORANGE, shape="hv"),
        marks_at([row.number for row in bad], [floor] * len(bad), hovers(found, bad), "failed", RED, "x"),
    ]
    if progress.standard is not None:
        level = heights_of(found, [progress.standard], among=heights)
        line = line_through(ends, level * 2, "standard settings", GREY, dash="dash")
        traces.append(line | {"hovertext": f"standard settings: {wording.score(found, progress.standard)}"})
    traces = [trace for trace in traces if trace["x"]]
    by_cost = [[spent[number] for number in trace["x"]] for trace in traces]
    by_trial = [trace["x"] for trace in traces]
    layout = layout_of("trial", axis_title(found))
    if not good:
        layout["yaxis"]["visible"] = False
    return {
        "data": traces,
        "layout": layout,
        "choices": [
            {"name": "by trial", "title": "trial", "x": by_trial, "dtick": 1 if len(spent) < 12 else None},
            {"name": "by time", "title": "seconds of training and scoring, all trials", "x": by_cost},
        ],
    }


# -- learning curves ----------------------------------------------------------------------------------


def _curves(found: Findings) -> Chart:
    looks = {
        "other": ("other trials", "var(--faint)", 1),
        "failed": ("failed or interrupted", RED, 1.5),
        "standard": ("standard settings", GREY, 2.5),
        "winner": ("leading config" if not found.finished else "winner", ORANGE, 2.5),
    }
    traces = []
    for role, (name, colour, width) in looks.items():
        own = [curve for curve in found.curves if curve.role == role]
        if own:
            traces.append(_joined(own, name, colour, width))
    if any(curve.role == "failed" for curve in found.curves):
        ends = [curve for curve in found.curves if curve.role == "failed"]
        texts = [f"trial {curve.number} ended here" for curve in ends]
        x, y = [curve.steps[-1] for curve in ends], [curve.losses[-1] for curve in ends]
        traces.append(marks_at(x, y, texts, "ended early", RED, "x") | {"showlegend": False})
    for curve in found.curves:
        if curve.role in ("standard", "winner") and curve.validation_steps:
            (name, colour, _), found_there = looks[curve.role], curve.validation_losses
            texts = [f"validation loss {show_loss(loss)}" for loss in found_there]
            marks = marks_at(curve.validation_steps, found_there, texts, f"{name}, validation", colour)
            traces.append(marks)
    losses = [loss for curve in found.curves for loss in (*curve.losses, *curve.validation_losses)]
    layout = layout_of("step", "training loss")
    if min(losses) > 0 and max(losses) > 50 * min(losses):
        ticks = _powers(min(losses), max(losses))
        layout["yaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return {"data": traces, "layout": layout}


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten from one number to another, at most about six."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    return [10.0**exponent for exponent in range(first, last + 1, 1 + (last - first) // 6)]


def _joined(curves: Sequence[Curve], name: str, colour: str, width: float) -> Chart:
    """Several curves as one line with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for curve in curves:
        x += [*curve.steps, None]
        y += [*curve.losses, None]
        texts += [f"trial {curve.number}, step {step:g}: {show_loss(loss)}" for step, loss in _points(curve)]
        texts.append("")
    line = line_through(x, y, name, colour)
    return line | {"line": {"color": colour, "width": width}, "hovertext": texts, "hoverinfo": "text"}


def _points(curve: Curve) -> Iterable[tuple[float, float]]:
    return zip(curve.steps, curve.losses, strict=True)


# -- parallel coordinates -----------------------------------------------------------------------------


def varied_knobs(found: Findings) -> list[str]:
    """Knobs that have an axis: of which trials had more than one value."""
    seen: dict[str, set[Value]] = {}
    for row in found.ended:
        for name in found.knobs:
            seen.setdefault(name, set()).add(row.config[name])
    return [name for name in found.knobs if len(seen.get(name, ())) > 1]


def values_tried(found: Findings, name: str) -> list[Value]:
    """Values of a knob that trials had: numbers in order, names in that of the alphabet."""
    values = {row.config[name] for row in found.ended}
    names = sorted(value for value in values if isinstance(value, str))
    return [*sorted(value for value in values if not isinstance(value, str)), *names]


def _parallel(found: Findings) -> Chart:
    """One line a trial over an axis a knob and one of the score; the better, the stronger its colour."""
    names = varied_knobs(found)
    ticks = {name: values_tried(found, name) for name in names}
    good = [row for row in found.trials if row.value is not None]
    kept = sorted((row for row in good if not row.broken), key=lambda row: row.value or 0.0)
    level = {row.number: min(4, 5 * place // len(kept)) for place, row in enumerate(kept)}
    heights = dict(zip([row.number for row in good], heights_of(found, [r.score for r in good]), strict=True))
    low, high = min(heights.values(), default=0.0), max(heights.values(), default=1.0)
    if found.less_is_better:
        low, high = high, low
    groups: list[tuple[str, str, list[TrialRow]]] = [
        ("failed", RED, [row for row in found.trials if row.state == "failed"]),
        ("loses a guard", GREY, [row for row in good if row.broken]),
    ]
    names_of_levels = ("worst fifth", "", "middle", "", "best fifth")
    for i, colour in enumerate(LEVELS):
        groups.append((names_of_levels[i], colour, [r for r in kept if level[r.number] == i]))
    traces = []
    for title, colour, rows in groups:
        if rows:
            line = _across(found, rows, names, ticks, heights, (low, high))
            look = {"color": colour, "width": 1 + 0.4 * (title == "best fifth")}
            traces.append(line | {"name": title, "showlegend": bool(title), "line": look})
    layout = layout_of("", "")
    layout["xaxis"] |= {
        "tickvals": list(range(len(names) + 1)),
        "ticktext": [*map(wording.in_figure, names), wording.in_figure(found.title)],
        "range": [-0.35, len(names) + 0.35],
    }
    layout["yaxis"] |= {"visible": False, "range": [-0.08, 1.08]}
    layout["shapes"] = [
        {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": {"color": "var(--rule)", "width": 1}}
        for x in range(len(names) + 1)
    ]
    layout["annotations"] = _tick_texts(found, names, ticks, (low, high) if good else None)
    return {"data": traces, "layout": layout, "narrow": {"tickangle": -35}}


def _across(
    found: Findings,
    rows: Sequence[TrialRow],
    names: Sequence[str],
    ticks: dict[str, list[Value]],
    heights: dict[int, float],
    ends: tuple[float, float],
) -> Chart:
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    numbers: list[int | None] = []  # by them a brush knows which trial is whose
    for row in rows:
        for place, name in enumerate(names):
            x.append(place)
            y.append(ticks[name].index(row.config[name]) / (len(ticks[name]) - 1))
        if row.number in heights:
            width = ends[1] - ends[0]
            x.append(len(names))
            y.append((heights[row.number] - ends[0]) / width if width else 1.0)
        texts += [hover(found, row)] * (len(x) - len(texts))
        numbers += [row.number] * (len(x) - len(numbers))
        x.append(None)
        y.append(None)
        texts.append("")
        numbers.append(None)
    line = {"type": "scatter", "mode": "lines", "x": x, "y": y, "customdata": numbers}
    return line | {"hovertext": texts, "hoverinfo": "text"}


def _tick_texts(
    found: Findings, names: Sequence[str], ticks: dict[str, list[Value]], ends: tuple[float, float] | None
) -> list[Chart]:
    found_texts = []
    for place, name in enumerate(names):
        count = len(ticks[name])
        for i in sorted(
            {round(j * (count - 1) / (min(count, _TICKS) - 1)) for j in range(min(count, _TICKS))}
        ):
            found_texts.append(_at(place, i / (count - 1), wording.tick(ticks[name][i])))
    if ends is not None:
        worst, best = (wording.score(found, end / found.scale) for end in ends)
        far = any(
            abs(found.scale * row.score - ends[1]) > 1.01 * abs(ends[0] - ends[1])
            for row in found.trials
            if row.score is not None
        )
        found_texts += [
            _at(len(names), 0, f"{worst}<br>or worse" if far else worst),
            _at(len(names), 1, best),
        ]
    return found_texts


def _at(x: float, y: float, text: str) -> Chart:
    look = {"size": 11, "color": INK}
    place = {"x": x, "y": y, "xanchor": "center", "yanchor": "middle", "showarrow": False}
    return place | {"text": text, "font": look, "bgcolor": "var(--paper)", "borderpad": 1, "opacity": 0.9}


# -- belief -------------------------------------------------------------------------------------------


def _importance(found: Findings) -> Chart:
    assert found.importance is not None
    shares = list(found.importance.knobs)[::-1]
    pair = found.importance.interaction
    if pair is not None:
        shares.insert(0, pair)
    names = [" × ".join(map(wording.in_figure, share.knobs)) for share in shares]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * share.share for share in shares],
        "y": names,
        "name": "by itself, with its interval",
        "marker": {"color": [ORANGE if len(share.knobs) > 1 else BLUE for share in shares]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (share.high - share.share) for share in shares],
            "arrayminus": [100 * (share.share - share.low) for share in shares],
            "color": INK,
            "thickness": 1.2,
        },
        "hovertext": [_share_text(share) for share in shares],
        "hoverinfo": "text",
        "showlegend": False,
    }
    total = [(100 * share.total, name) for share, name in zip(shares, names, strict=True) if share.total]
    marks = marks_at([x for x, _ in total], [], [], "with all its interactions", INK, "line-ns-open")
    marks |= {"y": [name for _, name in total], "hoverinfo": "skip"}
    marks["marker"] |= {"size": 14, "line": {"width": 2, "color": INK}}
    layout = layout_of("variance explained, %", "")
    layout["xaxis"]["range"] = [0, 100]
    layout["yaxis"] |= {"showgrid": False, "ticksuffix": "\N{NO-BREAK SPACE}"}
    return {"data": [bars, marks], "layout": layout}


def _share_text(share: Share) -> str:
    name = " and ".join(map(wording.in_figure, share.knobs)) + (
        " beyond each" if len(share.knobs) > 1 else ""
    )
    interval = f"{show_share(share.low)} to {show_share(share.high)}"
    return f"<b>{name}</b>: {show_share(share.share)} ({interval})"


def _prior(found: Findings) -> Chart:
    assert found.prior is not None
    seen = [one for one in found.prior.expected if one.score is not None]
    bad = [one for one in found.prior.expected if one.score is None]
    rows = {row.number: row for row in found.trials}
    heights = heights_of(found, [one.score for one in seen])
    good_marks = marks_at(
        [100 * one.rank for one in seen],
        heights,
        hovers(found, [rows[one.number] for one in seen]),
        "trial",
        BLUE,
    )
    floor = floor_of(found, heights)
    texts = hovers(found, [rows[one.number] for one in bad])
    bad_marks = marks_at([100 * one.rank for one in bad], [floor] * len(bad), texts, "diverged", RED, "x")
    layout = layout_of(
        "expected before any trial: % of configs that the prior held for worse", axis_title(found)
    )
    layout["showlegend"] = bool(bad)
    return {"data": [trace for trace in (good_marks, bad_marks) if trace["x"]], "layout": layout}
