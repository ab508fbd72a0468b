"""A trial in two processes, with real workers: what it gives, and what happens when one of them dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import save_tiny_model
from killed_runs import killed
from peft import AutoPeftModelForCausalLM, PeftModel
from processes import PATIENCE, gone
from transformers import AutoModelForCausalLM

from loracle.config.loading import load_config
from loracle.errors import ConfigError
from loracle.execution.devices import visible_devices
from loracle.execution.executor import Job
from loracle.execution.local import LocalWorkers
from loracle.export import export
from loracle.loaded_run import load_run
from loracle.records.trial import Outcome
from loracle.run.worker import PROGRAM
from loracle.training.objective import TrainingObjective

CONFIG = {"rank": 4, "alpha_ratio": 2, "alpha": 8, "dropout": 0.1, "batch_size": 3, "learning_rate": 5e-3}


@pytest.fixture(params=[False, True], ids=["whole", "divided"])
def written(run_config: Callable[..., Path], request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Writes a config of trials in two processes, each with a whole base model or with a part of one."""

    def write(processes: int | None = 2, **more: Any) -> Path:
        execution: dict[str, Any] = {"workers": 1, "processes_per_trial": processes}
        execution["shard_model"] = request.param and processes is not None
        return run_config(execution=execution | more.pop("execution", {}), **more)

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


def outcome_of(
    workers: LocalWorkers, job: Job, strike: Callable[[], None] = lambda: None, during: str = "training"
) -> Outcome:
    """What comes of a job; `strike` is called once, when a step, or a batch of that part, is over."""
    struck = False

    def told(number: int, step: int, total: int, loss: float | None, part: str = "training") -> None:
        nonlocal struck
        if not struck and part == during:
            struck = True
            strike()

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


@pytest.mark.parametrize(
    "written",
    [pytest.param(False, marks=pytest.mark.slow, id="whole"), pytest.param(True, id="divided")],
    indirect=True,
)
def test_a_process_with_nothing_to_do_waits_for_the_others(
    make: Callable[..., LocalWorkers], written: Callable[..., Path], tmp_path: Path
) -> None:
    """Two examples are scored by two of three processes, when the run's pace is measured, and then more."""
    scoring = {"metric": "exact_match", "max_new_tokens": 4}
    workers = make(processes=3, scoring=scoring)
    assert workers.load().pace is not None
    outcome = outcome_of(workers, Job(0, CONFIG, 0, tmp_path / "three"))
    alone = TrainingObjective.from_config(load_config(written(None, scoring=scoring)))
    expected = alone.run(CONFIG, seed=0, folder=tmp_path / "alone")
    assert outcome.value == expected.value
    assert places_of(tmp_path / "three") == places_of(tmp_path / "alone")


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
def test_one_may_die_while_answers_are_written(make: Callable[..., LocalWorkers], tmp_path: Path) -> None:
    scoring = {"metric": "exact_match", "max_new_tokens": 30, "batch_size": 1}
    workers = make(scoring=scoring, data={"validation_limit": 48})
    outcome = outcome_of(
        workers,
        Job(0, CONFIG, 0, tmp_path / "0"),
        lambda: processes_of_trials()[1].kill(),
        during="writing",
    )
    assert outcome.failure is None
    assert outcome.metrics["attempts"] == 2
    kept = json.loads((tmp_path / "0" / "attempt-1.json").read_text())["failure"]
    assert "process 2 of 2 died of SIGKILL" in kept["traceback_tail"]


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


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_leaves_a_plain_adapter(
    run_config: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    """Of a base model in parts: the values of all trials are those of one process, which has it whole."""
    scoring = {"metric": "exact_match", "max_new_tokens": 6}
    execution = {"workers": 1, "processes_per_trial": 2, "shard_model": True}
    path = run_config(scoring=scoring, search={"trials": 3}, training={"epochs": 6}, execution=execution)
    killed(path, "TrialFinished", "number=1")
    said("tune", path)
    run = load_run(tmp_path / "run")
    alone = TrainingObjective.from_config(load_config(run_config(scoring=scoring, training={"epochs": 6})))
    assert len(run.history.succeeded) == 3
    for trial in run.history.succeeded:
        own, config = tmp_path / f"alone-{trial.number}", run.space.config(trial.index)
        expected, found = alone.run(config, seed=3, folder=own), trial.outcome
        assert found is not None
        assert found.value == expected.value
        assert found.metrics["validation_loss"] == pytest.approx(
            expected.metrics["validation_loss"], abs=1e-4
        )
        folder = tmp_path / "run" / "trials" / f"{trial.number:04d}"
        assert losses_of(folder) == pytest.approx(losses_of(own), abs=1e-4)
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "best")
    (note,) = export(tmp_path / "run", tmp_path / "out", "merged").notes
    assert note.startswith("merged against adapter on")
    assert adapted.peft_config["default"].r in (2, 4, 8)


@pytest.mark.slow
def test_doctor_tries_a_divided_model_in_all_processes(
    run_config: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "deep", num_hidden_layers=12)
    execution = {"workers": 1, "processes_per_trial": 2, "shard_model": True}
    out = said("doctor", run_config(model=str(model), execution=execution))
    (held,) = re.findall(r"each of 2 processes holds (\d+)% of the weights", out)
    assert 50 <= int(held) < 75  # a half and one layer of the twelve, and the embeddings
    assert "84 modules get an adapter" in out
    assert "predicted peaks" in out


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"execution": {}}, "and there is one; set gpus_per_trial or, on CPUs, processes_per_trial"),
        (
            {"quantization": "4bit"},
            "weights in 4bit cannot be divided; leave out quantization or shard_model",
        ),
        (
            {"training": {"variant": "pissa"}},
            "variant pissa begins with whole weights, of which each process",
        ),
        (
            {"space": {"knobs": {"rank": [2], "variant": ["lora", "dora"]}}},
            "variant dora begins with whole weights, of which each process holds a part; use lora, rslora",
        ),
        (
            {"search": {"preset": "language"}, "language": {"model": "same"}},
            "language.model: same reads prompts with the whole base model; name a smaller one there",
        ),
        ({"execution": {"processes_per_trial": 2, "trials_together": 2}}, "2 processes share each trial"),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused(
    run_config: Callable[..., Path], said: Callable[..., str], changes: dict[str, Any], line: str
) -> None:
    execution = changes.get("execution", {"processes_per_trial": 2})
    path = run_config(**changes | {"execution": {"workers": 1, "shard_model": True} | execution})
    assert line in said("tune", path, refused=True)


def test_a_model_without_layers_to_divide_is_refused_before_the_first_trial(
    run_config: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "flat", num_hidden_layers=1)
    execution = {"workers": 1, "processes_per_trial": 2, "shard_model": True}
    errors = said("tune", run_config(model=str(model), execution=execution), refused=True)
    assert "LlamaForCausalLM has no list of layers with weights of their own; leave shard_model out" in errors
    assert errors.splitlines()[1:] == errors.splitlines()[-1:]


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
