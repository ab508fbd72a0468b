"""Workers on a Ray cluster: one actor a place, wherever the cluster has room for what a trial needs.

An actor (`ray_station.py`) watches over one isolated worker on its own node: crashes, hangs and leaks are
dealt with there. Here, what can happen between machines is dealt with: a trial whose node was lost is run
once more, elsewhere, and files are fetched from nodes that do not see the run folder. What follows from what
is in `slot.py`, as on one machine.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import loracle
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, StudyError
from loracle.execution.executor import Done, Job, Progress
from loracle.execution.messages import Finished, GarbledError, Message, Ready, Refused, Stepped, messages_of
from loracle.execution.ray_files import fetch, run_identity
from loracle.execution.ray_station import Station
from loracle.execution.retry_policy import FAILED_STARTS
from loracle.execution.slot import JobQueue, Limits, Slot, State
from loracle.records.codec import to_plain
from loracle.records.objective import Report
from loracle.records.trial import Failure, FailureKind

_SECONDS_A_LOOK = 1.0
_SECONDS_TO_END = 5.0  # of a station that is asked to; then it is killed
_PATIENCE = 60.0  # seconds beyond `stall_limit` for a station's answer


@dataclass
class _Place:
    """A slot, its station, and what that was last asked, until it answers."""

    slot: Slot
    station: Any = None
    answer: Any = None

    @property
    def stands(self) -> bool:
        """Whether the cluster had room for it."""
        return self.slot.state not in (State.EMPTY, State.STARTING)


class RayWorkers:
    """Runs jobs on a Ray cluster: the one that is running (`RAY_ADDRESS`), or one of this machine's own.

    Args:
        config: of the run; `execution` says how many workers, and what each needs.
        program: what a worker runs; a file of this package.
        ray: the library; None: as it is installed.

    Attributes:
        capacity: workers that the cluster has found room for; at least 1.

    Raises:
        ConfigError: Ray is not installed, or the cluster is too small for a single worker.
    """

    def __init__(self, config: RunConfig, program: Path, *, ray: Any = None) -> None:
        self.capacity = 1
        self._program = str(program.relative_to(Path(loracle.__file__).parent))
        self._ray = ray or _import_ray()
        self._stall_limit = config.execution.stall_limit
        wanted = max(1, config.execution.workers)
        cpus = (config.threads or 1) * config.processes
        self._started_here = _connect(self._ray, wanted * cpus)
        self._needs = resources(config, cpus, self._ray.cluster_resources())
        self._config = config.model_dump_json()
        self._run = run_identity(config.output)
        self._jobs = JobQueue()
        self._folder = str(config.output)
        self._report: Report | None = None
        self._wants_report = False
        limits = Limits(None, self._stall_limit, _PATIENCE, start=False)  # trials are timed on their nodes
        self._places = [_Place(Slot(position, limits, retries=False)) for position in range(wanted)]
        self._had_room = time.monotonic()
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

    def submit(self, *jobs: Job) -> None:
        (job,) = jobs  # one at a time
        self._jobs.submit(job)
        self._hand_out()

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        end = time.monotonic() + seconds
        while not self._jobs.any_ended:
            left = max(0.0, end - time.monotonic())
            self._look(left, progress)
            if left == 0:
                break
        return self._jobs.take()

    def close(self) -> None:
        self._jobs = JobQueue()
        ends = [place.station.end.remote() for place in self._places if place.stands]
        if ends:
            self._ray.wait(ends, num_returns=len(ends), timeout=_SECONDS_TO_END)
        for place in self._places:
            place.slot.end(time.monotonic())
            self._close(place)
        if self._started_here:
            self._ray.shutdown()
            self._started_here = False

    def _look(self, seconds: float, progress: Progress) -> None:
        """Waits that long for an answer, and does what it calls for."""
        self._hand_out()
        waiting = {place.answer: place for place in self._places if place.answer is not None}
        if not waiting:
            time.sleep(seconds)
            return
        answered, _ = self._ray.wait(list(waiting), num_returns=1, timeout=seconds)
        for answer in answered:
            self._hear(waiting[answer], progress)
        self._watch()
        self._hand_out()

    def _hand_out(self) -> None:
        """Gives jobs to idle stations; while there is no report, one of them loads first."""
        for place in self._places:
            if place.slot.due("give"):
                if self._report_is_missing():
                    self._load(place)
                elif self._jobs.waiting:
                    (attempt,) = self._jobs.waiting.popleft()
                    place.slot.give([attempt], time.monotonic())
                    began = None if self._report is None else self._report.beginning(self._folder)
                    given = (attempt.job, began)
                    place.answer = place.station.begin.remote(*(json.dumps(to_plain(x)) for x in given))

    def _report_is_missing(self) -> bool:
        """Whether one has to load that does not yet."""
        loading = any(place.slot.state is State.LOADING for place in self._places)
        return self._wants_report and self._report is None and not loading

    def _load(self, place: _Place) -> None:
        place.slot.load(time.monotonic())
        place.answer = place.station.load.remote()

    # -- stations -------------------------------------------------------------------------------

    def _open(self, place: _Place) -> None:
        """Asks the cluster for a station; it stands as soon as there is room."""
        options = {"max_restarts": 0, "scheduling_strategy": "SPREAD", **self._needs}
        station = self._ray.remote(Station).options(**options)
        place.slot.start(time.monotonic())
        place.station = station.remote(self._config, self._run, place.slot.position, self._program)
        place.answer = place.station.ready.remote()

    def _close(self, place: _Place) -> None:
        station, place.station, place.answer = place.station, None, None
        if station is not None:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):  # it has gone
                self._ray.kill(station)  # its worker ends with it

    def _hear(self, place: _Place, progress: Progress) -> None:
        """Takes in an answer of a station, and asks it again while it has something to do."""
        slot = place.slot
        try:
            messages = messages_of(self._ray.get(place.answer))
            place.answer = None
            slot.sign(time.monotonic())
            for message in messages:
                self._heard(place, message, progress)
        except self._ray.exceptions.RayTaskError as error:  # not a lost node
            raise StudyError(f"a worker on the Ray cluster failed: {_last_line(error)}") from error
        except GarbledError as error:
            raise StudyError(f"a worker on the Ray cluster answers in another language: {error}") from None
        except self._ray.exceptions.RayError as error:
            self._lost(place, _last_line(error))
            return
        if slot.state is State.STARTING:
            if self._report_is_missing():
                self._load(place)
            else:
                slot.ready(time.monotonic())
            self._count()
        elif slot.state is State.LOADING:
            place.answer = place.station.load.remote()
        elif slot.state is State.BUSY:
            place.answer = place.station.wait.remote()

    def _heard(self, place: _Place, message: Message, progress: Progress) -> None:
        slot = place.slot
        match message:
            case Ready(report) if slot.state is State.LOADING:
                self._report = report
                slot.ready(time.monotonic())
            case Stepped(step, total, loss, part) if slot.attempts:
                progress(slot.attempts[0].job.number, step, total, loss, part)
            case Refused():
                raise message.as_error()
            case Finished(outcomes) if slot.attempts:
                if message.files:
                    fetch(self._files(place.station), slot.attempts[0].job)
                self._jobs.settle(slot.done(outcomes, time.monotonic()))

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
        now = time.monotonic()
        for place in self._places:
            if (failure := place.slot.late(now)) is not None:
                self._lost(place, failure.message)
        wanted = self._jobs.waiting or (self._wants_report and self._report is None)
        if not wanted or any(place.stands for place in self._places):
            self._had_room = now
        elif now - self._had_room > self._stall_limit:
            raise StudyError(
                f"the Ray cluster had no room for a worker for {self._stall_limit:g} s "
                "(execution.stall_limit); the same command continues once a node with "
                f"{_show(self._needs)} is there"
            )

    def _lost(self, place: _Place, reason: str) -> None:
        """A node, or a station on it, has gone: its job is run once more, and the place opens elsewhere."""
        failure = Failure(FailureKind.LOST, f"its place on the cluster was lost: {reason}")
        self._jobs.settle(place.slot.lost(failure, time.monotonic()))
        if place.slot.hopeless:
            raise StudyError(
                f"{FAILED_STARTS} workers in a row could not start on the Ray cluster; does every node "
                f"have the same version of loracle? {reason}"
            )
        self._close(place)
        self._open(place)
        self._count()

    def _count(self) -> None:
        self.capacity = max(1, sum(place.stands for place in self._places))


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


def resources(config: RunConfig, cpus: int, cluster: Mapping[str, float]) -> dict[str, float]:
    """What one worker needs of the cluster. GPUs where there are any, as on one machine.

    Args:
        config: of the run.
        cpus: that it needs.
        cluster: all that the cluster has, by Ray's names.

    Raises:
        ConfigError: that is more than the whole cluster has.
    """
    gpus = config.execution.gpus_per_trial
    needs: dict[str, float] = {"num_cpus": cpus, "num_gpus": config.processes if gpus is None else gpus}
    several = config.objective is None and gpus is not None and gpus > 1
    if config.device in ("cpu", "mps") or (
        config.device == "auto" and not cluster.get("GPU") and not several
    ):
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
