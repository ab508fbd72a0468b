"""Trackers keep what a search tells its listeners."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from places import TESTS

from loracle.errors import ConfigError
from loracle.records.events import Event, Step, TrialFinished, TrialStarted
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
        pytest.raises(ConfigError, match=r"there is no tracker 'tensorbord'.*did you mean 'tensorboard'"),
        tracker("tensorbord"),
    ):
        pass


def test_nothing_is_imported_unless_asked_for() -> None:
    program = (
        "import sys, loracle.trackers\n"
        "print({'torch', 'tensorboard', 'wandb', 'trackio', 'mlflow'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
