"""Runs of own trainers over knobs whose values are names: every place that shows a config shows the names."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Loracle, write_config

import loracle as package
from loracle.config.loading import load_config
from loracle.run.tune import tune

WORTH = {"cosine": 0.5, "linear": 0.3, "<b>stays</b> & | $x$ [red]": 0.1}
SPACE: dict[str, Any] = {
    "base": "empty",
    "schedule": {name: f"its worth is {worth}" for name, worth in WORTH.items()},
    "targets": ["attention", "all-linear"],
    "learning_rate": [1e-4, 3e-4, 1e-3],
}
SCRIPT = (
    "import json, sys\n"
    f"value = {WORTH!r}[sys.argv[1]] + 0.2 * (sys.argv[2] == 'all-linear')\n"
    "value -= 100 * abs(float(sys.argv[3]) - 3e-4)\n"
    "json.dump({'value': value}, open(sys.argv[4] + '/result.json', 'w'))\n"
)


def config_file(folder: Path, **changes: Any) -> Path:
    (folder / "train.py").write_text(SCRIPT)
    content: dict[str, Any] = {
        "objective": {
            "command": [
                sys.executable,
                "train.py",
                *("{schedule}", "{targets}", "{learning_rate}", "{folder}", "{phase}"),
            ],
            "direction": "maximize",
        },
        "space": SPACE,
        "standard": {"schedule": "linear", "targets": "attention", "learning_rate": 1e-4},
        "search": {"trials": 6},
        "execution": {"workers": 0},
        "output": "run",
    }
    return write_config(folder / "config.yaml", content, changes)


def test_a_command_gets_the_names_and_all_that_tells_of_the_run_has_them(
    tmp_path: Path, loracle: Loracle
) -> None:
    path, run = config_file(tmp_path), tmp_path / "run"
    code, shown, progress = loracle("tune", path)
    assert code == 0, progress
    assert "schedule linear, targets attention, learning_rate 1e-4" in progress  # the first: the user's own
    assert "winner" in shown
    best = yaml.safe_load((run / "best.yaml").read_text())
    assert best["settings"] == {"schedule": "cosine", "targets": "all-linear", "learning_rate": 3e-4}
    assert "cosine all-linear 0.0003" in best["command"]
    trials = json.loads(loracle("show", run, "--json")[1])["trials"]
    assert trials[0]["config"] == {"schedule": "linear", "targets": "attention", "learning_rate": 1e-4}
    assert {trial["config"]["schedule"] for trial in trials} <= set(WORTH)
    assert "all-linear" in loracle("show", run)[1]
    assert "schedule cosine is better by" in loracle("explain", run)[1]
    assert "| cosine | all-linear | 3e-4 |" in (run / "report.md").read_text()
    assert loracle("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "<bdi>cosine</bdi>" in page
    assert "<b>stays" not in page
    code, _, errors = loracle("tune", path, "--trials", 8)  # it goes on, from its journal
    assert code == 0, errors
    assert len(json.loads(loracle("show", run, "--json")[1])["trials"]) == 8
    shutil.copytree(run, tmp_path / "other")
    code, compared, errors = loracle("compare", run, tmp_path / "other")
    assert code == 0, errors
    assert "untested" in compared


def test_names_that_change_are_another_search(tmp_path: Path, said: Callable[..., str]) -> None:
    path = config_file(tmp_path, search={"trials": 2})
    tune(load_config(path))
    path.write_text(path.read_text().replace("all-linear", "mlp"))
    assert "space" in said("tune", path, refused=True)


def test_a_function_gets_texts_and_a_notebook_shows_them(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="tables of a run are pandas'")
    (tmp_path / "mine.py").write_text(
        f"WORTH = {WORTH!r}\n"
        "def train(config):\n"
        "    assert type(config['schedule']) is str and type(config['learning_rate']) is float\n"
        "    return WORTH[config['schedule']] + (config['targets'] == 'all-linear')\n"
    )
    path = config_file(tmp_path, objective={"function": "mine:train", "command": None})
    tune(load_config(path))
    run = package.load_run(tmp_path / "run")
    assert set(run.trials["targets"]) <= {"attention", "all-linear"}
    believed = run.belief()
    assert believed.iloc[0]["targets"] == "all-linear"
    assert believed.iloc[0]["schedule"] == "cosine"
    assert len(run.figure().axes) == 4
    found = run.findings
    slices = {one.knob: [point.value for point in one.points] for one in found.slices}
    assert slices["targets"] == ["attention", "all-linear"]
    assert found.importance is not None
    assert {share.knobs[0] for share in found.importance.knobs} == set(run.space.names)


def test_numbers_may_be_without_an_order_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def train(config):\n    return float(config['template'] == 7)\n")
    space = {"base": "empty", "template": {"values": [30, 7, 11, 2], "scale": "names"}}
    objective = {"function": "mine:train", "command": None}
    path = config_file(tmp_path, objective=objective, standard=None)
    content = yaml.safe_load(path.read_text()) | {"space": space, "search": {"trials": 3}}
    path.write_text(yaml.safe_dump(content))
    tune(load_config(path))
    path.write_text(yaml.safe_dump(content | {"search": {"trials": 4}}))
    result = tune(load_config(path))  # it goes on, from its journal
    assert result.comparison.winner == {"template": 7}
    assert result.history.trials[0].index == 0  # the first is the usual one


def test_past_runs_say_names_too(tmp_path: Path, said: Callable[..., str]) -> None:
    (tmp_path / "past.csv").write_text(
        "config.schedule,config.targets,learning_rate,value\n"
        "linear,all-linear,3e-4,0.5\ncosine,all-linear,3e-4,0.7\nwave,attention,3e-4,0.9\n"
    )
    past = [{"path": "past.csv", "metric": "value", "direction": "maximize"}]
    shown = said("tune", config_file(tmp_path, search={"trials": 2, "past": past}))
    assert "2 of 3 results" in shown
    assert "without schedule" in shown
    assert "schedule cosine, targets all-linear, learning_rate 3e-4" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"standard": {"learning_rate": "high"}}, "learning_rate is a number; got 'high'"),
        ({"space": {**SPACE, "targets": ["x" * 10_000]}}, "a name has at most 100 characters"),
        ({"space": {**SPACE, "targets": ["a", "\u202eb"]}}, "without control characters"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, said: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    assert message in said("tune", config_file(tmp_path, **changes), refused=True)
