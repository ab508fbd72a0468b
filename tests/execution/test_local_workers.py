"""Isolated workers, with real processes and real signals."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_runs import CONFIG, config_file, wait
from processes import PATIENCE, gone, parent

from loracle.config.loading import load_config
from loracle.errors import ConfigError, StudyError
from loracle.execution import devices
from loracle.execution.executor import Done, Job, next_done
from loracle.execution.local import LocalWorkers
from loracle.execution.messages import heading
from loracle.records.trial import FailureKind, Outcome
from loracle.records.trial_files import read_outcome
from loracle.report.folders import trial_folder
from loracle.run.folder import open_run
from loracle.run.storage.opening import read_history
from loracle.run.tune import tune
from loracle.run.worker import PROGRAM


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LocalWorkers]]:
    made: list[LocalWorkers] = []

    def workers(**execution: Any) -> LocalWorkers:
        made.append(LocalWorkers(load_config(config_file(tmp_path, execution=execution)), PROGRAM))
        return made[-1]

    yield workers
    for one in made:
        one.close()


def plan(monkeypatch: pytest.MonkeyPatch, **faults: Any) -> None:
    monkeypatch.setenv(
        "LORACLE_FAULTS", json.dumps({name.lstrip("_"): kind for name, kind in faults.items()})
    )


def run(workers: LocalWorkers, folder: Path, number: int = 0, seconds: float = PATIENCE) -> Outcome:
    workers.submit(Job(number, CONFIG, 0, folder / f"{number:04d}"))
    return wait(workers, seconds)[0].outcome


def until_written(path: Path, by: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end
        assert by is None or by.poll() is None, f"it ended: {by.stderr.read().decode() if by.stderr else ''}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- one worker -------------------------------------------------------------------------------------


def test_one_warm_worker_serves_trial_after_trial(make: Callable[..., LocalWorkers], tmp_path: Path) -> None:
    workers = make()
    outcomes = [run(workers, tmp_path, number) for number in range(3)]
    assert [outcome.value for outcome in outcomes] == [0.0] * 3
    assert len({outcome.metrics["pid"] for outcome in outcomes}) == 1
    assert outcomes[0].metrics["pid"] != os.getpid()
    workers.close()
    assert gone([int(outcomes[0].metrics["pid"])])


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("crash", FailureKind.CRASHED, "ValueError: an injected crash"),
        ("segfault", FailureKind.CRASHED, "SIGSEGV"),
        ("exit", FailureKind.CRASHED, "exit code 3"),
        ("kill", FailureKind.LOST, "no memory left"),
    ],
)
def test_crashed_and_lost_trials_are_run_once_more(
    make: Callable[..., LocalWorkers],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    kind: FailureKind,
    says: str,
) -> None:
    plan(monkeypatch, _0=fault, _1=[fault, ""])
    workers = make()
    outcome = run(workers, tmp_path, 0)
    assert outcome.failure is not None
    assert outcome.failure.kind is kind
    assert says in outcome.failure.message
    assert (tmp_path / "0000" / "ran").read_text().count("\n") == 2
    kept = json.loads((tmp_path / "0000" / "attempt-1.json").read_text())
    assert says in kept["failure"]["message"]
    second = run(workers, tmp_path, 1)
    assert second.value == 0.0
    assert second.metrics["attempts"] == 2


@pytest.mark.parametrize(
    ("fault", "kind"), [("nan", FailureKind.DIVERGED), ("memory", FailureKind.OUT_OF_MEMORY)]
)
def test_what_a_config_is_to_blame_for_is_not_tried_again(
    make: Callable[..., LocalWorkers],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    kind: FailureKind,
) -> None:
    plan(monkeypatch, _0=fault)
    workers = make()
    outcome = run(workers, tmp_path, 0)
    assert outcome.failure is not None
    assert outcome.failure.kind is kind
    assert (tmp_path / "0000" / "ran").read_text().count("\n") == 1
    assert run(workers, tmp_path, 1).value == 0.0


def test_a_trial_over_its_time_is_ended(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _0="hang")
    workers = make(time_limit=1.5)
    outcome = run(workers, tmp_path, 0)
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.TIMEOUT
    assert "execution.time_limit, 1.5 s" in outcome.failure.message
    assert 'faults.py", line' in outcome.failure.traceback_tail  # where it hung
    assert (tmp_path / "0000" / "ran").read_text().count("\n") == 1
    assert run(workers, tmp_path, 1).value == 0.0


def test_a_final_training_has_no_time_limit(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, winner="slow")
    workers = make(time_limit=0.5)
    workers.submit(Job(-1, CONFIG, 0, tmp_path / "winner", final=True))
    assert wait(workers)[0].outcome.value == 0.0


@pytest.mark.parametrize("fault", ["hang", "stop"])
def test_a_worker_that_stands_still_is_replaced(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plan(monkeypatch, _0=[fault, ""])
    workers = make(stall_limit=2)
    assert run(workers, tmp_path, 0).value == 0.0
    kept = json.loads((tmp_path / "0000" / "attempt-1.json").read_text())
    assert kept["failure"]["kind"] == "lost"
    assert kept["failure"]["message"].startswith("no sign of life for 2 s")


def test_work_without_a_word_is_not_taken_for_a_hang(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _0="work")
    outcome = run(make(stall_limit=3), tmp_path, 0)
    assert [outcome.value, outcome.metrics.get("attempts")] == [0.0, None]


def test_a_worker_that_is_killed_between_trials_is_not_missed(
    make: Callable[..., LocalWorkers], tmp_path: Path
) -> None:
    workers = make()
    before = int(run(workers, tmp_path, 0).metrics["pid"])
    os.kill(before, signal.SIGKILL)
    assert gone([before])
    assert workers.wait(0.5, lambda *_: None) == []
    again = run(workers, tmp_path, 1).metrics
    assert again.get("attempts") is None
    assert again["pid"] != before


def test_what_a_worker_prints_is_kept_but_bounded(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _0="chatter", _1="chatter", _2=["exit", ""])
    workers = make()
    for number in range(3):
        assert run(workers, tmp_path, number).value == 0.0
    workers.wait(0.3, lambda *_: None)
    log = tmp_path / "run" / "workers" / "0.log"
    assert 100_000 < log.stat().st_size <= 1_000_000
    # The trial that was run twice, the second time by another worker, printed nothing.
    end = heading("trial 0002") + heading("worker") + heading("trial 0002")
    assert log.read_bytes().endswith(b"spam and eggs\n" + end)
    kept = json.loads((tmp_path / "0002" / "attempt-1.json").read_text())
    assert "spam" not in kept["failure"]["traceback_tail"]  # that was another trial


def test_a_worker_that_grows_is_replaced_without_a_failure(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _1="leak", _2="leak")
    workers = make(memory_growth_gb=0.1)
    outcomes = [run(workers, tmp_path, number) for number in range(4)]
    assert [outcome.failure for outcome in outcomes] == [None] * 4
    pids = [outcome.metrics["pid"] for outcome in outcomes]
    assert pids[0] == pids[1] == pids[2] != pids[3]


@pytest.mark.parametrize("fault", ["child", "detached"])
def test_what_a_trial_started_goes_with_its_worker(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plan(monkeypatch, _0=fault)
    workers = make()
    worker = int(run(workers, tmp_path, 0).metrics["pid"])
    everything = [worker, *children(worker)]
    assert len(everything) == 2
    workers.close()
    assert gone(everything)


def test_a_worker_whose_guard_is_killed_goes_too(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _1=["hang", ""])
    workers = make()
    before = int(run(workers, tmp_path, 0).metrics["pid"])
    workers.submit(Job(1, CONFIG, 0, tmp_path / "0001"))
    until_written(tmp_path / "0001" / "ran")
    os.kill(parent(before), signal.SIGKILL)
    assert wait(workers)[0].outcome.value == 0.0
    assert gone([before])


def test_a_trial_that_leaves_no_folder_costs_itself_alone(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _0="replace")
    workers = make()
    outcomes = []
    for number in range(2):
        workers.submit(Job(number, CONFIG, 0, tmp_path / f"{number:04d}"))
        while not (done := next_done(workers, 1.0, lambda *_: None)):
            pass
        outcomes.append(done[0].outcome)
    assert outcomes[0].failure is not None
    assert outcomes[0].failure.kind is FailureKind.CRASHED
    assert outcomes[1].value == 0.0


# -- several, and the run ---------------------------------------------------------------------------


def test_several_workers_run_at_the_same_time(
    make: Callable[..., LocalWorkers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, _0="slow", _1="slow", _2="slow")
    workers = make(workers=3)
    assert workers.capacity == 3
    for number in range(3):
        workers.submit(Job(number, CONFIG, 0, tmp_path / f"{number:04d}"))
    done: list[Done] = []
    while len(done) < 3:
        done += wait(workers)
    assert {one.job.number for one in done} == {0, 1, 2}
    assert len({one.outcome.metrics["pid"] for one in done}) == 3


def test_a_run_survives_every_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, _1="crash", _2="nan", _3=["segfault", ""], _4="memory", _5="hang", _6=["kill", ""])
    config = load_config(
        config_file(tmp_path, execution={"workers": 2, "time_limit": 3}, search={"trials": 14})
    )
    result = tune(config)
    history, space = result.history, result.space
    assert len(history.counted) == 14
    assert len({trial.index for trial in history.trials}) == 14
    kinds = [t.outcome.failure.kind for t in history.finished if t.outcome and t.outcome.failure]
    assert sorted(kinds) == ["crashed", "diverged", "out_of_memory", "timeout"]
    attempts = {t.number: t.outcome.metrics.get("attempts") for t in history.succeeded if t.outcome}
    assert attempts[3] == attempts[6] == 2
    for trial in history.trials:  # each folder says what the journal says
        kept = read_outcome(trial_folder(config.output, trial.number), space.config(trial.index))
        assert kept == trial.outcome
    assert max(t.outcome.value for t in history.succeeded if t.outcome and t.outcome.value) > -2


def start(path: Path, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "loracle", "tune", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": environment} | options
    return subprocess.Popen(command, **options)


def started_by(driver: subprocess.Popen[bytes], ran: Path) -> list[int]:
    """Guard, worker, and what the worker started, once the trial that wrote `ran` runs."""
    until_written(ran, driver)
    worker = int(ran.read_text())
    assert parent(parent(worker)) == driver.pid
    return [parent(worker), worker, *children(worker)]


def one_success_and_one_interrupted(path: Path, recorded: bool) -> None:
    config, space = open_run(path)
    history = read_history(config.output, space)
    assert len(history.succeeded) == 1
    assert history.trials[1].interrupted == recorded


@pytest.mark.parametrize(
    "sign", [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_no_process_outlives_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    plan(monkeypatch, _0="detached", _1="hang")
    path = config_file(tmp_path)
    driver = start(path)
    below = started_by(driver, tmp_path / "run" / "trials" / "0001" / "ran")
    assert len(below) == 3
    driver.send_signal(sign)
    _, errors = driver.communicate(timeout=PATIENCE)
    assert gone(below)
    one_success_and_one_interrupted(path, recorded=sign is not signal.SIGKILL)
    if sign is not signal.SIGKILL:
        assert driver.returncode == 130
        assert errors.decode().strip().splitlines()[-1].startswith("loracle: stopped")


def test_no_process_outlives_a_closed_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, _0="detached", _1="hang")
    path = config_file(tmp_path)
    ours, theirs = pty.openpty()
    # `setsid --ctty`: the terminal is the driver's own, as in a terminal window.
    command = ["setsid", "--ctty", "--wait", sys.executable, "-m", "loracle", "tune", str(path)]
    shell = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    ran = tmp_path / "run" / "trials" / "0001" / "ran"
    until_written(ran, shell)
    worker = int(ran.read_text())
    driver = parent(parent(worker))
    below = [driver, parent(worker), worker, *children(worker)]
    assert len(below) == 4
    os.close(ours)
    shell.wait(PATIENCE)
    assert gone(below)
    one_success_and_one_interrupted(path, recorded=True)


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


@pytest.mark.slow
def test_a_run_under_nohup_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, _1="slow")
    path = config_file(tmp_path, search={"trials": 2})
    driver = start(path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    started_by(driver, tmp_path / "run" / "trials" / "0001" / "ran")
    driver.send_signal(signal.SIGHUP)
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, errors.decode()


# -- a full disk ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes: room for the report, and not for what `fill` writes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_full_disk_is_one_line_and_nothing_finished_is_lost(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    plan(monkeypatch, **{f"_{number}": "fill" for number in range(4, 7)})
    path = config_file(tmp_path, output=str(small_disk / "run"), execution={"workers": workers})
    driver = start(path)
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 2, errors.decode()
    last = errors.decode().strip().splitlines()[-1]
    assert last.startswith("loracle: ")
    assert "No space left on device" in last
    assert "Traceback" not in errors.decode()
    config, space = open_run(path)
    before = {t.index: t.outcome for t in read_history(config.output, space).finished if not t.interrupted}
    assert len(before) >= 2
    for stuffing in small_disk.glob("run/trials/*/stuffing"):
        stuffing.unlink()
    monkeypatch.delenv("LORACLE_FAULTS")
    driver = start(path)
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, errors.decode()
    after = {t.index: t.outcome for t in read_history(config.output, space).counted}
    assert len(after) == 8
    assert before.items() <= after.items()


# -- refused ----------------------------------------------------------------------------------------


def test_an_objective_that_cannot_be_loaded_ends_the_run_with_its_line(tmp_path: Path) -> None:
    path = config_file(tmp_path, objective={"function": "no_such_module:train"})
    with pytest.raises(ConfigError, match="no_such_module"):
        tune(load_config(path))


def test_workers_that_die_while_loading_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os, sys\n\n"
        "if sys.argv[0].endswith('run/worker.py'):\n    os._exit(7)\n\n\n"
        "def train(config):\n    return 0.0\n"
    )
    path = config_file(tmp_path, objective={"function": "dies.py:train"})
    with pytest.raises(StudyError, match=r"3 workers in a row ended .* exit code 7"):
        tune(load_config(path))


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    visible_devices = functools.partial(devices.visible_devices, count=lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6, 7")
    two = [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert visible_devices("auto", 2, 2) == visible_devices("cuda", 2, 2) == two
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_devices("auto", 1, 3) == [{"CUDA_VISIBLE_DEVICES": "0,1,2"}]
    assert visible_devices("auto", 3, 0) == visible_devices("cpu", 3, 1) == [{}] * 3
    assert visible_devices("cuda:1", 1, 1) == [{}]
    with pytest.raises(ConfigError, match=r"5 workers with 1 GPU\(s\) each need 5, but 4"):
        visible_devices("auto", 5, 1)
    with pytest.raises(ConfigError, match="2 workers cannot share cuda:1"):
        visible_devices("cuda:1", 2, 1)
    assert devices.visible_devices("auto", 2, 1, count=lambda: 0) == [{}] * 2


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = [devices.threads_each(None, workers, cores=10) for workers in (1, 2, 4, 20)]
    assert threads == [None, 5, 2, 1]
    assert devices.threads_each(3, 4, cores=10) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert devices.threads_each(None, 4, cores=10) is None
