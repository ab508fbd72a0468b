"""Workers on this machine: warm, isolated processes.

A worker loads the base model once and trains one config after the other. One that dies, hangs or grows is
replaced, and a failed trial is all that the run notices. What follows from what is in `slot.py`.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loracle.config.execution.heap import lean_heap
from loracle.config.settings import ExecutionConfig, RunConfig
from loracle.errors import StudyError
from loracle.execution.devices import threads_each, visible_devices
from loracle.execution.executor import Done, Job, Progress
from loracle.execution.messages import Finished, GarbledError, Hello, Message, Ready, Refused, Stepped
from loracle.execution.retry_policy import FAILED_STARTS
from loracle.execution.slot import JobQueue, Limits, Slot, State
from loracle.execution.worker_handle import WorkerProcess, cause_of_death
from loracle.records.contents import Beginning
from loracle.records.failures import DISK_ERRORS
from loracle.records.objective import Report
from loracle.records.trial import Failure, FailureKind

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class _Place:
    """A slot, the environment of its workers, and the worker that is there."""

    slot: Slot
    environment: Mapping[str, str]
    worker: WorkerProcess | None = None


class LocalWorkers:
    """Isolated worker processes on this machine. Use as a context manager, or close it.

    Args:
        config: of the run; `execution` says how many workers, and when one is given up.
        program: what a worker runs.
        count_gpus: how many there are; None: as torch counts them.

    Attributes:
        began: what the run began with, against which each worker is held before a job and after it: what
            `load` reported, or as it is set here; None: nobody knows.

    Raises:
        ConfigError: more GPUs are asked for than there are, or a device that only one worker can have.
    """

    def __init__(
        self, config: RunConfig, program: Path, *, count_gpus: Callable[[], int] | None = None
    ) -> None:
        execution = config.execution
        self.capacity = max(1, execution.workers)
        self._program = program
        self._logs = config.output / "workers"
        threads = threads_each(config.threads, self.capacity * config.processes)
        self._config = config.model_copy(update={"threads": threads}).model_dump_json()
        environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        own = config.objective is not None
        if not own:  # a program of the user's own is left as it is
            environment |= lean_heap()
        gpus = execution.gpus_per_trial
        devices = visible_devices(
            config.device, self.capacity, gpus, own=own, processes=config.processes, count=count_gpus
        )
        self._places = [
            _Place(Slot(i, _limits(execution)), os.environ | environment | device)
            for i, device in enumerate(devices)
        ]
        self._selector = selectors.DefaultSelector()
        self._jobs = JobQueue()
        self.began: Beginning | None = None
        self._folder = str(config.output)
        self._report: Report | None = None
        self._wants_report = False

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self) -> Report:
        while (report := self.load_within(_SECONDS_BETWEEN_LOOKS)) is None:
            pass
        return report

    def load_within(self, seconds: float) -> Report | None:
        """As `load`, which has to be called before the first job; None where it takes longer than that."""
        self._wants_report = True
        self._go_on(seconds, lambda *_: None, lambda: self._report is not None)
        return self._report

    def submit(self, *jobs: Job) -> None:
        self._jobs.submit(*jobs)
        self._hand_out()

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        self._go_on(seconds, progress, lambda: self._jobs.any_ended)
        return self._jobs.take()

    def close(self) -> None:
        self._jobs = JobQueue()
        for place in self._places:
            self._end(place)
        self._selector.close()

    def _go_on(self, seconds: float, progress: Progress, enough: Callable[[], bool]) -> None:
        """Does what is to be done, until it is enough or the time is over."""
        end = time.monotonic() + seconds
        while not enough():
            self._hand_out()
            left = max(0.0, end - time.monotonic())
            for key, _ in self._selector.select(min(_SECONDS_BETWEEN_LOOKS, left)):
                self._read(key.data, progress)
            for place in self._places:
                self._watch(place)
            if left == 0:
                break
        self._hand_out()

    def _hand_out(self) -> None:
        """Gives jobs to idle workers, and starts as many more as will be needed."""
        waiting = self._jobs.waiting
        for place in self._places:
            if waiting and place.worker is not None and place.slot.due("give"):
                attempts = waiting.popleft()
                place.slot.give(attempts, time.monotonic())
                place.worker.give([attempt.job for attempt in attempts], self.began)
        wanted = len(waiting) + (self._wants_report and self._report is None)
        coming = sum(place.slot.coming for place in self._places)
        empty = [place for place in self._places if place.slot.due("start")]
        for place in empty[: max(0, wanted - coming)]:
            self._start(place)

    # -- what happens to a worker ---------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        report = self._wants_report and self._report is None
        try:
            place.worker = WorkerProcess(
                self._config, self._log(place), place.environment, self._program, report=report
            )
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            raise StudyError(f"a worker cannot be started: {error.strerror}") from None
        place.slot.start(time.monotonic())
        self._selector.register(place.worker, selectors.EVENT_READ, place)

    def _read(self, place: _Place, progress: Progress) -> None:
        """Takes in what a worker says; nothing means that it died."""
        worker = place.worker
        assert worker is not None
        try:
            messages = worker.receive()
        except GarbledError as error:
            what = f"something in the trial wrote into the connection of its worker: {error}"
            self._lost(place, Failure(FailureKind.CRASHED, what))
            return
        if messages is None:
            worker.wait()
            self._lost(place, None)
            return
        place.slot.sign(time.monotonic())
        for message in messages:
            if place.worker is worker:  # not one that a message before has ended
                self._heard(place, worker, message, progress)

    def _heard(self, place: _Place, worker: WorkerProcess, message: Message, progress: Progress) -> None:
        slot, now = place.slot, time.monotonic()
        match message:
            case Hello(pid) if slot.state is State.STARTING:
                worker.pid = pid
                slot.load(now)
            case Ready(report) if slot.state is State.LOADING:
                slot.ready(now)
                if report is not None:
                    self._report, self.began = report, report.beginning(self._folder)
                self._hand_out()
            case Stepped(step, total, loss, part, which) if 0 <= which < len(slot.attempts):
                progress(slot.attempts[which].job.number, step, total, loss, part)
            case Refused():
                raise message.as_error()
            case Finished(outcomes) if slot.due("done") and len(outcomes) != len(slot.attempts):
                what = f"its worker gave {len(outcomes)} outcomes for {len(slot.attempts)} trials"
                self._lost(place, Failure(FailureKind.CRASHED, what))
            case Finished(outcomes) if slot.due("done"):
                verdicts = slot.done(outcomes, now, message.bytes)
                if slot.spent:
                    self._end(place)
                self._jobs.settle(verdicts)

    def _watch(self, place: _Place) -> None:
        """Ends a worker that is over its time or gives no sign of life."""
        if (failure := place.slot.late(time.monotonic())) is not None:
            assert place.worker is not None
            place.worker.ask_where_it_stands()
            self._lost(place, failure)

    def _lost(self, place: _Place, failure: Failure | None) -> None:
        """A worker has ended by itself, which its exit code explains, or has to be given up."""
        worker, slot = place.worker, place.slot
        assert worker is not None
        self._selector.unregister(worker)
        place.worker = None
        now, code = time.monotonic(), worker.end()
        failure = failure or cause_of_death(code)
        failure = Failure(failure.kind, failure.message, worker.printed())
        self._jobs.settle(slot.lost(failure, now))
        if slot.hopeless:
            raise StudyError(
                f"{FAILED_STARTS} workers in a row ended before they were ready ({failure.message}); see "
                f"{self._log(place)}"
            )

    def _end(self, place: _Place) -> None:
        worker, place.worker = place.worker, None
        place.slot.end(time.monotonic())
        if worker is not None:
            self._selector.unregister(worker)
            worker.end()

    def _log(self, place: _Place) -> Path:
        return self._logs / f"{place.slot.position}.log"


def _limits(execution: ExecutionConfig) -> Limits:
    return Limits(
        execution.time_limit, execution.stall_limit, growth=execution.memory_growth_gb * 1_000_000_000
    )
