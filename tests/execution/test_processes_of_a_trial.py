"""A trial in two processes, with real workers: what it gives, and what happens when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from peft import PeftModel
from processes import PATIENCE, gone
from transformers import AutoModelForCausalLM

from loracle.config.loading import load_config
from loracle.errors import ConfigError
from loracle.execution.devices import visible_devices
from loracle.execution.executor import Job
from loracle.execution.local import LocalWorkers
from loracle.records.trial import Outcome
from loracle.run.worker import PROGRAM
from loracle.training.objective import TrainingObjective

CONFIG = {"rank": 4, "alpha_ratio": 2, "alpha": 8, "dropout": 0.1, "batch_size": 3, "learning_rate": 5e-3}


@pytest.fixture
def written(run_config: Callable[..., Path]) -> Callable[..., Path]:
    def write(processes: int | None = 2, **more: Any) -> Path:
        execution = {"workers": 1, "processes_per_trial": processes} | more.pop("execution", {})
        return run_config(execution=execution, **more)

    return write


@pytest.fixture
def make(written: Callable[..., Path]) -> Iterator[Callable[..., LocalWorkers]]:
    made: list[LocalWorkers] = []

    def workers(**changes: Any) -> LocalWorkers:
        made.append(LocalWorkers(load_config(written(**changes)), PROGRAM))
        return made[-1]

    yield workers
    for one in made:
        one.close()


def processes_of_trials() -> list[psutil.Process]:
    """The worker, and the other process of its trials."""
    found = [p for p in psutil.Process().children(recursive=True) if "worker.py" in " ".join(p.cmdline())]
    workers = [p for p in found if "guard.py" not in " ".join(p.cmdline())]
    others = [p for worker in workers for p in worker.children() if "spawn_main" in " ".join(p.cmdline())]
    return [*workers, *others]


def outcome_of(workers: LocalWorkers, job: Job, after_a_step: Callable[[], None] = lambda: None) -> Outcome:
    struck = False

    def told(number: int, step: int, total: int, loss: float | None, part: str = "training") -> None:
        nonlocal struck
        if not struck and part == "training":
            struck = True
            after_a_step()

    workers.submit(job)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if done := workers.wait(1.0, told):
            return done[0].outcome
    raise AssertionError("nothing came")


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "log.txt").read_text().splitlines()
    return [float(line.split("\t")[1]) for line in lines if line[0].isdigit()]


def places_of(folder: Path) -> list[int]:
    return [json.loads(line)["index"] for line in (folder / "items.jsonl").read_text().splitlines()]


def test_two_processes_give_what_one_gives(
    make: Callable[..., LocalWorkers], written: Callable[..., Path], tmp_path: Path
) -> None:
    workers = make()
    outcome = outcome_of(workers, Job(0, CONFIG, 0, tmp_path / "both"))
    alone = TrainingObjective.from_config(load_config(written(None)))
    expected = alone.run(CONFIG, seed=0, folder=tmp_path / "alone")
    assert outcome.value == pytest.approx(expected.value, abs=1e-4)
    assert [outcome.metrics["micro_batch"], expected.metrics["micro_batch"]] == [2, 3]
    assert losses_of(tmp_path / "both") == pytest.approx(losses_of(tmp_path / "alone"), abs=1e-4)
    assert places_of(tmp_path / "both") == places_of(tmp_path / "alone")
    assert json.loads((tmp_path / "both" / "provenance.json").read_text())["processes"] == 2
    there = processes_of_trials()
    assert len(there) == 2
    there[0].kill()
    assert gone([process.pid for process in there])  # none outlives the worker


@pytest.mark.slow
def test_when_one_dies_all_are_replaced(
    make: Callable[..., LocalWorkers], written: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    long = {"epochs": 10}
    workers = make(training=long)
    killed: list[psutil.Process] = []

    def kill_the_other() -> None:
        killed.extend(processes_of_trials())
        killed[1].kill()

    outcome = outcome_of(workers, Job(0, CONFIG, 0, tmp_path / "0"), kill_the_other)
    alone = TrainingObjective.from_config(load_config(written(None, training=long)))
    expected = alone.run(CONFIG, seed=0, folder=tmp_path / "alone")
    assert outcome.value == pytest.approx(expected.value, abs=1e-4)
    assert outcome.metrics["attempts"] == 2
    assert gone([process.pid for process in killed])
    kept = json.loads((tmp_path / "0" / "attempt-1.json").read_text())["failure"]
    assert kept["kind"] == "lost"
    assert "process 2 of 2 died of SIGKILL" in kept["traceback_tail"]
    assert len(losses_of(tmp_path / "0")) == 80
    final = Job(1, CONFIG, 0, tmp_path / "1", final=True, adapter=tmp_path / "adapter")
    last = outcome_of(workers, final)
    assert last.value == pytest.approx(alone.final(CONFIG, seed=0, folder=tmp_path / "final").value, abs=1e-4)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_stands_still_is_a_worker_that_does(
    make: Callable[..., LocalWorkers], tmp_path: Path, which: int
) -> None:
    workers = make(training={"epochs": 10}, execution={"stall_limit": 30})

    def stop() -> None:
        os.kill(processes_of_trials()[which].pid, signal.SIGSTOP)

    outcome = outcome_of(workers, Job(0, CONFIG, 0, tmp_path / "0"), stop)
    assert outcome.failure is None
    kept = json.loads((tmp_path / "0" / "attempt-1.json").read_text())["failure"]
    assert kept["message"].startswith("no sign of life for 30 s")
    workers.close()
    assert processes_of_trials() == []


@pytest.mark.slow
def test_none_outlives_a_driver_that_is_killed(written: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loracle", "tune", str(written(training={"epochs": 200}))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path) as driver:
        end = time.monotonic() + PATIENCE
        while not list(tmp_path.glob("run/trials/*/log.txt")):
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        there = processes_of_trials()
        assert len(there) == 2
        driver.kill()
    assert gone([process.pid for process in there])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"execution": {"gpus_per_trial": 2}}, "gpus_per_trial: 2 with device: cpu"),
        (
            {"execution": {"gpus_per_trial": 4, "processes_per_trial": 2}},
            "2 processes with 4 GPUs: each has one",
        ),
        (
            {"execution": {"workers": 0, "processes_per_trial": 2}},
            "2 processes a trial need workers: 1 or more",
        ),
        (
            {"execution": {"processes_per_trial": 2}, "device": "cuda:1"},
            "2 processes a trial cannot share cuda:1; use cuda",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(
    run_config: Callable[..., Path], said: Callable[..., str], changes: dict[str, Any], line: str
) -> None:
    changes["execution"] = {"workers": 1} | changes["execution"]
    assert f"execution: {line}" in said("tune", run_config(**changes), refused=True)


def test_an_own_trainer_starts_its_own_processes(
    run_config: Callable[..., Path], said: Callable[..., str]
) -> None:
    knobs = "{rank} {alpha_ratio} {dropout} {batch_size} {learning_rate}"
    objective = {"command": f"train {knobs}", "direction": "maximize"}
    path = run_config(objective=objective, execution={"processes_per_trial": 2})
    assert "processes_per_trial: is of the built-in trainer" in said("tune", path, refused=True)


def test_each_process_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def shares(workers: int, gpus: int | None, processes: int, there: int = 8) -> list[str | None]:
        given = visible_devices("auto", workers, gpus, processes=processes, count=lambda: there)
        return [one.get("CUDA_VISIBLE_DEVICES") for one in given]

    assert shares(2, 4, 4) == shares(2, None, 4) == ["0,1,2,3", "4,5,6,7"]
    assert shares(2, None, 2, there=0) == [None, None]  # on the CPU
    with pytest.raises(ConfigError, match=r"4 workers with 4 GPU\(s\) each need 16, but 8 can be seen"):
        shares(4, None, 4)
    with pytest.raises(ConfigError, match="gpus_per_trial: 2 are asked for, and no GPU can be seen"):
        shares(1, 2, 2, there=0)
