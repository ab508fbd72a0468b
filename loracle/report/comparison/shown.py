"""Several runs for people: one table, a sentence a pair, one figure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.records.codec import to_plain
from loracle.report.comparison.records import Pair, RunRow, RunsCompared
from loracle.report.tables import guards_json
from loracle.report.verdict.guards import reading_text
from loracle.report.wording import show_against, show_score, show_with_interval
from loracle.text.quantities import show_duration

_COLUMNS = ("run", "model", "data", "variant", "search", "metric", "winner", "standard", "verdict", "trials")


def table(found: RunsCompared) -> list[list[str]]:
    """A row a run, first the titles; with guards where a run has some."""
    watched = any(row.guards for row in found.runs)
    rows = [[*_COLUMNS, "time", *(["guards"] if watched else [])]]
    for row in found.runs:
        standard = "" if row.standard is None else show_score(row.standard, row.metric)
        named = [row.run, row.model, row.data, row.variant, row.preset, metric_of(row.metric).title]
        lost = [name for name, reading in row.guards.items() if not reading.kept]
        verdict = row.standing.replace("_", " ") + (f", loses {' and '.join(lost)}" if lost else "")
        cells = [*named, _winner(row), standard, verdict, str(row.trials), show_duration(row.seconds)]
        rows.append([*cells, *([_guards(row)] if watched else [])])
    return rows


def _guards(row: RunRow) -> str:
    """Each guard with what became of it, and what was given up for it; `none` where nothing was watched."""
    readings = [f"{name} {reading_text(reading)}" for name, reading in row.guards.items()]
    if row.given_up is not None:
        readings.append(f"given up: {show_score(row.given_up.value, row.metric)}")
    return "; ".join(readings) or "none"


def as_json(found: RunsCompared) -> dict[str, Any]:
    """All of it as plain data; docs/json.md describes it."""
    runs = [to_plain(row) | {"guards": guards_json(row.guards)} for row in found.runs]
    return {**to_plain(found), "runs": runs, "sentences": list(pair_lines(found))}


def _winner(row: RunRow) -> str:
    if row.value is None:
        return "failed"
    ends = [math.nan if end is None else end for end in (row.low, row.high)]
    return show_with_interval(row.value, row.metric, ends)


def pair_lines(found: RunsCompared) -> Iterator[str]:
    """A sentence a run of several objectives, those of its guards, and one a pair: what may be said of it,
    or why nothing."""
    for row in found.runs:
        if row.others:
            others = " and ".join(metric_of(name).title for name in row.others)
            first = metric_of(row.metric).title
            yield (
                f"{row.run} has several objectives: scores and pairs are of {first} alone, not of {others}; "
                "its verdict is of all."
            )
    for row in found.runs:
        if row.guarded:
            yield f"{row.run}: {' '.join(row.guarded)}"
    metrics = {row.run: row.metric for row in found.runs}
    for pair in found.pairs:
        yield pair_line(pair, metrics[pair.one], len([one for one in found.pairs if not one.why_not]))


def pair_line(pair: Pair, metric: str, pairs: int) -> str:
    """One of `pairs` comparisons."""
    if pair.difference is None or pair.low is None or pair.high is None or pair.holm is None:
        return f"{pair.one} and {pair.other} cannot be paired: {pair.why_not}."
    by = show_against(pair.difference, pair.low, pair.high, metric, pair.other)
    adjusted = "" if pairs == 1 else f", adjusted for {pairs} pairs"
    test = "" if metric in OWN_METRICS else "test "
    same = " (known by their places alone, without an `index`: are they the same?)" if pair.by_place else ""
    said = f"{pair.one} is {by} on the same {pair.items:,} {test}items{same}"
    told = "told apart" if pair.told else "not told apart"
    return f"{said}: {told} (p = {pair.holm:.2g}{adjusted}).{_of_trials(pair)}"


def _of_trials(pair: Pair) -> str:
    """That the choice of the best of many is allowed for; empty where both winners were run again."""
    if not pair.chosen:
        return ""
    which = "Both winners were" if len(pair.chosen) == 2 else f"The winner of {pair.chosen[0]} was"
    return (
        f" {which} chosen by these items and not run again, so interval and p hold for all {pair.among:,} "
        "pairs of their configs."
    )


def write_figure(path: Path, found: RunsCompared) -> None:
    """Winners and standard settings of all runs with their intervals, a panel a metric, as a PNG."""
    from matplotlib.figure import Figure  # here: whoever reads runs needs no matplotlib

    metrics = list(dict.fromkeys(row.metric for row in found.runs))
    figure = Figure(figsize=(9, 1.2 + 0.9 * len(metrics) + 0.45 * len(found.runs)), layout="constrained")
    heights = [1 + sum(row.metric == name for row in found.runs) for name in metrics]
    panels = figure.subplots(len(metrics), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, name in zip(panels[:, 0], metrics, strict=True):
        rows = [row for row in found.runs if row.metric == name and row.value is not None]
        read = metric_of(name).read
        for place, row in enumerate(rows):
            assert row.value is not None
            if row.low is not None and row.high is not None:
                axes.plot([read(row.low), read(row.high)], [place, place], color="#2a6fbb", linewidth=2)
            axes.plot([read(row.value)], [place], "o", color="#2a6fbb", label="" if place else "winner")
            if row.standard is not None:
                label = "" if place else "standard"
                axes.plot([read(row.standard)], [place], "|", color="#d9822b", markersize=14, label=label)
        axes.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5), xlabel=f"test {metric_of(name).axis}")
        axes.set_yticklabels([row.run for row in rows], parse_math=False)
        if rows:
            axes.legend(loc="best", fontsize="small")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # letters that the font lacks
        figure.savefig(path, dpi=120)
