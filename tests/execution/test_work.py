"""Many processes on one database: `loracle worker`, with a real PostgreSQL that the tests start."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from fault_runs import config_file
from processes import PATIENCE, gone

from loracle.config.loading import load_config
from loracle.errors import StudyError
from loracle.execution.executor import Done, Job, Progress
from loracle.records.events import Event
from loracle.records.space import SearchSpace
from loracle.records.trial import History, Outcome, Trial
from loracle.run.folder import open_run
from loracle.run.search import Search
from loracle.run.storage import database, storage
from loracle.run.storage.opening import open_study, read_history
from loracle.run.tune import run_search, work
from loracle.search.presets import get_preset

optuna.logging.set_verbosity(optuna.logging.ERROR)

pytestmark = pytest.mark.xdist_group("postgresql")  # one server for all


class Server:
    """A PostgreSQL of its own, on a free port."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._as_user: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self.port = _free_port()
        self._run("initdb", "-D", "data", "-U", "loracle", "-A", "trust", "--no-sync")

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def url(self, name: str) -> str:
        """Of a new database."""
        host = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "loracle"]
        self._run("createdb", *host, name)
        return f"postgresql://loracle:secret@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), *arguments]
        done = subprocess.run(command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr.decode()


def _free_port() -> int:
    """Below those that systems give out, so that nobody gets it while the server is down."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found := shutil.which("initdb"):
        programs.append(Path(found).resolve())
    if not programs:
        pytest.skip("PostgreSQL is not installed (no initdb)")
    pytest.importorskip("psycopg2", reason="its driver is not installed: pip install 'loracle[postgres]'")
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("PostgreSQL refuses to run as root, and there is no setpriv")
    folder = Path(tempfile.mkdtemp(prefix="loracle-pg-"))  # pytest's own is closed to other users
    made = Server(programs[-1].parent, folder)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BEAT_SECONDS", 1)
    monkeypatch.setattr(database, "GRACE_SECONDS", 4)


# `loracle`, where silent processes are taken over sooner.
PROGRAM = """
import sys
from loracle import cli
from loracle.run.storage import database as storage
storage.BEAT_SECONDS, storage.GRACE_SECONDS = 1, 4
cli.main()
"""


def start(*arguments: str, faults: dict[str, Any]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LORACLE_FAULTS": json.dumps(faults)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_four_processes_share_a_run_and_one_is_killed(server: Server, tmp_path: Path) -> None:
    url, n = server.url("four"), 20
    path = config_file(tmp_path, search={"trials": n}, execution={"workers": 1})
    slow = {str(number): "slow" for number in range(2 * n)}
    processes = [start("worker", str(path), "--storage", url, faults=slow) for _ in range(4)]
    try:
        config, space = open_run(path)
        _until(lambda: len(_finished(config.output, space, url)) >= 6)
        victim = _driver_of(_running_trial(config.output, space, url))
        os.kill(victim, signal.SIGKILL)
        ends = {process.pid: process.communicate(timeout=PATIENCE)[0] for process in processes}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sorted(process.returncode for process in processes) == [-signal.SIGKILL, 0, 0, 0]
    assert sum(f"all {n} trials are done; {n} in all" in out for out in ends.values()) == 3
    history = read_history(config.output, space, url)
    done = history.counted
    assert len(done) == n
    assert len({trial.index for trial in done}) == n
    assert history.pending == ()
    # What the killed one had begun is trained again; nothing else is trained twice.
    trials = config.output / "trials"
    ran = {int(folder.name): (folder / "ran").read_text().split() for folder in trials.glob("*")}
    assert all(len(attempts) == 1 for attempts in ran.values())
    cut_short = [trial for trial in history.trials if trial.interrupted and trial.number in ran]
    assert len(cut_short) == 1
    assert set(ran) == {trial.number for trial in (*done, *cut_short)}
    assert [trial.index for trial in done].count(cut_short[0].index) == 1
    assert len({pid for attempts in ran.values() for pid in attempts}) == 4
    assert gone([int(pid) for attempts in ran.values() for pid in attempts])
    # Then one of them reports, and everybody can look.
    tuned = start("tune", str(path), "--storage", url, "--json", faults={})
    out, errors = tuned.communicate(timeout=PATIENCE)
    assert tuned.returncode == 0, errors
    assert json.loads(out)["stopped"] == f"all {n} trials are done"
    shown = start("show", str(config.output), "--json", faults={})
    out, errors = shown.communicate(timeout=PATIENCE)
    assert shown.returncode == 0, errors
    assert len(json.loads(out)["trials"]) == len(history.trials)


def _running_trial(output: Path, space: SearchSpace, url: str) -> int:
    """The process of a trial that has just begun, and takes a second."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for trial in read_history(output, space, url).pending:
            ran = output / "trials" / f"{trial.number:04d}" / "ran"
            if ran.exists() and time.time() - ran.stat().st_mtime < 0.3:
                return int(ran.read_text())
    raise AssertionError("no trial was caught at its beginning")


def _driver_of(worker: int) -> int:
    """The parent of the guard of a worker."""
    for _ in range(2):
        worker = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    return worker


def _until(happens: Any, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.1)


def _finished(output: Path, space: SearchSpace, url: str) -> list[Trial]:
    try:
        return list(read_history(output, space, url).counted)
    except StudyError:  # nobody has begun yet
        return []


def test_a_database_that_goes_down_for_a_moment_is_waited_for(
    server: Server, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.url("down")
    _, space = open_run(config_file(tmp_path))
    with open_study(tmp_path, space, url) as one, open_study(tmp_path, space, url) as two:
        assert one.claim(3) == 0
        server.stop()
        threading.Timer(5.0, server.start).start()
        with caplog.at_level(logging.WARNING, logger="loracle.run.storage.storage"):
            assert two.take_over() == []  # the other one could not show life, but is alive
        assert two.claim(4) == 1
        assert one.finish(0, Outcome(0.5))
        assert two.finish(1, Outcome(0.25))
        expected = History((Trial(0, 3, Outcome(0.5)), Trial(1, 4, Outcome(0.25))))
        assert one.history() == two.history() == expected
    said = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert said
    assert all("secret" not in line and "\n" not in line for line in said)


def test_a_database_that_stays_away_ends_the_run_with_a_line(
    server: Server, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 1.0)
    _, space = open_run(config_file(tmp_path))
    with open_study(tmp_path, space, server.url("away")) as study:
        server.stop()
        try:
            with pytest.raises(StudyError, match=r"loracle:\*\*\*@.*: the storage cannot be used") as error:
                study.history()
        finally:
            server.start()
        assert "\n" not in str(error.value)
        assert study.history() == History()


# -- as one machine ---------------------------------------------------------------------------------


class Replay:
    """Ends trials in the order that is given, with the outcomes that they had."""

    def __init__(self, order: list[Trial], capacity: int) -> None:
        self.capacity = capacity
        self._order = list(order)
        self._running: dict[int, Job] = {}

    def submit(self, job: Job) -> None:
        self._running[job.number] = job

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        trial = self._order.pop(0)
        assert trial.outcome is not None
        return [Done(self._running.pop(trial.number), trial.outcome)]

    def close(self) -> None:
        pass


class Turns:
    """One of several machines; trials end when it is their turn, after all that comes before is recorded."""

    capacity = 1

    def __init__(self, order: list[int], settled: Any, value: Any) -> None:
        self._order, self._settled, self._value = order, settled, value
        self._job: Job | None = None

    def submit(self, job: Job) -> None:
        self._job = job

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        job = self._job
        assert job is not None
        _until(lambda: self._settled(self._order.index(job.number)))
        return [Done(job, Outcome(self._value(job.config)))]

    def close(self) -> None:
        pass


def test_two_machines_give_the_history_of_one(server: Server, tmp_path: Path, quick: None) -> None:
    url, order = server.url("same"), [1, 0, 3, 2, 5, 4, 6, 7, 9, 8]
    config, space = open_run(config_file(tmp_path))
    search = Search(space, get_preset("default"), None, config.search.seed)

    def value(knobs: dict[str, float]) -> float:
        return knobs["rank"] / 32 + 100 * knobs["learning_rate"]

    def settled(position: int) -> bool:
        """All that ended before is recorded, and what began then, too."""
        history = read_history(tmp_path, space, url)
        started = min(len(order), 2 + position)
        return len(history.finished) == position and len(history.trials) == started

    def machine(delay: bool) -> None:
        with open_study(tmp_path, space, url) as study:
            if delay:
                _until(lambda: len(study.history().trials) == 1)
            run_search(search, study, Turns(order, settled, value), tmp_path, len(order), _ignore)

    machines = [threading.Thread(target=machine, args=(delay,)) for delay in (False, True)]
    for one in machines:
        one.start()
    for one in machines:
        one.join(PATIENCE)
    history = read_history(tmp_path, space, url)
    assert len(history.succeeded) == len(history.trials) == len(order)
    ended = [history.trials[number] for number in order]
    with open_study(tmp_path, space) as study:  # the journal of one machine with two workers
        run_search(search, study, Replay(ended, 2), tmp_path, len(order), _ignore)
        assert study.history() == history


def _ignore(event: Event) -> None:
    pass


# -- without a server -------------------------------------------------------------------------------


def test_a_worker_needs_a_storage_that_can_be_shared(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="workers on many machines share a database; give --storage"):
        work(load_config(config_file(tmp_path)))


def test_processes_of_one_machine_share_a_run_folder(tmp_path: Path, quick: None) -> None:
    storage = "sqlite:///trials.db"  # seen from the config file
    path = config_file(tmp_path, search={"trials": 6}, execution={"workers": 0, "storage": storage})
    config = load_config(path)
    assert config.execution.storage == f"sqlite:///{tmp_path}/trials.db"
    ended: list[str] = []
    threads = [threading.Thread(target=lambda: ended.append(work(config)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == ["all 6 trials are done"] * 2
    assert len(read_history(config.output, open_run(path)[1], config.execution.storage).counted) == 6
    assert load_config(config.output / "config.yaml").execution.storage == config.execution.storage
    changed = config.model_copy(update={"search": config.search.model_copy(update={"seed": 1})})
    with pytest.raises(StudyError, match=r"search\.seed=0, now 1"):
        work(changed)
    elsewhere = changed.model_copy(update={"output": tmp_path / "other" / "run"})
    with pytest.raises(StudyError, match=r"'loracle:run' was begun with search\.seed=0, here it is 1"):
        work(elsewhere)
