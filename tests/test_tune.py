from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import AutoPeftModelForCausalLM

from loracle.config import RunConfig, load_config
from loracle.errors import ConfigError, SpaceError, StudyError
from loracle.objective import TableObjective
from loracle.optimizer import PRESETS
from loracle.space import Config, Knob, SearchSpace
from loracle.study import open_study, read_history
from loracle.trial import Failure, FailureKind, Outcome
from loracle.tune import (
    Event,
    PhaseStarted,
    Search,
    Step,
    TrialFinished,
    best_of,
    counted,
    open_run,
    run_search,
    tune,
)

SPACE = SearchSpace((Knob("rank", (1, 2, 4, 8), "log2"), Knob("learning_rate", (1e-4, 1e-3, 1e-2), "log10")))


def finished(folder: Path, config: RunConfig) -> list[tuple[int, float | None]]:
    """What counts of a run: configs and values, in order."""
    _, space = open_run(folder)
    return [(t.index, t.outcome.value if t.outcome else None) for t in counted(read_history(folder, space))]


def test_a_run_leaves_everything_a_user_needs(run_config: Callable[..., Path]) -> None:
    events: list[Event] = []
    config = load_config(run_config())
    result = tune(config, events.append)
    assert [len(counted(result.history)), result.stopped] == [5, "all 5 trials are done"]
    assert sum(isinstance(event, TrialFinished) for event in events) == 5
    assert any(isinstance(event, Step) and event.loss is not None for event in events)
    assert "searching" in [event.text for event in events if isinstance(event, PhaseStarted)]
    folder = config.output
    model = AutoPeftModelForCausalLM.from_pretrained(folder / "best")
    assert model.peft_config["default"].r == result.comparison.winner["rank"]
    recipe = yaml.safe_load((folder / "best" / "recipe.yaml").read_text())
    assert recipe["lora"]["lora_alpha"] == result.comparison.winner["alpha"]
    sizes = recipe["training"]
    assert (
        sizes["per_device_train_batch_size"] * sizes["gradient_accumulation_steps"]
        == (result.comparison.winner["batch_size"])
    )
    for number in range(5):
        names = {path.name for path in (folder / "trials" / f"{number:04d}").iterdir()}
        assert {"outcome.json", "items.jsonl", "log.txt", "provenance.json"} <= names
    report = (folder / "report.md").read_text()
    assert "standard" in report
    assert "| 4 |" in report
    assert (folder / "progress.png").stat().st_size > 1000
    assert load_config(folder / "config.yaml").search == config.search


def test_winner_and_standard_are_scored_on_the_same_test_items(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    comparison = tune(config).comparison
    assert comparison.standard["alpha_ratio"] == 2
    assert comparison.difference is not None
    assert comparison.low is not None
    assert comparison.high is not None
    assert comparison.low <= comparison.difference <= comparison.high
    expected = (comparison.winner_outcome.value or 0) - (comparison.standard_outcome.value or 0)
    assert comparison.difference == pytest.approx(expected, abs=1e-6)


def test_the_same_command_adds_trials_and_repeats_none(run_config: Callable[..., Path]) -> None:
    path = run_config()
    first = load_config(path)
    tune(first)
    before = finished(first.output, first)
    more = first.model_copy(update={"search": first.search.model_copy(update={"trials": 7})})
    tune(more)
    after = finished(first.output, first)
    assert after[:5] == before
    assert len(after) == len({index for index, _ in after}) == 7


@pytest.mark.parametrize("model", ["same", "minilm"])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_language_models_guide_the_search(run_config: Callable[..., Path], preset: str, model: str) -> None:
    config = load_config(
        run_config(language={"model": model, "prompt": "plain-v1"}, search={"trials": 3, "preset": preset})
    )
    assert len(counted(tune(config).history)) == 3


def test_a_changed_setting_is_refused_and_nothing_is_lost(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 2}))
    tune(config)
    journal = (config.output / "journal.log").read_bytes()
    changed = load_config(run_config(search={"trials": 2}, training={"epochs": 2}))
    with pytest.raises(StudyError, match=r"training.epochs=1.0, now 2.0"):
        tune(changed)
    assert (config.output / "journal.log").read_bytes() == journal


def test_knobs_that_the_trainer_does_not_have_are_refused_first(run_config: Callable[..., Path]) -> None:
    space = {"base": "default", "knobs": {"lr": {"values": [1e-4]}}}
    with pytest.raises(ConfigError, match="lr"):
        tune(load_config(run_config(space=space)))


def test_impossible_batches_are_refused(run_config: Callable[..., Path]) -> None:
    space = {"base": "default", "knobs": {"batch_size": {"values": [512, 1024]}}}
    with pytest.raises(SpaceError, match="impossible batch"):
        tune(load_config(run_config(space=space)))


# -- the loop, on a table ---------------------------------------------------------------------------


def values() -> dict[int, float | Failure]:
    """Better with rank, best at the middle rate."""
    coordinates = SPACE.coordinates(SPACE.candidates)
    return {i: float(c[0] - 2 * (c[1] - 0.5) ** 2) for i, c in enumerate(coordinates)}


def search(folder: Path, objective: Any, budget: int) -> str:
    folder.mkdir(exist_ok=True)
    chooser = Search(SPACE, PRESETS["numeric"], None, 0)
    return run_search(chooser, open_study(folder, SPACE), objective, folder, budget, lambda event: None)


def test_stops_when_every_candidate_is_tried(tmp_path: Path) -> None:
    assert search(tmp_path, TableObjective(SPACE, values()), 50) == "all 12 candidates are tried"
    best = best_of(read_history(tmp_path, SPACE))
    assert best is not None
    assert SPACE.config(best.index)["rank"] == 8


def test_failures_are_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    table = values()
    for index in range(0, SPACE.size, 3):
        table[index] = Failure(FailureKind.DIVERGED, "loss is NaN", "tail")
    search(tmp_path, TableObjective(SPACE, table), SPACE.size)
    history = read_history(tmp_path, SPACE)
    failures = [t for t in history.finished if t.outcome and t.outcome.failure]
    assert {t.index for t in failures} == set(range(0, SPACE.size, 3))
    assert failures[0].outcome is not None
    assert failures[0].outcome.failure == Failure(FailureKind.DIVERGED, "loss is NaN", "tail")


def test_stops_when_every_trial_crashes(tmp_path: Path) -> None:
    crash = Failure(FailureKind.CRASHED, "ImportError: no module named x")
    objective = TableObjective(SPACE, dict.fromkeys(range(SPACE.size), crash))
    with pytest.raises(StudyError, match=r"the last 5 trials crashed.*no module named x"):
        search(tmp_path, objective, 30)


def test_ctrl_c_records_the_trial_and_the_run_continues_with_it(tmp_path: Path) -> None:
    class Stopped(TableObjective):
        calls = 0

        def run(self, config: Config, **arguments: Any) -> Outcome:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().run(config, **arguments)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "a", Stopped(SPACE, values()), 8)
    search(tmp_path / "a", TableObjective(SPACE, values()), 8)
    search(tmp_path / "b", TableObjective(SPACE, values()), 8)
    histories = [counted(read_history(tmp_path / name, SPACE)) for name in ("a", "b")]
    assert [t.index for t in histories[0]] == [t.index for t in histories[1]]
    kinds = [
        t.outcome.failure.kind
        for t in read_history(tmp_path / "a", SPACE).finished
        if t.outcome and t.outcome.failure
    ]
    assert kinds == [FailureKind.INTERRUPTED]


# -- kill -9 ----------------------------------------------------------------------------------------


def start(path: Path, output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "loracle", "tune", str(path), "--output", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {errors.decode()}"


def test_kill_9_at_several_moments_changes_nothing(run_config: Callable[..., Path], tmp_path: Path) -> None:
    path = run_config(search={"trials": 6})
    undisturbed = tmp_path / "undisturbed"
    process = start(path, undisturbed)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()

    killed = tmp_path / "killed"
    journal = killed / "journal.log"

    def records(n: int) -> Callable[[], bool]:
        return lambda: journal.exists() and journal.read_bytes().count(b"\n") >= n

    # A trial makes three records: it starts (with its config), it says what it gave, it is finished.
    moments = [
        records(3),
        records(7),
        records(14),
        lambda: (killed / "final" / "winner" / "log.txt").exists(),
    ]
    for moment in moments:
        kill_when(start(path, killed), moment)
    process = start(path, killed)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()

    config = load_config(path)
    assert finished(killed, config) == finished(undisturbed, config)
    outcomes = [
        json.loads((f / "final" / "winner" / "outcome.json").read_text()) for f in (killed, undisturbed)
    ]
    assert outcomes[0]["value"] == outcomes[1]["value"]
    assert outcomes[0]["config"] == outcomes[1]["config"]


def test_a_second_process_on_the_same_run_is_refused(run_config: Callable[..., Path], tmp_path: Path) -> None:
    path = run_config(search={"trials": 30})
    output = tmp_path / "run"
    first = start(path, output)
    deadline = time.monotonic() + 60
    while not (output / "journal.log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # so that it is not done before the second has begun
    second = start(path, output)
    _, errors = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    lines = errors.decode().strip().splitlines()
    assert len(lines) == 1
    assert f"another loracle process (pid {first.pid})" in lines[0]
