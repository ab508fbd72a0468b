"""A run's trials and its comparison as tables for people and as plain data for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loracle.config.metrics import OWN_METRICS, metric_of, show_loss
from loracle.config.metrics.elsewhere import LESS
from loracle.records.codec import to_plain
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import GuardReading, History, Outcome, Trial
from loracle.report.objectives import scores_of
from loracle.report.verdict import Comparison
from loracle.report.verdict.guards import reading_text
from loracle.report.verdict.sentences import why_not_told
from loracle.report.wording import (
    knob_titles,
    show_beside,
    show_score,
    show_test,
    show_value,
    shown_knobs,
)
from loracle.text.quantities import show_seconds

_COLUMNS = ("trial", "score", "seconds")


def history_table(
    space: SearchSpace, history: History, metric: str, objectives: Sequence[str] = ()
) -> list[list[str]]:
    """One row a trial: number, knobs, score (or failure, or running), seconds; first the column titles.

    Of several objectives, each has a column in the place of `score`.
    """
    others = objectives[1:]
    configs = [shown_knobs(space.config(trial.index)) for trial in history.trials]
    names = list(configs[0] if configs else shown_knobs(space.config(0)))
    heads = [metric_of(name).title for name in objectives] if others else ["score"]
    titles = knob_titles(names, (*_COLUMNS, *heads))
    rows = [["trial", *(titles[name] for name in names), *heads, "seconds"]]
    for trial, config in zip(history.trials, configs, strict=True):
        seconds = show_seconds(trial.outcome.seconds) if trial.outcome else ""
        knobs = [show_value(config[name]) for name in names]
        beside = [_beside(trial, metric, name) for name in others]
        rows.append([str(trial.number), *knobs, _result(trial, metric), *beside, seconds])
    return rows


def history_json(space: SearchSpace, history: History, metric: str) -> list[dict[str, Any]]:
    """One object a trial for programs; docs/json.md describes it."""
    found = []
    for trial in history.trials:
        outcome = {} if trial.outcome is None else to_plain(trial.outcome)
        value, failure = outcome.get("value"), outcome.get("failure")
        state = "running" if trial.outcome is None else "failed" if failure else "succeeded"
        found.append(
            {
                "trial": trial.number,
                "state": "interrupted" if trial.interrupted else state,
                "config": dict(space.config(trial.index)),
                "value": value,
                "score": None if value is None else metric_of(metric).read(value),
                "metrics": outcome.get("metrics", {}),
                "guards": guards_json(trial.outcome.guards) if trial.outcome else {},
                "seconds": outcome.get("seconds"),
                "curve": outcome.get("curve"),
                "failure": failure and {name: failure[name] for name in ("kind", "message")},
            }
        )
    return found


def guards_json(guards: Mapping[str, GuardReading]) -> dict[str, Any]:
    """What became of each guard, by name; docs/json.md describes it."""
    return {name: to_plain(one) | {"slack": one.slack, "kept": one.kept} for name, one in guards.items()}


def _result(trial: Trial, metric: str) -> str:
    outcome = trial.outcome
    if outcome is None:
        return "running"
    if outcome.value is None:
        return str(outcome.failure.kind) if outcome.failure else ""
    lost = f" (loses {' and '.join(outcome.broken)})" if outcome.broken else ""
    return f"{show_score(outcome.value, metric)}{lost}"


def _beside(trial: Trial, metric: str, other: str) -> str:
    """A trial's score by an objective after the first."""
    if trial.outcome is None or trial.outcome.value is None:
        return ""
    return show_score(scores_of(trial.outcome, (metric, other))[1], other)


def comparison_rows(comparison: Comparison, metric: str, beside: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Knobs and final scores: name, winner, and standard settings where there are some; first the names.

    `beside`: all metrics that are recorded, each once.
    """
    sides = comparison.sides
    columns = [shown_knobs(config) for config, _ in sides.values()]
    label = metric if metric in OWN_METRICS else _on_test(metric)
    names = dict.fromkeys(name for column in columns for name in column)
    titles = knob_titles(names, (label, "test loss"))
    rows: list[tuple[str, ...]] = [("", *sides)]
    for name in names:
        cells = (show_value(column[name]) if name in column else "" for column in columns)
        rows.append((titles[name], *cells))
    rows.append((label, *(show_test(outcome, metric) for _, outcome in sides.values())))
    for name in beside:
        if name not in (metric, "loss"):
            cells = (show_beside(outcome, name) for _, outcome in sides.values())
            rows.append((_on_test(name), *cells))
    for name in dict.fromkeys(name for _, outcome in sides.values() for name in outcome.guards):
        readings = (outcome.guards.get(name) for _, outcome in sides.values())
        rows.append((f"guard {name}", *(reading_text(one) if one else "" for one in readings)))
    losses = [outcome.metrics.get("test_loss", math.nan) for _, outcome in sides.values()]
    if metric != "loss" and any(map(math.isfinite, losses)):
        rows.append(("test loss", *(show_loss(x) if math.isfinite(x) else "" for x in losses)))
    return rows


def _on_test(metric: str) -> str:
    """A function of the user's own does not tell by its name alone which way is better."""
    less = " (less is better)" if metric.startswith(LESS) else ""
    return f"test {metric_of(metric).title}{less}"


def comparison_json(comparison: Comparison, metric: str) -> dict[str, Any]:
    """A comparison as plain data for programs; docs/json.md describes it."""
    content: dict[str, Any] = {
        name: _side_json(config, outcome, metric) for name, (config, outcome) in comparison.sides.items()
    }
    content["difference"] = {
        "mean": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "items": comparison.items,
        "among": comparison.among,
        "why_none": comparison.unpaired or None,
        "differing": comparison.differing,
        "why_not_told": why_not_told(comparison.by_objective(metric)[0]) or None,
        "items_trained_on": comparison.overlap.rows + comparison.overlap.prompts,
        "items_needed": comparison.items_needed if comparison.standing == "no_difference" else None,
    }
    content["guarded"] = None if comparison.guarded is None else to_plain(comparison.guarded)
    content["passed_over"] = [_side_json(one.config, one.outcome, metric) for one in comparison.passed_over]
    if comparison.others:
        content["by_objective"] = [to_plain(o) | {"told": o.told} for o in comparison.by_objective(metric)]
    again = comparison.replication
    content["replication"] = None if again is None else to_plain(again)
    content["finalists"] = [
        _side_json(one.config, one.outcome, metric)
        | {"place": one.place, "validation_value": one.value, "chosen": one.chosen}
        for one in comparison.finalists
    ]
    return content | {"metric": metric, "standing": comparison.standing, "best": comparison.best}


def _side_json(config: Config, outcome: Outcome, metric: str) -> dict[str, Any]:
    return {
        "config": dict(config),
        "test_value": outcome.value,
        "score": None if outcome.value is None else metric_of(metric).read(outcome.value),
        "metrics": dict(outcome.metrics),
        "guards": guards_json(outcome.guards),
        "failure": str(outcome.failure.kind) if outcome.failure else None,
    }
