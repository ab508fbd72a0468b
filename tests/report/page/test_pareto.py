"""Several objectives on the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from reported_runs import Made, history_of, made

from loracle.records.trial import Failure, FailureKind, GuardReading, History, Outcome, Trial
from loracle.report.page.page import page

OBJECTIVES = ["exact_match", "loss", "bleu"]


def of_two_minds(folder: Path, objectives: list[str], *, finished: bool = True) -> Made:
    """A run whose second objective wants small ranks, and the third what the first wants."""
    settings = {"scoring": {"metric": objectives}}
    space = made(folder / "space").space
    trials = tuple(with_others(space.config(trial.index), trial) for trial in history_of(space, 24).trials)
    return made(folder, History(trials), finished=finished, **settings)


def with_others(config: dict[str, float], trial: Trial) -> Trial:
    outcome = trial.outcome
    if outcome is None or outcome.value is None:
        return trial
    beside = {"validation_loss": 1 + config["rank"] / 64 + 0.1 * config["dropout"], "bleu": outcome.value / 2}
    return replace(trial, outcome=replace(outcome, metrics={**outcome.metrics, **beside}))


def charts_of(html: str) -> dict[str, dict[str, list[dict[str, list[float]]]]]:
    (content,) = re.findall(r'id="charts">(.*?)</script>', html, re.DOTALL)
    found: dict[str, dict[str, list[dict[str, list[float]]]]] = json.loads(content)
    return found


def test_two_objectives_have_a_table_a_chart_and_columns(tmp_path: Path) -> None:
    run = of_two_minds(tmp_path, OBJECTIVES[:2])
    found = run.find()
    assert found.pareto is not None
    front = [one for one in found.pareto.trials if one.on_front]
    assert len(front) > 1
    assert len(found.pareto.trials) == len(run.history.succeeded)
    html = page(found)
    assert '<h2 id="pareto-title">Pareto set</h2>' in html
    assert ">loss</button>" in html  # a column of the table of trials
    for one in front:
        assert f">{one.number}" in html
    chart = charts_of(html)["pareto-0"]
    drawn = sum(len(trace["x"]) for trace in chart["data"] if trace["mode"] == "markers")
    assert drawn >= len(found.pareto.trials)
    assert "several objectives" in found.left_out["near_equals"]
    assert found.prior is None


def test_three_objectives_are_drawn_in_pairs_and_one_has_no_such_part(tmp_path: Path) -> None:
    html = page(of_two_minds(tmp_path / "three", OBJECTIVES).find())
    assert {"pareto-0", "pareto-1"} <= set(charts_of(html))
    one = page(made(tmp_path / "one").find())
    assert "Pareto" not in one.partition('<script type="application/json"')[0]


def test_before_the_end_the_compromise_leads(tmp_path: Path) -> None:
    run = of_two_minds(tmp_path, OBJECTIVES[:2], finished=False)
    found = run.find()
    assert found.pareto is not None
    assert found.leader in {one.number for one in found.pareto.trials}
    best = max(found.pareto.trials, key=lambda one: one.scores[0])
    least = min(found.pareto.trials, key=lambda one: one.scores[1])
    leader = next(one for one in found.pareto.trials if one.number == found.leader)
    assert least.scores[0] <= leader.scores[0] <= best.scores[0]
    assert " / " in found.verdict[0]  # both of its scores
    assert "(leads)" in page(found)


def test_what_loses_what_must_not_be_lost_is_in_no_pareto_set(tmp_path: Path) -> None:
    run = of_two_minds(tmp_path, OBJECTIVES[:2])
    lost = GuardReading("loss", -1.0, -2.0, -1.0, -1.1, -0.9, 0.05, 100)
    best = max(run.history.succeeded, key=lambda trial: trial.outcome.value if trial.outcome else 0.0)
    assert best.outcome is not None
    loses = replace(best, outcome=replace(best.outcome, guards={"text": lost}))
    history = History(tuple(loses if trial == best else trial for trial in run.history.trials))
    for kept, trials in ((True, run.history), (False, history)):
        found = run.subject.find(trials)
        assert found.pareto is not None
        assert (best.number in {one.number for one in found.pareto.trials if one.on_front}) is kept


def test_without_a_success_it_is_said(tmp_path: Path) -> None:
    failed = Trial(0, 0, Outcome(None, failure=Failure(FailureKind.DIVERGED, "x")))
    html = page(of_two_minds(tmp_path, OBJECTIVES[:2]).subject.find(History((failed,))))
    assert "No trial has succeeded." in html
