"""Workers on a real Ray cluster of several nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from fault_runs import CONFIG, FAULTS, config_file, wait
from processes import PATIENCE, gone, parent
from test_work import Replay

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, StudyError
from loracle.execution.executor import Job
from loracle.execution.messages import Alive, Finished, Ready, Refused, messages_of
from loracle.execution.ray_cluster import RayWorkers, resources
from loracle.execution.ray_files import PIECE, fetch
from loracle.execution.ray_station import Station
from loracle.records.codec import to_plain
from loracle.records.contents import Beginning, file_hash
from loracle.records.events import Event, TrialFinished, TrialStarted
from loracle.records.trial import FailureKind
from loracle.run.search import Search
from loracle.run.storage.lock import run_lock
from loracle.run.storage.opening import open_study
from loracle.run.tune import run_search, tune
from loracle.run.worker import PROGRAM
from loracle.search.presets import get_preset

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'loracle[ray]'")
optuna.logging.set_verbosity(optuna.logging.ERROR)

pytestmark = [
    pytest.mark.xdist_group("ray"),  # a cluster takes every core, so one at a time
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves files and sockets open
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a cluster whose head has room for one worker; trials on it fail as told."""
    from ray.cluster_utils import Cluster

    made = []

    def start(**faults: Any) -> Any:
        plan = json.dumps({name.lstrip("_"): kind for name, kind in faults.items()})
        monkeypatch.setenv("LORACLE_FAULTS", plan)  # nodes have the environment that they were started in
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 1, "include_dashboard": False}
        made.append(Cluster(initialize_head=True, head_node_args=head))
        monkeypatch.setenv("RAY_ADDRESS", made[0].address)
        return made[0]

    yield start
    ray.shutdown()
    for one in made:
        one.shutdown()


def settings(folder: Path, trials: int = 8, **execution: Any) -> RunConfig:
    execution = {"executor": "ray", "workers": 2, **execution}
    return load_config(config_file(folder, execution=execution, search={"trials": trials}))


# -- a run ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_survives_the_loss_of_a_node_and_is_the_run_of_one_machine(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    slow = {f"_{number}": "slow" for number in range(12)}
    made = cluster(**{**slow, "_3": "crash", "_5": "nan"})
    node = made.add_node(num_cpus=1)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, TrialStarted) and event.number == 7:
            threading.Timer(0.3, lambda: made.remove_node(node, allow_graceful=False)).start()

    config = settings(tmp_path, trials=12)
    result = tune(config, listen)
    history = result.history
    assert len(history.counted) == len(history.trials) == 12
    assert len({trial.index for trial in history.trials}) == 12
    kinds = [t.outcome.failure.kind for t in history.finished if t.outcome and t.outcome.failure]
    assert sorted(kinds) == [FailureKind.CRASHED, FailureKind.DIVERGED]
    attempts = (tmp_path / "run" / "trials").glob("*/attempt-1.json")
    lost = [path for path in attempts if json.loads(path.read_text())["failure"]["kind"] == "lost"]
    assert len(lost) == 1
    again = history.trials[int(lost[0].parent.name)].outcome
    assert again is not None
    assert again.metrics["attempts"] == 2
    order = [event.trial for event in events if isinstance(event, TrialFinished)]
    at_a_time = _running_before_each_end(events)
    assert max(at_a_time) == 2
    # One machine, where trials end in the same order, chooses the same configs.
    replay = Replay(order, at_a_time[0])

    def follow(event: Event) -> None:
        if isinstance(event, TrialFinished):
            replay.capacity = at_a_time[event.done]

    (tmp_path / "one").mkdir()
    search = Search(result.space, get_preset("default"), None, config.search.seed)
    with open_study(tmp_path / "one", result.space) as study:
        run_search(search, study, replay, tmp_path / "one", 12, follow)
        assert study.history() == history


def _running_before_each_end(events: list[Event]) -> list[int]:
    running, found = 0, []
    for event in events:
        if isinstance(event, TrialStarted):
            running += 1
        elif isinstance(event, TrialFinished):
            found.append(running)
            running -= 1
    return [*found, 1]


# -- its parts --------------------------------------------------------------------------------------


def run(workers: Any, folder: Path, number: int, **more: Any) -> Any:
    workers.submit(Job(number, CONFIG, 0, folder / f"{number:04d}", **more))
    return wait(workers)[0].outcome


class Travelled:
    """Ray, with a record of how many bytes came at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)

    def get(self, reference: Any) -> Any:
        found = ray.get(reference)
        self.sizes.append(len(found))
        return found


class NoStation:
    """Ray, on nodes where no station can be made."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)

    def remote(self, station: type) -> Any:
        class Broken:
            def __init__(self, *_: Any) -> None:
                raise TypeError("an older loracle")

            def ready(self) -> str:
                return ""

        return ray.remote(Broken)


def test_a_station_hands_out_files_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORACLE_FAULTS", json.dumps({"0": "fill"}))
    station = Station(settings(tmp_path).model_dump_json(), "", 0, "run/worker.py")
    try:
        said = station.begin(json.dumps(to_plain(Job(0, CONFIG, 0, tmp_path / "0000"))), "null")
        end = time.monotonic() + PATIENCE
        while not any(isinstance(one, Finished) for one in messages_of(said)) and time.monotonic() < end:
            said = station.wait()
        assert "0000/stuffing" in json.loads(station.files())
        pieces = [station.piece("0000/stuffing", start) for start in (0, PIECE, 10_000_000)]
        assert [len(piece) for piece in pieces] == [PIECE, 10_000_000 - PIECE, 0]
    finally:
        station.end()


def test_a_node_with_other_files_than_the_run_began_with_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORACLE_FAULTS", "{}")
    config = settings(tmp_path)
    assert config.objective is not None
    source = f"source of {config.objective.function}"
    station = Station(config.model_dump_json(), "", 0, "run/worker.py")
    job = json.dumps(to_plain(Job(0, CONFIG, 0, tmp_path / "0000")))
    began = Beginning("the run", {source: file_hash(FAULTS)}, "of another kind")
    try:
        for known, last in ((began, Finished), (replace(began, contents={source: "another"}), Refused)):
            said = messages_of(station.begin(job, json.dumps(to_plain(known))))
            end = time.monotonic() + PATIENCE
            while not any(isinstance(one, last) for one in said) and time.monotonic() < end:
                said = messages_of(station.wait())
            (told,) = [one for one in said if isinstance(one, last)]
        assert isinstance(told, Refused)
        assert told.message.startswith(f"the run: changed since this run began: {source}; ")
        assert not any(isinstance(one, Finished) for one in said)
    finally:
        station.end()


def test_a_station_answers_while_its_worker_loads(tmp_path: Path) -> None:
    """A large model takes minutes; a station that says nothing would be given up."""
    (tmp_path / "slow.py").write_text(
        "import time\n\ntime.sleep(4)\n\n\ndef train(config):\n    return 0.0\n"
    )
    config = settings(tmp_path)
    assert config.objective is not None
    slow = config.objective.model_copy(update={"function": f"{tmp_path / 'slow.py'}:train"})
    station = Station(config.model_copy(update={"objective": slow}).model_dump_json(), "", 0, "run/worker.py")
    answers = []
    try:
        while not answers or answers[-1] == Alive():
            answers += messages_of(station.load())
    finally:
        station.end()
    assert len(answers) > 2
    assert isinstance(answers[-1], Ready)
    assert answers[-1].report is not None


def test_failures_are_dealt_with_on_the_node_and_files_come_back(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    cluster(_0="fill", _1="crash", _2=["kill", ""], _3="hang")
    folder = tmp_path / "elsewhere"
    left = Path(tempfile.mkdtemp(prefix=f"loracle-{os.getuid()}-99999999-"))  # by one that was killed
    travelled = Travelled()
    config = settings(tmp_path, workers=1, time_limit=2)
    with RayWorkers(config, PROGRAM, ray=travelled) as workers:  # the node sees no run folder
        outcomes = [run(workers, folder, number) for number in range(4)]
        assert [outcome.failure and outcome.failure.kind for outcome in outcomes] == [
            None,
            FailureKind.CRASHED,
            None,
            FailureKind.TIMEOUT,
        ]
        assert outcomes[0].value == 0.0
        assert outcomes[2].metrics["attempts"] == 2
        for number in range(4):
            assert (folder / f"{number:04d}" / "log.txt").exists()
        assert (folder / "0002" / "attempt-1.json").exists()
        assert (folder / "0000" / "stuffing").stat().st_size == 10_000_000
        assert not list(folder.rglob("*.coming"))
        assert max(travelled.sizes) == PIECE  # a file of any size goes through memory in pieces
        assert workers.capacity == 1
    assert not list(tmp_path.glob("run/workers/*"))
    assert not left.exists()
    assert not list(Path(tempfile.gettempdir()).glob(f"loracle-{os.getuid()}-*"))


@pytest.mark.slow
def test_a_station_that_is_killed_is_replaced(cluster: Callable[..., Any], tmp_path: Path) -> None:
    cluster(_0=["slow", ""], _1="slow")
    (tmp_path / "run").mkdir()
    with run_lock(tmp_path / "run"), RayWorkers(settings(tmp_path, workers=1), PROGRAM) as workers:
        folder = tmp_path / "run" / "trials"
        ran = [folder / f"{number:04d}" / "ran" for number in range(2)]
        workers.submit(Job(0, CONFIG, 0, folder / "0000"))
        _end_stations_when(ran[0], 1, workers)
        outcome = wait(workers)[0].outcome
        assert outcome.value == 0.0
        assert outcome.metrics["attempts"] == 2
        workers.submit(Job(1, CONFIG, 0, folder / "0001"))
        _end_stations_when(ran[1], 1, workers)
        _end_stations_when(ran[1], 2, workers)
        outcome = wait(workers)[0].outcome
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.LOST
        pids = [int(pid) for path in ran for pid in path.read_text().split()]
        assert list((tmp_path / "run" / "workers").iterdir()) == [tmp_path / "run" / "workers" / "ray-0"]
    assert gone(pids)


def _end_stations_when(ran: Path, attempts: int, workers: RayWorkers) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert workers.wait(0.05, lambda *_: None) == []
        if ran.exists() and len(ran.read_text().split()) == attempts:
            station = parent(parent(int(ran.read_text().split()[-1])))
            os.kill(station, signal.SIGKILL)
            assert gone([station])
            return
    raise AssertionError(f"{ran} did not come")


@pytest.mark.slow
def test_what_a_cluster_cannot_hold_is_refused(
    cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster()
    config = settings(tmp_path)
    with pytest.raises(
        ConfigError, match=r"needs 2 CPU\(s\) and 0 GPU\(s\), but the whole Ray cluster has 1"
    ):
        RayWorkers(config.model_copy(update={"threads": 2}), PROGRAM)
    with pytest.raises(ConfigError, match=r"needs 1 CPU\(s\) and 1 GPU\(s\)"):
        RayWorkers(config.model_copy(update={"device": "cuda"}), PROGRAM)
    bad = config.model_copy(update={"objective": config.objective.model_copy(update={"function": "no:f"})})
    with RayWorkers(bad, PROGRAM) as workers, pytest.raises(ConfigError, match="'no:f' cannot be loaded"):
        run(workers, tmp_path, 0)
    told = pytest.raises(StudyError, match=r"3 workers in a row could not start .* an older loracle")
    with RayWorkers(config, PROGRAM, ray=NoStation()) as workers, told:
        run(workers, tmp_path, 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed: pip install 'loracle\[ray\]'"):
        RayWorkers(config, PROGRAM)


@pytest.mark.parametrize(("asked", "gpus"), [(None, 1), (8, 8), (0, 0)])
def test_a_worker_has_one_gpu_unless_the_config_says_otherwise(
    tmp_path: Path, asked: int | None, gpus: int
) -> None:
    config = settings(tmp_path, gpus_per_trial=asked)
    assert config.objective is not None  # a trainer of the user's own, too
    assert resources(config, 1, {"CPU": 16, "GPU": 8})["num_gpus"] == gpus
    if gpus < 2:
        assert resources(config, 1, {"CPU": 16})["num_gpus"] == 0


def test_files_of_a_node_stay_inside_the_run(tmp_path: Path) -> None:
    job = Job(0, {}, 0, tmp_path / "trials" / "0000", True, tmp_path / "best")
    names = ["0000/a/b", "0000/../x", "0000//etc/x", "adapter/model", "adapter/../../x", "x", "0001/x"]
    fetch([(name, [b"1", b"2"]) for name in names], job)
    assert (tmp_path / "best" / "model").read_bytes() == b"12"
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["best/model", "trials/0000/a/b"]


DRIVER = """
import sys, time
from pathlib import Path
from loracle.config.loading import load_config
from loracle.execution.ray_cluster import RayWorkers
from loracle.run.storage.lock import run_lock
from loracle.execution.executor import Job
from loracle.run.worker import PROGRAM
folder = Path(sys.argv[1])
(folder / "run").mkdir()
with run_lock(folder / "run"):
    workers = RayWorkers(load_config(folder / "config.yaml"), PROGRAM)
    workers.submit(Job(0, {"rank": 8, "learning_rate": 1e-3}, 0, folder / "0000"))
    while True:
        workers.wait(1.0, lambda *_: None)
"""


@pytest.mark.slow
def test_nothing_outlives_a_driver_that_started_its_own_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("LORACLE_FAULTS", json.dumps({"0": "hang"}))
    settings(tmp_path, workers=1)
    before = _ray_processes()
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    try:
        end = time.monotonic() + PATIENCE
        while not _hanging(tmp_path) and time.monotonic() < end:
            time.sleep(0.2)
        started = _ray_processes() - before | set(_hanging(tmp_path))
        assert len(started) > 3
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert gone(_hanging(tmp_path))
        assert gone(list(started))  # Ray's own agents take up to a minute
    finally:
        driver.kill()
        driver.wait()


def _ray_processes() -> set[int]:
    found = subprocess.run(["pgrep", "-f", "gcs_server|raylet|ray::"], capture_output=True, text=True).stdout
    return {int(pid) for pid in found.split()}


def _hanging(folder: Path) -> list[int]:
    ran = folder / "0000" / "ran"
    return [int(pid) for pid in ran.read_text().split()] if ran.exists() else []
