"""A run in a notebook: its trials, what it believes, its report's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Loracle

import loracle as package
from loracle.config.loading import load_config
from loracle.errors import LoracleError
from loracle.run.tune import tune

pytest.importorskip("pandas", reason="tables of a run are pandas'; the extra `datasets` brings it")


def test_a_run_is_read_as_tables_and_says_what_its_commands_say(
    run_config: Callable[..., Path], loracle: Loracle, tmp_path: Path
) -> None:
    tune(load_config(run_config()))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    run = package.load_run(tmp_path / "run")
    shown = json.loads(loracle("show", tmp_path / "run", "--json")[1])["trials"]
    assert run.trials["score"].tolist() == [trial["score"] for trial in shown]
    assert run.trials["learning_rate"].tolist() == [trial["config"]["learning_rate"] for trial in shown]
    assert run.trials["metric: validation_loss"].notna().all()
    assert run.finished is not None
    assert run.verdict == json.loads(loracle("verdict", tmp_path / "run", "--json")[1])["verdict"]

    believed = run.belief()
    assert len(believed) == len(run.space.candidates)
    assert believed["score"].is_monotonic_increasing  # of a loss the least is the best
    assert ((believed["low"] <= believed["score"]) & (believed["score"] <= believed["high"])).all()
    config = run.space.config(run.history.trials[2].index)
    (one,) = run.belief([config]).to_dict("records")
    assert {name: one[name] for name in config} == dict(config)
    same = believed[np.all([believed[name] == value for name, value in config.items()], axis=0)]
    assert same["score"].item() == pytest.approx(one["score"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before

    html = run.html()
    assert html.count("<tr>") == 6
    assert "test loss" in html
    assert len(run.figure().axes) == 6


def test_what_is_no_run_and_a_run_without_a_score_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(LoracleError, match="not a run folder"):
        package.load_run(tmp_path)


def test_a_run_of_failures_has_trials_and_no_belief(tmp_path: Path) -> None:
    (tmp_path / "loracle.yaml").write_text(
        "objective: {command: 'false {learning_rate}', direction: minimize}\nsearch: {trials: 1}\n"
        "space: {base: empty, knobs: {learning_rate: {values: [1e-4, 1e-3, 1e-2]}}}\n"
        "execution: {workers: 0}\noutput: run\n"
    )
    with pytest.raises(LoracleError):
        tune(load_config(tmp_path / "loracle.yaml"))
    run = package.load_run(tmp_path / "run")
    assert run.trials["failure"].tolist() == ["interrupted"]  # it crashed, as all did: it is run again
    assert "exit code 1" in run.verdict
    assert run.finished is None
    assert "No trial has succeeded" in run.verdict
    with pytest.raises(LoracleError, match="nothing is believed yet"):
        run.belief()


def test_guards_are_columns_of_the_trials_and_what_keeps_them_comes_first(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": "abcd" * i}) + "\n" for i in range(1, 9))
    )
    guard = {"text": {"data": "text.jsonl", "tolerance": 0}}
    tune(load_config(run_config(guard=guard, search={"trials": 3})))
    run = package.load_run(tmp_path / "run")
    readings = [t.outcome.guards["text"] for t in run.history.trials if t.outcome]
    assert run.trials["guard text"].tolist() == [-reading.value for reading in readings]
    assert run.trials["keeps text"].tolist() == [reading.kept for reading in readings]
    believed = run.belief()
    assert believed["keeps"].between(0, 1).all()
    assert believed["keeps"].iloc[0] >= 0.5 or (believed["keeps"] < 0.5).all()
