"""Workers on a Ray cluster: one actor a place, wherever the cluster has room for what a trial needs.

An actor (`Station`) watches over one isolated worker on its own node, as `LocalWorkers` does on one machine:
crashes, hangs and leaks are dealt with there. Here, what can happen between machines is dealt with: a trial
whose node was lost is run once more, elsewhere, and files are fetched from nodes that do not see the run
folder. Driver and stations exchange JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import loracle
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, LoracleError, StudyError
from loracle.execution.local import ATTEMPTS, FAILED_STARTS, Done, Job, LocalWorkers, Progress, refusal
from loracle.records.codec import from_plain, to_plain
from loracle.records.objective import Report
from loracle.records.outcome_files import write_attempt, write_outcome
from loracle.records.trial import Failure, FailureKind, Outcome

PIECE = 8_000_000  # bytes of a file that travel at a time
_ADAPTER = "adapter"
_SECONDS_A_LOOK = 1.0  # a station answers at least that often
_SECONDS_TO_END = 5.0  # of a station that is asked to; then it is killed
_PATIENCE = 60.0  # seconds beyond `stall_limit` for a station's answer


class Station:
    """What runs on a node: one worker, and who watches over it.

    Args:
        config: JSON of the run's config.
        run: how the driver sees its run folder; see `_identity`.
        position: of the place, from 0.
        program: what a worker runs, as a path in this package.
    """

    def __init__(self, config: str, run: str, position: int, program: str) -> None:
        settings = RunConfig.model_validate_json(config)
        self._sees_run = bool(run) and _identity(settings.output) == run
        self._scratch = None if self._sees_run else _scratch_folder()
        home = self._scratch or settings.output / "workers"
        # Ray has chosen the GPUs: they are all that can be seen here.
        execution = settings.execution.model_copy(update={"workers": 1, "gpus_per_trial": 0})
        changes = {"output": home / f"ray-{position}", "execution": execution}
        here = Path(loracle.__file__).parent / program
        self._workers = LocalWorkers(settings.model_copy(update=changes), here)

    def ready(self) -> str:
        """Answers as soon as the station stands."""
        return json.dumps([])

    def load(self) -> str:
        """Has the worker load its objective: `loaded` with its report, or `refused`."""
        try:
            return json.dumps([{"kind": "loaded", "report": to_plain(self._workers.load())}])
        except LoracleError as error:
            return json.dumps([{"kind": "refused", "error": type(error).__name__, "message": str(error)}])

    def begin(self, job: str) -> str:
        """Starts a job, and answers as `wait`."""
        wanted = Job.from_json(json.loads(job))
        if self._scratch is not None:
            trial = self._scratch / "trial" / wanted.folder.name  # a trainer may read its number there
            shutil.rmtree(trial.parent, ignore_errors=True)
            wanted = replace(wanted, folder=trial, adapter=wanted.adapter and trial.parent / _ADAPTER)
        self._workers.submit(wanted)
        return self.wait()

    def wait(self) -> str:
        """What happened, as a list: `progress`, at last `done` or `refused`; empty after a second."""
        told: dict[str, Any] | None = None

        def tell(number: int, step: int, total: int, loss: float | None) -> None:
            nonlocal told
            told = {"kind": "progress", "step": step, "total": total, "loss": loss}

        try:
            done = self._workers.wait(_SECONDS_A_LOOK, tell)
        except LoracleError as error:
            return json.dumps([{"kind": "refused", "error": type(error).__name__, "message": str(error)}])
        messages = [
            {"kind": "done", "outcome": to_plain(one.outcome), "files": not self._sees_run} for one in done
        ]
        return json.dumps([told, *messages] if told else messages)

    def end(self) -> None:
        """Ends the worker, and leaves nothing on the node."""
        self._workers.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def files(self) -> str:
        """Files of the job that ended last, as a list of paths below `trial/NAME` or `adapter`."""
        assert self._scratch is not None
        top = self._scratch / "trial"
        paths = [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
        return json.dumps([str(path.relative_to(top)) for path in paths])

    def piece(self, name: str, start: int) -> bytes:
        """A part of a file, so that none has to fit into memory; nothing at its end."""
        assert self._scratch is not None
        with (self._scratch / "trial" / name).open("rb") as file:
            file.seek(start)
            return file.read(PIECE)


@dataclass
class _Place:
    """A place for one station, and what it does. `answer` is what it was last asked, until it answers."""

    position: int
    station: Any = None
    answer: Any = None
    asked: float = 0.0  # monotonic seconds
    ready: bool = False
    job: Job | None = None
    began: float = 0.0


class RayWorkers:
    """Runs jobs on a Ray cluster: the one that is running (`RAY_ADDRESS`), or one of this machine's own.

    Args:
        config: of the run; `execution` says how many workers, and what each needs.
        program: what a worker runs; a file of this package.

    Attributes:
        capacity: workers that the cluster has found room for; at least 1.

    Raises:
        ConfigError: Ray is not installed, or the cluster is too small for a single worker.
    """

    def __init__(self, config: RunConfig, program: Path) -> None:
        self._program = str(program.relative_to(Path(loracle.__file__).parent))
        self._wants_report = False
        self._report: Report | None = None
        self._ray = _import_ray()
        self._execution = config.execution
        wanted = max(1, config.execution.workers)
        cpus = config.threads or 1
        self._started_here = _connect(self._ray, wanted * cpus)
        self._needs = _resources(config, cpus, self._ray.cluster_resources())
        self._config = config.model_dump_json()
        self._run = _identity(config.output)
        self._attempts: dict[int, int] = {}  # by job number
        self._queue: deque[Job] = deque()
        self._done: list[Done] = []
        self._places = [_Place(position) for position in range(wanted)]
        self.capacity = 1
        self._had_room = time.monotonic()
        self._failed_starts = 0
        for place in self._places:
            self._open(place)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def load(self) -> Report:
        self._wants_report = True
        while self._report is None:
            self._look(_SECONDS_A_LOOK, lambda *_: None)
        return self._report

    def submit(self, job: Job) -> None:
        self._attempts[job.number] = 1
        self._queue.append(job)
        self._hand_out()

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        end = time.monotonic() + seconds
        while not self._done:
            left = max(0.0, end - time.monotonic())
            self._look(left, progress)
            if left == 0:
                break
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        self._queue.clear()
        ends = [place.station.end.remote() for place in self._places if place.ready]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=_SECONDS_TO_END)
        for place in self._places:
            place.job = None
            self._close(place)
        if self._started_here:
            self._ray.shutdown()
            self._started_here = False

    def _look(self, seconds: float, progress: Progress) -> None:
        """Waits that long for an answer, and does what it calls for."""
        waiting = {place.answer: place for place in self._places if place.answer is not None}
        if not waiting:
            time.sleep(seconds)
            return
        answered, _ = self._ray.wait(list(waiting), num_returns=1, timeout=seconds)
        for answer in answered:
            self._hear(waiting[answer], progress)
        self._watch()
        self._hand_out()

    # -- stations -------------------------------------------------------------------------------

    def _open(self, place: _Place) -> None:
        """Asks the cluster for a station; it stands as soon as there is room."""
        options = {"max_restarts": 0, "scheduling_strategy": "SPREAD", **self._needs}
        station = self._ray.remote(Station).options(**options)
        place.station = station.remote(self._config, self._run, place.position, self._program)
        place.ready = False
        self._ask(place, place.station.ready.remote())
        self._count()

    def _close(self, place: _Place) -> None:
        station, place.station, place.answer, place.ready = place.station, None, None, False
        if station is not None:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):  # it has gone
                self._ray.kill(station)  # its worker ends with it

    def _ask(self, place: _Place, answer: Any) -> None:
        place.answer, place.asked = answer, time.monotonic()

    def _count(self) -> None:
        self.capacity = max(1, sum(place.ready for place in self._places))

    def _hand_out(self) -> None:
        idle = [place for place in self._places if place.ready and place.answer is None]
        if self._wants_report and self._report is None and len(idle) == sum(p.ready for p in self._places):
            for place in idle[:1]:
                self._ask(place, place.station.load.remote())
        for place in self._places:
            if self._queue and place.ready and place.job is None:
                place.job = self._queue.popleft()
                place.began = time.monotonic()
                self._ask(place, place.station.begin.remote(json.dumps(place.job.as_json())))

    def _hear(self, place: _Place, progress: Progress) -> None:
        """Takes in an answer of a station, and asks it again while it has a job."""
        try:
            messages = json.loads(self._ray.get(place.answer))
            place.answer = None
            if not place.ready:
                place.ready, self._failed_starts = True, 0
                self._count()
            for message in messages:
                self._heard(place, message, progress)
            if place.job is not None:
                self._ask(place, place.station.wait.remote())
        except self._ray.exceptions.RayTaskError as error:  # not a lost node
            raise StudyError(f"a worker on the Ray cluster failed: {_last_line(error)}") from error
        except self._ray.exceptions.RayError as error:
            self._failed_starts += not place.ready
            if self._failed_starts >= FAILED_STARTS:
                raise StudyError(
                    f"{FAILED_STARTS} workers in a row could not start on the Ray cluster; does every node "
                    f"have the same version of loracle? {_last_line(error)}"
                ) from error
            self._lost(place, _last_line(error))

    def _heard(self, place: _Place, message: Mapping[str, Any], progress: Progress) -> None:
        match message["kind"]:
            case "loaded":
                self._report = from_plain(Report, message["report"])
            case "progress" if place.job is not None:
                progress(place.job.number, message["step"], message["total"], message["loss"])
            case "refused":
                raise refusal(message)
            case "done" if place.job is not None:
                if message["files"]:
                    _fetch(self._files(place.station), place.job)
                self._finish(place.job, from_plain(Outcome, message["outcome"]))
                place.job = None

    def _files(self, station: Any) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Names of a station's files, each with its pieces."""
        for name in json.loads(self._ray.get(station.files.remote())):
            yield name, self._pieces(station, name)

    def _pieces(self, station: Any, name: str) -> Iterator[bytes]:
        start = 0
        while piece := self._ray.get(station.piece.remote(name, start)):
            yield piece
            start += len(piece)

    def _watch(self) -> None:
        """Gives up stations that do not answer, and a cluster without room."""
        now, limit = time.monotonic(), self._execution.stall_limit
        for place in self._places:
            if place.ready and place.answer is not None and now - place.asked > limit + _PATIENCE:
                self._lost(place, f"no answer for {now - place.asked:.0f} s")
        if not (self._queue or self._wants_report) or any(place.ready for place in self._places):
            self._had_room = now
        elif now - self._had_room > limit:
            raise StudyError(
                f"the Ray cluster had no room for a worker for {limit:g} s (execution.stall_limit); the same "
                f"command continues once a node with {_show(self._needs)} is there"
            )

    # -- jobs -----------------------------------------------------------------------------------

    def _lost(self, place: _Place, reason: str) -> None:
        """A node, or a station on it, has gone: its job is run once more, and the place opens elsewhere."""
        job, place.job = place.job, None
        seconds = time.monotonic() - place.began
        self._close(place)
        self._open(place)
        if job is None:
            return
        outcome = Outcome(
            None, {}, seconds, Failure(FailureKind.LOST, f"its place on the cluster was lost: {reason}")
        )
        attempt = self._attempts[job.number]
        if attempt < ATTEMPTS:
            write_attempt(job.folder, attempt, job.config, outcome)
            self._attempts[job.number] += 1
            self._queue.appendleft(job)
            return
        write_outcome(job.folder, job.config, outcome)
        self._finish(job, outcome)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        more = self._attempts.pop(job.number) - 1
        if more:
            attempts = outcome.metrics.get("attempts", 1.0) + more
            outcome = replace(outcome, metrics={**outcome.metrics, "attempts": attempts})
        self._done.append(Done(job, outcome))


# -- the cluster ------------------------------------------------------------------------------------


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError("execution.executor: ray is not installed: pip install 'loracle[ray]'") from None


def _connect(ray: Any, cpus: int) -> bool:
    """Connects to the running cluster; where there is none, starts one here, and says so."""
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise ConfigError(f"execution.executor: no Ray cluster answers at {address}") from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        ray.init(num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False, **quiet)
        return True
    return False


def _resources(config: RunConfig, cpus: int, cluster: Mapping[str, float]) -> dict[str, float]:
    """What one worker needs of the cluster. GPUs where there are any, as on one machine.

    Raises:
        ConfigError: that is more than the whole cluster has.
    """
    gpus = config.execution.gpus_per_trial
    needs: dict[str, float] = {"num_cpus": cpus, "num_gpus": 1 if gpus is None else gpus}
    if config.device in ("cpu", "mps") or (config.device == "auto" and not cluster.get("GPU")):
        needs["num_gpus"] = 0
    if cluster.get("CPU", 0) < cpus or cluster.get("GPU", 0) < needs["num_gpus"]:
        has = {"num_cpus": cluster.get("CPU", 0), "num_gpus": cluster.get("GPU", 0)}
        raise ConfigError(
            f"execution: a worker needs {_show(needs)}, but the whole Ray cluster has {_show(has)}; lower "
            "threads or gpus_per_trial"
        )
    return needs


def _show(resources: Mapping[str, float]) -> str:
    return f"{resources['num_cpus']:g} CPU(s) and {resources['num_gpus']:g} GPU(s)"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


# -- files ------------------------------------------------------------------------------------------


def _identity(output: Path) -> str:
    """Tells whether two machines see the same run folder: its lock is the same file. Empty: there is none.

    Where a file system makes that differ, files travel although they need not.
    """
    try:
        found = (output / ".lock").stat()
    except OSError:
        return ""
    return f"{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"


def _scratch_folder() -> Path:
    """A folder for this process. Those of processes that were killed before they could remove them go now."""
    prefix = f"loracle-{os.getuid()}-"
    for old in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, ValueError):
            if old.stat().st_uid == os.getuid() and not _runs(int(old.name.split("-")[2])):
                shutil.rmtree(old)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _fetch(files: Iterable[tuple[str, Iterable[bytes]]], job: Job) -> None:
    """Writes what a node sends, piece by piece: the trial's files, and the adapter, whole or not at all."""
    partial = None if job.adapter is None else job.adapter.with_name(f"{job.adapter.name}.partial")
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    for name, pieces in files:
        top, _, rest = name.partition("/")
        home = {job.folder.name: job.folder, _ADAPTER: partial}.get(top)
        if home is None or not rest or not (path := (home / rest).resolve()).is_relative_to(home.resolve()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        coming = path.with_name(f"{path.name}.coming")
        with coming.open("wb") as whole:
            whole.writelines(pieces)
        os.replace(coming, path)
    if partial is not None and job.adapter is not None and partial.exists():
        job.adapter.mkdir(exist_ok=True)  # with whatever else the user keeps there
        for file in partial.iterdir():
            os.replace(file, job.adapter / file.name)
        partial.rmdir()
