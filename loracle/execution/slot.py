"""What a place for a worker is doing: one state machine, for workers on this machine and on a cluster.

               start            load              ready             give
        EMPTY -------> STARTING -----> LOADING --------> IDLE <------------> BUSY
                          |              ^  ready          |       done
                          +--------------|---------------->|
                                         +-----------------+  load

From everywhere a worker may be lost, or ended: then its place is empty again. Nothing here starts a process
or reads a clock: who runs the workers says what has happened and when, in monotonic seconds, and is told what
follows. What is done about failures is in `retry_policy.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from loracle.execution.executor import Done, Job
from loracle.execution.retry_policy import ATTEMPTS, FAILED_STARTS, POLICY
from loracle.records.failures import DISK_ERRORS
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import write_attempt


class State(StrEnum):
    """What a place is doing."""

    EMPTY = "empty"  # there is no worker
    STARTING = "starting"  # one was asked for, and has said nothing yet
    LOADING = "loading"  # it loads its objective
    IDLE = "idle"  # it can take a job
    BUSY = "busy"


_COMING = (State.STARTING, State.LOADING)

# Where each event leads, and from where it may come.
_EVENTS: Mapping[str, tuple[tuple[State, ...], State]] = {
    "start": ((State.EMPTY,), State.STARTING),
    "load": ((State.STARTING, State.IDLE), State.LOADING),
    "ready": (_COMING, State.IDLE),
    "give": ((State.IDLE,), State.BUSY),
    "done": ((State.BUSY,), State.IDLE),
    "end": (tuple(State), State.EMPTY),
}


@dataclass(frozen=True)
class Limits:
    """When a worker is given up.

    Attributes:
        trial: seconds that a trial may take; None: any time. A final training has no limit.
        silence: seconds without a sign of life, while it loads or works.
        grace: seconds beyond that, for what lies between the worker and who watches it.
        start: whether a worker that starts has to show life, too; not where it waits for room.
        growth: bytes by which its memory may grow after its first trial.
    """

    trial: float | None
    silence: float
    grace: float = 0.0
    start: bool = True
    growth: float = float("inf")


@dataclass(frozen=True)
class Attempt:
    """A job that is tried for the first time, or once more."""

    job: Job
    number: int = 1


@dataclass(frozen=True)
class Again:
    """A job has to be tried once more: the attempt to come, and what the one before it gave."""

    attempt: Attempt
    outcome: Outcome


Verdict = Done | Again | None


class Slot:
    """A place for one worker.

    Args:
        position: of the place, from 0.
        limits: when its worker is given up.
        retries: whether a failure that the worker tells of is tried again here, and not where the worker is.

    Attributes:
        state: what it is doing.
        attempt: what its worker works at; None: nothing.
        spent: whether its worker, although it lives, has to be replaced.
    """

    def __init__(self, position: int, limits: Limits, *, retries: bool = True) -> None:
        self.position = position
        self.state = State.EMPTY
        self.attempt: Attempt | None = None
        self.spent = False
        self._limits = limits
        self._retries = retries
        self._since = 0.0  # when the state began
        self._sign = 0.0  # the last sign of life
        self._failed_starts = 0
        self._bytes_at_first: int | None = None  # after the worker's first trial

    @property
    def coming(self) -> bool:
        """Whether its worker is not ready yet."""
        return self.state in _COMING

    @property
    def hopeless(self) -> bool:
        """Whether so many workers in a row did not become ready that the cause is not chance."""
        return self._failed_starts >= FAILED_STARTS

    def due(self, event: str) -> bool:
        """Whether an event (`start`, `load`, `ready`, `give`, `done`, `end`) can come now."""
        return self.state in _EVENTS[event][0]

    def start(self, now: float) -> None:
        """A worker was asked for."""
        self._bytes_at_first = None
        self._move("start", now)

    def load(self, now: float) -> None:
        """It loads its objective."""
        self._move("load", now)

    def ready(self, now: float) -> None:
        """It can take jobs."""
        self._failed_starts = 0
        self._move("ready", now)

    def give(self, attempt: Attempt, now: float) -> None:
        """It was given a job."""
        self._move("give", now)
        self.attempt = attempt

    def sign(self, now: float) -> None:
        """It has shown life."""
        self._sign = now

    def done(self, outcome: Outcome, now: float, used: int = 0) -> Done | Again:
        """Its job is over; it keeps `used` bytes of memory. `spent` says whether it can go on."""
        attempt = self._taken()
        self._move("done", now)
        failure = outcome.failure
        if self._retries and failure is not None and POLICY[failure.kind] == "again":
            self.spent = True  # its state may be damaged, as after a CUDA error
            return _settled(attempt, outcome)
        if self._bytes_at_first is None:
            self._bytes_at_first = used
        self.spent = used - self._bytes_at_first > self._limits.growth  # something leaks
        return _over(attempt, outcome)

    def lost(self, failure: Failure, now: float) -> Verdict:
        """Its worker has ended, or was given up: a failed start, a failed attempt, or nothing to speak of."""
        self._failed_starts += self.coming
        busy, seconds = self.state is State.BUSY, now - self._since
        attempt = self._taken() if busy else None
        self.end(now)
        return None if attempt is None else _settled(attempt, Outcome(None, {}, seconds, failure))

    def end(self, now: float) -> None:
        """Its worker was ended, and what it worked at is nobody's affair."""
        self._move("end", now)
        self.attempt, self.spent = None, False

    def late(self, now: float) -> Failure | None:
        """Why its worker has to be given up; None: it is in time."""
        limits = self._limits
        if self.attempt is not None and not self.attempt.job.final:
            limit = limits.trial
            if limit is not None and now - self._since > limit:
                return Failure(FailureKind.TIMEOUT, f"took longer than execution.time_limit, {limit:g} s")
        watched = self.state in (State.LOADING, State.BUSY) or (self.state is State.STARTING and limits.start)
        allowed = limits.silence + limits.grace
        if watched and now - self._sign > allowed:
            grace = f" and {limits.grace:g} s" if limits.grace else ""
            message = f"no sign of life for {allowed:g} s (execution.stall_limit{grace})"
            return Failure(FailureKind.LOST, message)
        return None

    def _taken(self) -> Attempt:
        attempt, self.attempt = self.attempt, None
        assert attempt is not None
        return attempt

    def _move(self, event: str, now: float) -> None:
        allowed, after = _EVENTS[event]
        assert self.state in allowed, f"{event} in state {self.state}"
        self.state, self._since, self._sign = after, now, now


class JobQueue:
    """Attempts that wait for a worker, and jobs that are over."""

    def __init__(self) -> None:
        self.waiting: deque[Attempt] = deque()
        self._ended: list[Done] = []

    @property
    def any_ended(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._ended)

    def submit(self, job: Job) -> None:
        """A new job."""
        self.waiting.append(Attempt(job))

    def settle(self, verdict: Verdict) -> None:
        """Takes in what became of an attempt; one that failed is kept in the job's folder, if that takes it.

        Raises:
            OSError: the disk is full.
        """
        if isinstance(verdict, Again):
            self.waiting.appendleft(verdict.attempt)
            job, failed = verdict.attempt.job, verdict.attempt.number - 1
            try:
                write_attempt(job.folder, failed, job.config, verdict.outcome)
            except OSError as error:
                if error.errno in DISK_ERRORS:
                    raise
        elif verdict is not None:
            self._ended.append(verdict)

    def take(self) -> list[Done]:
        """The jobs that are over, each once."""
        ended, self._ended = self._ended, []
        return ended


def _settled(attempt: Attempt, outcome: Outcome) -> Done | Again:
    """What becomes of an attempt that failed."""
    assert outcome.failure is not None
    if POLICY[outcome.failure.kind] == "again" and attempt.number < ATTEMPTS:
        return Again(Attempt(attempt.job, attempt.number + 1), outcome)
    return _over(attempt, outcome)


def _over(attempt: Attempt, outcome: Outcome) -> Done:
    """`attempts`, where there was more than one: those of this job here, and those of its trainer."""
    if before := attempt.number - 1:
        attempts = outcome.metrics.get("attempts", 1.0) + before
        outcome = replace(outcome, metrics={**outcome.metrics, "attempts": attempts})
    return Done(attempt.job, outcome)
