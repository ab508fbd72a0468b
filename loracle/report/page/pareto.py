"""Several objectives on the page: the Pareto set as a table, and what all trials scored, in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from loracle.config.metrics import metric_of
from loracle.config.metrics.metric import Metric
from loracle.report.findings.records import Findings, ParetoSet, ScoredTrial
from loracle.report.objectives import PARETO, compromise
from loracle.report.page import wording
from loracle.report.page.markup import Part, chart, paragraph, section, table, text
from loracle.report.page.traces import BLUE, GREY, INK, ORANGE, Chart, layout_of, line_through, marks_at
from loracle.report.wording import show_reading, show_value, shown_knobs


def pareto_part(found: Findings) -> Part:
    """Table and charts; nothing where there is one objective."""
    pareto = found.pareto
    title = "Pareto set"
    if pareto is None:
        return section("pareto", title, title, why="There is one objective.")
    if not pareto.trials:
        return section("pareto", title, title, why="No trial has succeeded.")
    first, *others = (metric_of(name).title for name in pareto.objectives)
    said = paragraph(
        text(f"{PARETO}."),
        text(f"{_chosen(found, pareto)}."),
        text(f"Scores and beliefs in other parts of the page are of {first}, the first objective."),
    )
    places = [
        chart(f"pareto-{i}", f"{first} against {other} of all trials, with the Pareto front.", "small")
        for i, other in enumerate(others)
    ]
    grid = (
        f'<div class="grid">{"".join(places)}</div>' if len(places) > 1 else places[0].replace(" small", "")
    )
    return section("pareto", title, title, said, table(_rows(found, pareto), title), grid)


def pareto_charts(found: Findings) -> dict[str, Chart]:
    """The first objective against each other one, by the id of its place."""
    pareto = found.pareto
    if pareto is None or not pareto.trials:
        return {}
    return {f"pareto-{i - 1}": _chart(found, pareto, i) for i in range(1, len(pareto.objectives))}


# -- helpers ----------------------------------------------------------------------------------------


def _chosen(found: Findings, pareto: ParetoSet) -> str:
    """Which config is trained on all data."""
    inside = any(trial.on_front and trial.number == found.leader for trial in pareto.trials)
    said = compromise(None if inside else found.leader)
    return (
        said
        if found.finished
        else said.replace("The winner, which alone is", "What leads, and would alone be", 1)
    )


def _rows(found: Findings, pareto: ParetoSet) -> list[list[str]]:
    configs = {row.number: shown_knobs(row.config) for row in found.trials}
    front = [trial for trial in pareto.trials if trial.on_front]
    heads = [*configs[front[0].number], *(metric_of(name).title for name in pareto.objectives)]
    rows = [["trial", *heads]]
    for trial in front:
        scores = [show_reading(x, name) for x, name in zip(trial.scores, pareto.objectives, strict=True)]
        mark = "" if trial.number != found.leader else " (winner)" if found.finished else " (leads)"
        rows.append([f"{trial.number}{mark}", *map(show_value, configs[trial.number].values()), *scores])
    return rows


def _chart(found: Findings, pareto: ParetoSet, place: int) -> Chart:
    def points(trials: Sequence[ScoredTrial], name: str, colour: str, symbol: str, size: int) -> Chart:
        x = [scales[0] * trial.scores[0] for trial in trials]
        y = [scales[1] * trial.scores[place] for trial in trials]
        found_marks = marks_at(x, y, [_hover(found, pareto, trial) for trial in trials], name, colour, symbol)
        found_marks["marker"] |= {"size": size}
        return found_marks

    metrics = [metric_of(pareto.objectives[i]) for i in (0, place)]
    scales = [metric.scale for metric in metrics]
    front = sorted((one for one in pareto.trials if one.on_front), key=lambda one: one.scores[0])
    line = line_through([], [], "Pareto front", ORANGE, dash="dot")
    line |= {"x": [scales[0] * one.scores[0] for one in front], "hoverinfo": "skip"}
    line |= {"y": [scales[1] * one.scores[place] for one in front]}
    rest = [one for one in pareto.trials if not one.on_front]
    traces = [
        points(rest, "other trials", BLUE, "circle", 8),
        *([line] if len(pareto.objectives) == 2 else []),
        points(front, "Pareto set", ORANGE, "circle", 10),
        points(
            [one for one in pareto.trials if one.number == pareto.standard],
            "standard settings",
            GREY,
            "x",
            10,
        ),
        points(
            [one for one in pareto.trials if one.number == found.leader],
            "winner" if found.finished else "leading config",
            INK,
            "circle-open",
            16,
        ),
    ]
    titles = [wording.in_figure(_axis(metric)) for metric in metrics]
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout_of(*titles)}


def _axis(metric: Metric) -> str:
    unit = ", %" if metric.proportion else ""
    return f"{metric.title}{unit} ({'less' if metric.less_is_better else 'more'} is better)"


def _hover(found: Findings, pareto: ParetoSet, trial: ScoredTrial) -> str:
    scores = zip(pareto.objectives, trial.scores, strict=True)
    lines = [f"{wording.in_figure(metric_of(name).title)} {show_reading(x, name)}" for name, x in scores]
    config = next(row.config for row in found.trials if row.number == trial.number)
    knobs = [f"{wording.in_figure(name)} {show_value(x)}" for name, x in shown_knobs(config).items()]
    shown = [", ".join(knobs[i : i + 2]) for i in range(0, len(knobs), 2)]
    return "<br>".join([f"<b>trial {trial.number}</b>", *lines, *shown])
