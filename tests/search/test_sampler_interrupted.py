"""What becomes of configs whose trial was cut short: by Ctrl-C, by a process that died, by a heartbeat."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState

from loracle import LoracleSampler
from loracle.records.trial import FAILURE_KEY

optuna.logging.set_verbosity(optuna.logging.ERROR)

USUAL = {"lr": 3e-4, "r": 16}  # of these choices, what is nearest to it
PROGRAM = """
import os, signal, sys, time
import optuna
from loracle import LoracleSampler
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage, way = sys.argv[1:]
def objective(trial):
    lr = trial.suggest_categorical("lr", [1e-5, 1e-4, 3e-4, 1e-3])
    rank = trial.suggest_categorical("r", [8, 16])
    print("runs", flush=True)
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.readline()
    return rank + lr
study = optuna.create_study(
    storage=storage, study_name="s", load_if_exists=True, sampler=LoracleSampler(seed=0), direction="maximize"
)
study.optimize(objective, n_trials=1)
"""


def objective(trial: optuna.Trial) -> float:
    lr = trial.suggest_categorical("lr", [1e-5, 1e-4, 3e-4, 1e-3])
    return float(trial.suggest_categorical("r", [8, 16]) + lr)


def stopped(trial: optuna.Trial) -> float:
    objective(trial)
    raise KeyboardInterrupt


def killed(storage: str) -> None:
    """Begins a trial in a process of its own, which is killed in it."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, storage, "kill"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-9, "runs\n")


def opened(storage: str | RDBStorage) -> Study:
    return optuna.load_study(study_name="s", storage=storage, sampler=LoracleSampler(seed=0))


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def all_eight(study: Study) -> None:
    """Goes on until nothing is left: every config has been tried, none of those that ended twice."""
    with pytest.warns(UserWarning, match="all 8 configs"):
        study.optimize(objective, n_trials=20)
    done = [tuple(t.params.items()) for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(done) == len(set(done)) == 8


def test_what_ctrl_c_ended_is_tried_again_first() -> None:
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            study.optimize(stopped, n_trials=1)
    assert [t.params for t in study.trials] == [USUAL] * 4
    assert study.trials[0].user_attrs[FAILURE_KEY] == "interrupted"
    study.optimize(objective, n_trials=2)
    with pytest.raises(KeyboardInterrupt):
        study.optimize(stopped, n_trials=1)
    study.optimize(objective, n_trials=1)
    assert study.trials[4].params == USUAL
    assert study.trials[7].params == study.trials[6].params
    all_eight(study)


def test_the_usual_settings_of_a_range_are_not_lost() -> None:
    def ranged(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        if trial.number == 0:
            raise KeyboardInterrupt
        return lr

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with pytest.raises(KeyboardInterrupt):
        study.optimize(ranged, n_trials=1)
    study.optimize(ranged, n_trials=1)
    assert [t.params["lr"] for t in study.trials] == [2e-4, 2e-4]


def test_an_exception_is_not_tried_again() -> None:
    def breaks(trial: optuna.Trial) -> float:
        objective(trial)
        raise ValueError("no")

    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))
    study.optimize(breaks, n_trials=2, catch=(ValueError,))
    study.optimize(objective, n_trials=1)
    assert len({tuple(t.params.items()) for t in study.trials}) == 3


def test_what_a_killed_process_trained_is_tried_again_first(storage: str) -> None:
    killed(storage)
    killed(storage)
    study = opened(storage)
    assert [(t.state, t.params) for t in study.trials] == [(TrialState.RUNNING, USUAL)] * 2
    study.optimize(objective, n_trials=1)
    assert study.trials[2].params == USUAL
    all_eight(study)


def test_a_config_that_kills_its_process_each_time_is_left(storage: str) -> None:
    for _ in range(4):
        killed(storage)
    params = [t.params for t in opened(storage).trials]
    assert params[:3] == [USUAL] * 3
    assert params[3] != USUAL


def test_what_another_process_trains_is_not_taken_from_it(storage: str) -> None:
    call = [sys.executable, "-c", PROGRAM, storage, "waits"]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        study = opened(storage)
        study.optimize(objective, n_trials=3)
        process.communicate("go on\n")
    all_eight(study)
    assert study.trials[0].state == TrialState.COMPLETE


def test_a_trial_that_an_exit_left_running_is_over() -> None:
    def leaves(trial: optuna.Trial) -> float:
        objective(trial)
        sys.exit(3)

    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))
    with pytest.raises(SystemExit):
        study.optimize(leaves, n_trials=1)
    study.optimize(objective, n_trials=1)
    assert study.trials[1].params == USUAL


def test_threads_do_not_take_each_others_configs() -> None:
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))
    with pytest.raises(KeyboardInterrupt):
        study.optimize(stopped, n_trials=1)
    study.optimize(objective, n_trials=8, n_jobs=4)
    done = Counter(tuple(t.params.items()) for t in study.trials if t.state == TrialState.COMPLETE)
    assert len(done) == 8


def test_who_asks_and_tells_may_be_gone_in_between(storage: str) -> None:
    program = PROGRAM.replace("study.optimize(objective, n_trials=1)", "objective(study.ask())")
    subprocess.run([sys.executable, "-c", program, storage, "waits"], input="\n", text=True, check=True)
    study = opened(storage)
    study.optimize(objective, n_trials=1)
    assert study.trials[1].params != study.trials[0].params


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_what_a_heartbeat_found_dead_is_tried_again(storage: str) -> None:
    """Also of other machines, where nobody can look: the trial fails without a word of its own process."""
    watched = RDBStorage(storage, heartbeat_interval=1, grace_period=1)
    optuna.create_study(storage=watched, study_name="s", direction="maximize")
    killed(storage)
    watched.record_heartbeat(1)
    elsewhere = {**watched.get_trial_system_attrs(1)["loracle:process"], "machine": "another"}
    watched.set_trial_system_attr(1, "loracle:process", elsewhere)
    study = opened(watched)
    study.optimize(objective, n_trials=1)  # it may yet run
    time.sleep(3)
    study.optimize(objective, n_trials=1)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[1].params != study.trials[0].params == study.trials[2].params


def test_what_was_left_running_may_be_made_to_fail_by_hand(storage: str) -> None:
    killed(storage)
    there = RDBStorage(storage)
    said = there.get_trial_system_attrs(1)["loracle:process"]
    there.set_trial_system_attr(1, "loracle:process", {**said, "machine": "another"})
    study = opened(there)
    study.optimize(objective, n_trials=1)
    study.tell(0, state=TrialState.FAIL)
    study.optimize(objective, n_trials=1)
    assert study.trials[1].params != USUAL
    assert study.trials[2].params == USUAL
