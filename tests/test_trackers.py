"""Trackers keep what a search tells its listeners."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import Loracle
from places import TESTS

from loracle import trackers
from loracle.config.settings import NO_DATA, RunConfig, TrackerName
from loracle.errors import ConfigError
from loracle.records.events import Event, Listener, Step, TrialFinished, TrialStarted
from loracle.records.trial import Failure, FailureKind, Outcome, Trial
from loracle.trackers import tracker

CONFIG = {"rank": 8, "learning_rate": 1e-4}
GOOD = Outcome(0.5, {"validation_loss": 1.5}, 3.0)
BAD = Outcome(None, failure=Failure(FailureKind.DIVERGED, "loss is NaN"))


def two_trials() -> list[Event]:
    """One that succeeds and one that fails, running at the same time."""
    return [
        TrialStarted(0, 2, CONFIG, 0),
        TrialStarted(0, 2, {"rank": 4, "learning_rate": 1e-2}, 1),
        Step(1, 2, 2.5, 0),
        Step(1, 2, 9.0, 1),
        Step(2, 2, 2.0, 0),
        TrialFinished(Trial(1, 5, BAD), CONFIG, None, 1, 2, 1.0),
        TrialFinished(Trial(0, 3, GOOD), CONFIG, None, 2, 2, 0.0),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tensorboard_holds_every_trial(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    seen: list[Event] = []
    with tracker("tensorboard", tmp_path, also=seen.append) as listen:
        for event in two_trials():
            listen(event)
    assert seen == two_trials()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = EventAccumulator(str(tmp_path / "trial-0000")).Reload()
    assert [(e.step, e.value) for e in logs.Scalars("training/loss")] == [(1, 2.5), (2, 2.0)]
    assert logs.Scalars("trial/value")[0].value == 0.5
    assert logs.Scalars("trial/validation_loss")[0].value == 1.5
    failed = EventAccumulator(str(tmp_path / "trial-0001")).Reload()
    assert "failure/text_summary" in failed.Tags()["tensors"]
    assert "trial/value" not in failed.Tags()["scalars"]


def test_trackio_holds_every_trial(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    program = (
        "from test_trackers import two_trials\nfrom loracle.trackers import tracker\n"
        "with tracker('trackio', project='lora') as listen:\n    for event in two_trials(): listen(event)\n"
    )
    places = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "PYTHONPATH": places}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "lora.db") as database:
        rows = database.execute("select run_name, metrics from metrics").fetchall()
    told = [(name, json.loads(text)) for name, text in rows]
    assert [t["training/loss"] for name, t in told if name == "trial-0000" and "training/loss" in t] == [
        2.5,
        2,
    ]
    assert [t["trial/value"] for _, t in told if "trial/value" in t] == [0.5]
    assert ("trial-0001", {"trial/failed": 1.0}) in told


def test_a_tracker_that_is_not_there_is_refused_in_one_line() -> None:
    with (
        pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'; did you mean 'tensorboard'\?$"),
        tracker("tensorbord"),
    ):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_doctor_says_whether_trackers_are_there(
    run_config: Callable[..., Path], loracle: Loracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("no_such_package", trackers.TRACKERS["wandb"][1]))  # type: ignore[index]
    code, out, _ = loracle("doctor", run_config(report_to=["tensorboard", "wandb"]))
    assert code == 2
    assert "bad   trackers  report_to: wandb is not installed: pip install no_such_package" in out
    code, out, _ = loracle("doctor", run_config(report_to="tensorboard"))
    assert (code, "ok    trackers  tensorboard" in out) == (0, True)


def test_a_config_names_the_trackers_that_there_are() -> None:
    assert set(get_args(TrackerName)) == set(trackers.TRACKERS)
    given = [RunConfig(model="m", data=NO_DATA, report_to=to).report_to for to in ("none", "wandb")]  # type: ignore[arg-type]
    assert given == [[], ["wandb"]]
    with pytest.raises(ValueError, match="'tensorboard', 'wandb', 'trackio' or 'mlflow'"):
        RunConfig(model="m", data=NO_DATA, report_to=["tensorbord"])  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tune_tells_the_trackers_of_its_config(run_config: Callable[..., Path], loracle: Loracle) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = run_config(search={"trials": 2}, report_to="tensorboard")
    code, out, _ = loracle("tune", path, "--json")
    assert code == 0
    folder = path.parent / "run" / "tensorboard"
    kept = ["standard", "trial-0000", "trial-0001", "winner"]
    assert sorted(trial.name for trial in folder.iterdir()) == kept
    outcome = json.loads((path.parent / "run" / "trials" / "0001" / "outcome.json").read_text())
    logs = EventAccumulator(str(folder / "trial-0001")).Reload()
    assert logs.Scalars("trial/value")[0].value == pytest.approx(outcome["value"], rel=1e-6)
    curve = outcome["curve"]
    for name, numbers in (
        ("loss", "losses"),
        ("learning_rate", "learning_rates"),
        ("gradient_norm", "gradient_norms"),
    ):
        told = logs.Scalars(f"training/{name}")
        assert [e.step for e in told] == curve["steps"], name
        assert [e.value for e in told] == pytest.approx(curve[numbers], rel=1e-6), name
    winner = EventAccumulator(str(folder / "winner")).Reload()
    found = json.loads(out)["winner"]
    assert winner.Scalars("final/value")[0].value == pytest.approx(found["test_value"], rel=1e-6)
    before = {str(file) for file in folder.rglob("*")}
    assert loracle("tune", path)[0] in (0, 3, 4)
    assert {str(file) for file in folder.rglob("*")} == before  # nothing new, and nothing is told again
    path.write_text(path.read_text().replace("report_to: tensorboard", "report_to: none"))
    assert json.loads(loracle("tune", path, "--json")[1]) == json.loads(out)  # nothing that a run is bound to


def test_a_tracker_that_fails_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            pass

        def log(self, *_: object) -> None:
            raise ConnectionError("the server\nis gone")

        def close(self, *_: object) -> None:
            raise ConnectionError("still")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("json", Broken))  # type: ignore[misc]
    seen: list[Event] = []
    said: list[str] = []
    with trackers.tracked(["wandb"], tmp_path, seen.append, said.append) as listen:
        for event in two_trials():
            listen(event)
    assert seen == two_trials()
    assert said == ["wandb is told nothing more: ConnectionError: the server is gone"]


def told_all(opened: AbstractContextManager[Listener]) -> None:
    with opened as listen:
        for event in two_trials():
            listen(event)


def test_a_tracker_that_fails_or_hangs_neither_ends_nor_delays_a_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs = threading.Event()

    class Silent:
        def __init__(self, *_: object) -> None:
            hangs.wait()

    def broken(*_: object) -> Any:
        raise ConnectionError("no such server")

    monkeypatch.setattr(trackers, "SECONDS_TO_END", 0.2)
    for open_run, said in (
        (broken, "wandb is told nothing more: ConnectionError: no such server"),
        (Silent, "wandb takes longer than 0 s; it was not told of everything"),
    ):
        monkeypatch.setitem(trackers.TRACKERS, "wandb", ("json", open_run))  # type: ignore[misc]
        seen: list[Event] = []
        with pytest.warns(UserWarning, match=said):
            told_all(tracker("wandb", also=seen.append))
        assert seen == two_trials()
    hangs.set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_processes_on_many_machines_tell_the_trackers_of_their_own_trials(
    run_config: Callable[..., Path], loracle: Loracle
) -> None:
    pytest.importorskip("tensorboard")
    execution = {"workers": 0, "storage": "sqlite:///trials.db"}
    path = run_config(search={"trials": 2}, report_to="tensorboard", execution=execution)
    assert loracle("worker", path)[0] == 0
    folder = path.parent / "run" / "tensorboard"
    assert sorted(trial.name for trial in folder.iterdir()) == ["trial-0000", "trial-0001"]


def test_json_is_alone_on_stdout_and_trials_are_told_from_those_of_other_runs(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("trackio")
    path = run_config(search={"trials": 1}, report_to="trackio")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "kept"), "TRACKIO_PROJECT": "team"}
    environment["PYTHONPATH"] = str(TESTS.parent)
    command = [sys.executable, "-m", "loracle", "tune", str(path), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 3, 4), done.stderr
    assert "winner" in json.loads(done.stdout)
    assert "Trackio" in done.stderr  # what it prints is not lost
    with sqlite3.connect(tmp_path / "kept" / "team.db") as database:
        names = {name for (name,) in database.execute("select run_name from metrics")}
        (config,) = database.execute(
            "select config from configs where run_name = 'run-trial-0000'"
        ).fetchone()
    assert names == {"run-trial-0000", "run-winner", "run-standard"}
    search = json.loads(config)["search"]
    assert search["run"] == str(path.parent / "run")
    assert (search["metric"], search["seed"]) == ("loss", "3")


def test_nothing_is_imported_unless_asked_for() -> None:
    program = (
        "import sys, loracle.trackers\n"
        "print({'torch', 'tensorboard', 'wandb', 'trackio', 'mlflow'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
