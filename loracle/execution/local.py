"""Where trials run: warm, isolated processes on this machine, or this very process.

A worker loads the base model once and trains one config after the other. One that dies, hangs or grows is
replaced, and a failed trial is all that the run notices. What is done about each failure is `POLICY`.
"""

from __future__ import annotations

import functools
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from loracle import errors
from loracle.config.settings import ExecutionConfig, RunConfig
from loracle.errors import ConfigError, StudyError
from loracle.execution.worker_handle import GarbledError, WorkerProcess
from loracle.records.objective import Objective, Report
from loracle.records.outcome_files import DISK_ERRORS, write_attempt, write_outcome
from loracle.records.space import Config
from loracle.records.trial import Failure, FailureKind, Outcome

# What happens to a trial that failed in this way. `again`: it is run once more, in a new worker. `keep`: it
# is recorded at once; the objective itself has tried a smaller micro-batch where memory ran out, and whoever
# continues the run repeats what was interrupted.
POLICY: Mapping[FailureKind, Literal["again", "keep"]] = {
    FailureKind.OUT_OF_MEMORY: "keep",
    FailureKind.DIVERGED: "keep",
    FailureKind.TIMEOUT: "keep",
    FailureKind.CRASHED: "again",
    FailureKind.LOST: "again",
    FailureKind.INTERRUPTED: "keep",
}
ATTEMPTS = 2
FAILED_STARTS = 3  # workers in a row that end while they load: then the cause is not chance
_SECONDS_BETWEEN_LOOKS = 0.2
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA under Windows, AMD

# Signals from outside say nothing about the config, unlike those that a program earns itself.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Progress = Callable[[int, int, int, float | None], None]  # trial number, then as an objective's


@dataclass(frozen=True)
class Job:
    """One training. `final`: on all data, scored on test; the adapter is then saved where `adapter` says."""

    number: int
    config: Config
    seed: int
    folder: Path
    final: bool = False
    adapter: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """For a worker; `from_json` gives the same job."""
        folder, adapter = str(self.folder), str(self.adapter) if self.adapter else None
        return {**asdict(self), "folder": folder, "adapter": adapter}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Job:
        adapter = Path(content["adapter"]) if content["adapter"] else None
        return cls(**{**content, "folder": Path(content["folder"]), "adapter": adapter})

    def run(self, objective: Objective, progress: Callable[[int, int, float | None], None]) -> Outcome:
        """Runs it here and now."""
        arguments: dict[str, Any] = {"seed": self.seed, "folder": self.folder, "progress": progress}
        if self.final:
            return objective.final(self.config, adapter=self.adapter, **arguments)
        return objective.run(self.config, **arguments)


@dataclass(frozen=True)
class Done:
    """A job has ended."""

    job: Job
    outcome: Outcome


class Executor(Protocol):
    """Runs jobs, `capacity` at a time."""

    capacity: int

    def load(self) -> Report:
        """Has an objective loaded, which stays for the jobs to come, and says what a run has to know of it.

        Raises:
            LoracleError: the user's input is wrong, or nothing can be loaded.
        """
        ...

    def submit(self, job: Job) -> None:
        """Starts a job; there must be room for it."""
        ...

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        """Jobs that ended; an empty list after about `seconds`. Progress is told meanwhile.

        Raises:
            LoracleError: the user's input turned out to be wrong.
        """
        ...

    def close(self) -> None:
        """Ends everything that still runs."""
        ...


def check_in_process(execution: ExecutionConfig) -> None:
    """Refuses what only a worker can give: with `workers: 0` nothing ends a trial.

    Raises:
        ConfigError: a time limit, or Ray.
    """
    if execution.workers == 0:
        if execution.time_limit is not None:
            raise ConfigError(
                "execution: with workers: 0 trials run in this process, where nothing keeps a time_limit; "
                "take workers: 1 or more, or leave it out"
            )
        if execution.executor == "ray":
            raise ConfigError("execution: workers: 0 is this very process; Ray needs workers: 1 or more")


class InProcess:
    """Runs jobs here, one at a time: nothing is isolated. For tests, debuggers and tables."""

    capacity = 1

    def __init__(self, load: Callable[[], Objective]) -> None:
        self._load = load

        self._objective: Objective | None = None
        self._jobs: list[Job] = []

    def load(self) -> Report:
        self._objective = self._load()
        return self._objective.report()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        job = self._jobs.pop()
        if self._objective is None:
            self._objective = self._load()
        return [Done(job, job.run(self._objective, functools.partial(progress, job.number)))]

    def close(self) -> None:
        self._jobs.clear()


@dataclass
class _Slot:
    """A place for one worker, and what it is doing."""

    position: int
    environment: Mapping[str, str]
    worker: WorkerProcess | None = None
    job: Job | None = None
    attempt: int = 1
    failed_starts: int = 0
    bytes_at_first: int | None = None  # after the worker's first trial


class LocalWorkers:
    """Isolated worker processes on this machine. Use as a context manager, or close it.

    Args:
        config: of the run; `execution` says how many workers, and when one is given up.
        program: what a worker runs.

    Raises:
        ConfigError: more GPUs are asked for than there are, or a device that only one worker can have.
    """

    def __init__(self, config: RunConfig, program: Path) -> None:
        execution = config.execution
        self._program = program
        self._report: Report | None = None
        self._asked = False  # for the report
        self.capacity = max(1, execution.workers)
        self._execution = execution
        self._logs = config.output / "workers"
        threads = _threads(config.threads, self.capacity)
        self._config = config.model_copy(update={"threads": threads}).model_dump_json()
        environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        own = config.objective is not None
        devices = visible_devices(config.device, self.capacity, execution.gpus_per_trial, own=own)
        self._slots = [_Slot(i, os.environ | environment | device) for i, device in enumerate(devices)]
        self._selector = selectors.DefaultSelector()
        self._done: list[Done] = []

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        workers = [slot.worker for slot in self._slots if slot.worker is not None]
        return [worker.pid for worker in workers if worker.ready and worker.pid is not None]

    def load(self) -> Report:
        slot, self._asked = self._slots[0], True
        while self._report is None:
            if slot.worker is None:
                self._begin(slot)
            for key, _ in self._selector.select(_SECONDS_BETWEEN_LOOKS):
                self._read(key.data, lambda *_: None)
            self._watch(slot)
        return self._report

    def submit(self, job: Job) -> None:
        free = [slot for slot in self._slots if slot.job is None]
        slot = next((slot for slot in free if slot.worker is not None), free[0])  # a warm one
        slot.job, slot.attempt = job, 1
        self._begin(slot)

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        end = time.monotonic() + seconds
        while not self._done:
            left = max(0.0, end - time.monotonic())
            for key, _ in self._selector.select(min(_SECONDS_BETWEEN_LOOKS, left)):
                self._read(key.data, progress)
            for slot in self._slots:
                self._watch(slot)
            if left == 0:
                break
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        for slot in self._slots:
            slot.job = None
            self._end(slot)
        self._selector.close()

    # -- what happens to a worker ---------------------------------------------------------------

    def _begin(self, slot: _Slot) -> None:
        """Hands the slot's job to its worker; one that is still loading gets it when it is ready."""
        if slot.worker is None:
            try:
                report = self._asked and self._report is None
                slot.worker = WorkerProcess(
                    self._config, self._log(slot), slot.environment, self._program, report=report
                )
            except OSError as error:
                if error.errno in DISK_ERRORS:
                    raise
                raise StudyError(f"a worker cannot be started: {error.strerror}") from None
            slot.bytes_at_first = None
            self._selector.register(slot.worker, selectors.EVENT_READ, slot)
        elif slot.worker.ready and slot.job is not None:
            slot.worker.give(slot.job.as_json())

    def _read(self, slot: _Slot, progress: Progress) -> None:
        """Takes in what a worker says; nothing means that it died."""
        worker = slot.worker
        assert worker is not None
        try:
            messages = worker.receive()
        except GarbledError as error:
            what = f"something in the trial wrote into the connection of its worker: {error}"
            failure = Failure(FailureKind.CRASHED, what, worker.printed())
            self._end(slot)
            self._lost(slot, worker, failure)
            return
        if messages is None:
            self._selector.unregister(worker)
            slot.worker = None
            failure = replace(_cause_of_death(worker.exit_code()), traceback_tail=worker.printed())
            self._lost(slot, worker, failure)
            return
        for message in messages:
            if slot.worker is worker:  # not one that a message before has ended
                self._heard(slot, worker, message, progress)

    def _heard(
        self, slot: _Slot, worker: WorkerProcess, message: Mapping[str, Any], progress: Progress
    ) -> None:
        match message["kind"]:
            case "hello" if worker.pid is None:
                worker.pid = message["pid"]
            case "ready" if not worker.ready:
                worker.ready, slot.failed_starts = True, 0
                self._report = message["report"] or self._report
                self._begin(slot)
            case "progress" if slot.job is not None:
                progress(slot.job.number, message["step"], message["total"], message["loss"])
            case "refused":
                raise refusal(message)
            case "done" if slot.job is not None:
                outcome = message["outcome"]
                if outcome.failure is not None and POLICY[outcome.failure.kind] == "again":
                    self._end(slot)  # its state may be damaged, as after a CUDA error
                    self._failed(slot, outcome)
                else:
                    self._finish(slot, outcome)
                    self._renew_if_grown(slot, message["bytes"])

    def _watch(self, slot: _Slot) -> None:
        """Ends a worker that is over its time or gives no sign of life."""
        worker = slot.worker
        if worker is None:
            return
        worker.trim_log()
        if worker.ready and slot.job is None:
            return
        now, limit, stall = time.monotonic(), self._execution.time_limit, self._execution.stall_limit
        if worker.ready and slot.job and not slot.job.final and limit and now - worker.started > limit:
            failure = Failure(FailureKind.TIMEOUT, f"took longer than execution.time_limit, {limit:g} s")
        elif now - worker.sign > stall:
            failure = Failure(FailureKind.LOST, f"no sign of life for {stall:g} s (execution.stall_limit)")
        else:
            return
        failure = replace(failure, traceback_tail=worker.printed(where_it_stands=True))
        self._end(slot)
        self._lost(slot, worker, failure)

    def _lost(self, slot: _Slot, worker: WorkerProcess, failure: Failure) -> None:
        """A worker has ended, or was ended: a failed attempt, or a failed start."""
        if worker.ready:
            self._failed(slot, Outcome(None, {}, time.monotonic() - worker.started, failure))
            return
        slot.failed_starts += 1
        if slot.failed_starts >= FAILED_STARTS:
            raise StudyError(
                f"{FAILED_STARTS} workers in a row ended before they were ready ({failure.message}); see "
                f"{self._log(slot)}"
            )
        if slot.job is not None:
            self._begin(slot)

    def _renew_if_grown(self, slot: _Slot, used: int) -> None:
        """Replaces a worker whose memory grew since its first trial: something leaks."""
        if slot.bytes_at_first is None:
            slot.bytes_at_first = used
        elif used - slot.bytes_at_first > self._execution.memory_growth_gb * 1e9:
            self._end(slot)

    def _end(self, slot: _Slot) -> None:
        worker, slot.worker = slot.worker, None
        if worker is not None:
            self._selector.unregister(worker)
            worker.end()

    def _log(self, slot: _Slot) -> Path:
        return self._logs / f"{slot.position}.log"

    # -- what happens to its job ----------------------------------------------------------------

    def _failed(self, slot: _Slot, outcome: Outcome) -> None:
        """Runs the job again or records the failure, as the policy says."""
        job, failure = slot.job, outcome.failure
        if job is None or failure is None:  # it died between two jobs
            return
        if POLICY[failure.kind] == "again" and slot.attempt < ATTEMPTS:
            write_attempt(job.folder, slot.attempt, job.config, outcome)
            slot.attempt += 1
            self._begin(slot)
            return
        write_outcome(job.folder, job.config, outcome)
        self._finish(slot, outcome)

    def _finish(self, slot: _Slot, outcome: Outcome) -> None:
        assert slot.job is not None
        if slot.attempt > 1:
            outcome = replace(outcome, metrics={**outcome.metrics, "attempts": float(slot.attempt)})
        self._done.append(Done(slot.job, outcome))
        slot.job = None


def refusal(message: Mapping[str, Any]) -> errors.LoracleError:
    """The error that a worker's message `refused` stands for."""
    kind: type[errors.LoracleError] = getattr(errors, message["error"], errors.LoracleError)
    return kind(message["message"])


def _cause_of_death(code: int) -> Failure:
    """What an exit code says."""
    if code == -signal.SIGKILL:
        message = "the worker was killed (signal 9); usually the system had no memory left"
        return Failure(FailureKind.LOST, message)
    if code < 0:
        kind = FailureKind.LOST if -code in _FROM_OUTSIDE else FailureKind.CRASHED
        return Failure(kind, f"the worker died of {signal.Signals(-code).name}")
    return Failure(FailureKind.CRASHED, f"the worker ended with exit code {code}")


# -- sharing the machine out ------------------------------------------------------------------------


def _threads(wanted: int | None, workers: int) -> int | None:
    """CPU threads of each worker; None: as torch chooses. More threads than cores make all of them slow."""
    if wanted is not None or workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return wanted
    return max(1, _cores() // workers)


def _cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_devices(
    device: str, workers: int, gpus: int | None, *, own: bool = False
) -> list[dict[str, str]]:
    """Environment of each worker: its own slice of the GPUs that this process may see.

    Args:
        device: as in the config.
        workers: how many there are.
        gpus: for each. With 0, or where there is no GPU, nothing is shared out. None: 1; of an own trainer,
            which may be a `torchrun` over many, an equal share, so that a single worker sees all.
        own: whether the trainer is the user's own.

    Raises:
        ConfigError: there are fewer than `workers` x `gpus`, or `device` names a single one.
    """
    if device.startswith("cuda:"):
        if workers > 1:
            raise ConfigError(f"device: {workers} workers cannot share {device}; use cuda or auto")
        return [{}]
    if gpus == 0 or device in ("cpu", "mps") or (gpus is None and own and workers == 1):
        return [{}] * workers
    count = _count_gpus()  # what CUDA_VISIBLE_DEVICES leaves
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(count)] if given is None else [name.strip() for name in given.split(",")]
    visible = names[:count]
    if not visible:
        return [{}] * workers
    if gpus is None:
        gpus = max(1, len(visible) // workers) if own else 1
    if len(visible) < workers * gpus:
        raise ConfigError(
            f"execution: {workers} workers with {gpus} GPU(s) each need {workers * gpus}, but {len(visible)} "
            "can be seen; lower workers or gpus_per_trial (0: all workers share all GPUs)"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(visible[i * gpus : (i + 1) * gpus])} for i in range(workers)]


def _count_gpus() -> int:
    """GPUs as torch counts them, in a process of its own: the driver carries no torch."""
    if not any(Path(path).exists() for path in _GPU_DRIVERS):
        return 0
    count = "import torch; print(torch.cuda.device_count())"
    found = subprocess.run([sys.executable, "-P", "-c", count], capture_output=True, text=True, check=False)
    return int(found.stdout) if found.returncode == 0 else 0
