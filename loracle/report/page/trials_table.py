"""The table of all trials, which the page sorts and filters."""

from __future__ import annotations

from collections.abc import Sequence

from loracle.config.metrics import metric_of
from loracle.records.space import Value
from loracle.report.findings.records import Findings, TrialRow
from loracle.report.page import wording
from loracle.report.page.charts import values_tried, varied_knobs
from loracle.report.page.markup import Part, own, scrolling, section, text
from loracle.report.wording import knob_titles, show_reading, show_value, shown_knobs
from loracle.text.quantities import show_seconds

_COLUMNS = ("trial", "score", "seconds", "what came of it")


def trials_table(found: Findings) -> Part:
    """The part with its fields to filter by."""
    if not found.trials:
        return section("trials", "Trials", "All trials", why="There are no trials yet.")
    names = list(shown_knobs(found.trials[0].config))
    titles = knob_titles(names, _COLUMNS)
    first = shown_knobs(found.trials[0].config)
    kinds = {name: "text" if isinstance(value, str) else "number" for name, value in first.items()}
    heads = [("trial", "number"), *((titles[name], kinds[name]) for name in names)]
    heads += [(found.title, "number"), *((metric_of(name).title, "number") for name in _others(found))]
    heads += [("seconds", "number"), ("what came of it", "text")]
    top = "".join(
        f'<th scope="col" aria-sort="none"><button type="button" data-kind="{kind}">{text(name, 60)}'
        "</button></th>"
        for name, kind in heads
    )
    beside = {} if found.pareto is None else {one.number: one.scores[1:] for one in found.pareto.trials}
    body = "".join(_row(found, row, names, beside.get(row.number, ())) for row in found.trials)
    states = [state for state in _STATES if any(row.state == state for row in found.trials)]
    choices = "".join(f'<option value="{state}">{state}</option>' for state in states)
    fields = (
        '<div class="fields"><label>Find <input type="search" id="trials-text" '
        'placeholder="rank 16, diverged ..."></label>'
        f'<label>State <select id="trials-state"><option value="">all</option>{choices}</select></label>'
        '<output id="trials-count" aria-live="polite"></output></div>'
    )
    whole = f'<table id="trials-table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return section("trials", "Trials", "All trials", fields, scrolling(whole, "All trials: table"))


def axis_fields(found: Findings) -> str:
    """Fields that choose the ranges of the axes where nobody drags along them: for keyboards and readers of
    screens. An option's value is its height on the axis."""
    names = varied_knobs(found)
    titles = knob_titles(names, _COLUMNS)
    axes = []
    for place, name in enumerate(names):
        values = values_tried(found, name)
        heights = [(str(i / (len(values) - 1)), show_value(value)) for i, value in enumerate(values)]
        named = isinstance(values[0], str)
        ends = [("only", "all")] if named else [("from", "lowest"), ("to", "highest")]
        axes.append((titles[name], place, heights, ends))
    parts = [("0.5", "upper half"), ("0.75", "upper quarter")]
    axes.append((found.title, len(names), parts, [("from", "all of the axis")]))
    inside = ""
    for title, place, heights, ends in axes:
        fields = "".join(_choice(place, end, none, heights) for end, none in ends)
        inside += f"<fieldset><legend>{text(title, 60)}</legend>{fields}</fieldset>"
    summary = "<summary>Choose the parts of the axes without dragging</summary>"
    return f'<details class="by-axis">{summary}<div class="fields">{inside}</div></details>'


def _choice(place: int, end: str, none: str, heights: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{y}">{text(shown, 60)}</option>' for y, shown in heights)
    return (
        f'<label>{end} <select data-axis="{place}" data-end="{end}"><option value="">{none}</option>{options}'
        "</select></label>"
    )


_STATES = ("succeeded", "failed", "interrupted", "running")


def _others(found: Findings) -> tuple[str, ...]:
    """The objectives after the first."""
    return () if found.pareto is None else found.pareto.objectives[1:]


def _row(found: Findings, row: TrialRow, names: list[str], beside: tuple[float, ...]) -> str:
    config = shown_knobs(row.config)
    mark = " leads" if row.number == found.leader else ""
    cells = [f'<th scope="row" data-value="{row.number}">{row.number}</th>']
    cells += [_value(config[name]) for name in names]
    shown = "" if row.score is None else wording.score(found, row.score)
    cells.append(_number(row.score, shown))
    for place, name in enumerate(_others(found)):
        score = beside[place] if beside else None
        cells.append(_number(score, "" if score is None else show_reading(score, name)))
    cells.append(_number(row.seconds, "" if row.seconds is None else show_seconds(row.seconds)))
    cells.append(f'<td class="said">{_said(found, row)}</td>')
    searched = ", ".join(f"{name} {show_value(config[name])}" for name in names)
    inside = "".join(cells)
    about = f'data-state="{row.state}" data-text="{text(searched)}"'
    return f'<tr class="{row.state}{mark}" {about}>{inside}</tr>'


def _value(value: Value) -> str:
    """A number, or a name, which is the user's own text."""
    return f"<td>{own(value)}</td>" if isinstance(value, str) else _number(value, show_value(value))


def _number(number: float | None, shown: str) -> str:
    value = "" if number is None else repr(float(number))
    return f'<td class="number" data-value="{value}">{text(shown)}</td>'


def _said(found: Findings, row: TrialRow) -> str:
    if row.failure:
        cause = f": {own(row.message, 600)}" if row.message else ""
        return f"<strong>{text(row.failure.replace('_', ' '))}</strong>{cause}"
    said = "" if row.state == "succeeded" else text(row.state)
    if row.number == found.leader:
        said = "<strong>won</strong>" if found.finished else "<strong>leads</strong>"
    lost = f"loses {text(' and '.join(row.broken))}" if row.broken else ""
    return ", ".join(part for part in (said, lost) if part)
