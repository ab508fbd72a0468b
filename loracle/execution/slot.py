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
from collections.abc import Mapping, Sequence
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
    IDLE = "idle"  # it can take a job, or several that train together
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
        trial: seconds that a trial may take, times their number where several train together; None: any
            time. A final training has no limit.
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


Verdict = Done | Again


class Slot:
    """A place for one worker.

    Args:
        position: of the place, from 0.
        limits: when its worker is given up.
        retries: whether a failure that the worker tells of is tried again here, and not where the worker is.

    Attributes:
        state: what it is doing.
        attempts: what its worker works at: one, several that train together, or none.
        spent: whether its worker, although it lives, has to be replaced.
    """

    def __init__(self, position: int, limits: Limits, *, retries: bool = True) -> None:
        self.position = position
        self.state = State.EMPTY
        self.attempts: tuple[Attempt, ...] = ()
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

    def give(self, attempts: Sequence[Attempt], now: float) -> None:
        """It was given a job, or several that train together."""
        self._move("give", now)
        self.attempts = tuple(attempts)

    def sign(self, now: float) -> None:
        """It has shown life."""
        self._sign = now

    def done(self, outcomes: Sequence[Outcome], now: float, used: int = 0) -> list[Verdict]:
        """Its jobs are over, with an outcome each; it keeps `used` bytes of memory. `spent` says whether it
        can go on."""
        attempts = self._taken()
        self._move("done", now)
        pairs = list(zip(attempts, outcomes, strict=True))
        if self._retries and any(_comes_again(outcome.failure) for outcome in outcomes):
            self.spent = True  # its state may be damaged, as after a CUDA error
            return [_settled(attempt, outcome) for attempt, outcome in pairs]
        if self._bytes_at_first is None:
            self._bytes_at_first = used
        self.spent = used - self._bytes_at_first > self._limits.growth  # something leaks
        return [_over(attempt, outcome) for attempt, outcome in pairs]

    def lost(self, failure: Failure, now: float) -> list[Verdict]:
        """Its worker has ended, or was given up: a failed start, failed attempts, or nothing to speak of."""
        self._failed_starts += self.coming
        busy, seconds = self.state is State.BUSY, now - self._since
        attempts = self._taken() if busy else ()
        self.end(now)
        outcome = Outcome(None, {}, seconds / max(1, len(attempts)), failure)
        if len(attempts) > 1:  # any of them may be to blame
            return [Again(_next(attempt), outcome) for attempt in attempts]
        return [_settled(attempt, outcome) for attempt in attempts]

    def end(self, now: float) -> None:
        """Its worker was ended, and what it worked at is nobody's affair."""
        self._move("end", now)
        self.attempts, self.spent = (), False

    def late(self, now: float) -> Failure | None:
        """Why its worker has to be given up; None: it is in time."""
        limits = self._limits
        if self.attempts and not self.attempts[0].job.final and limits.trial is not None:
            many = len(self.attempts)
            if now - self._since > limits.trial * many:
                each = f" for each of the {many} that train together" if many > 1 else ""
                message = f"took longer than execution.time_limit, {limits.trial:g} s{each}"
                return Failure(FailureKind.TIMEOUT, message)
        watched = self.state in (State.LOADING, State.BUSY) or (self.state is State.STARTING and limits.start)
        allowed = limits.silence + limits.grace
        if watched and now - self._sign > allowed:
            grace = f" and {limits.grace:g} s" if limits.grace else ""
            message = f"no sign of life for {allowed:g} s (execution.stall_limit{grace})"
            return Failure(FailureKind.LOST, message)
        return None

    def _taken(self) -> tuple[Attempt, ...]:
        attempts, self.attempts = self.attempts, ()
        return attempts

    def _move(self, event: str, now: float) -> None:
        allowed, after = _EVENTS[event]
        assert self.state in allowed, f"{event} in state {self.state}"
        self.state, self._since, self._sign = after, now, now


class JobQueue:
    """Attempts that wait for a worker, each group of them for the same one, and jobs that are over."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Attempt, ...]] = deque()
        self._ended: list[Done] = []

    @property
    def any_ended(self) -> bool:
        """Whether there is something to `take`."""
        return bool(self._ended)

    def submit(self, *jobs: Job) -> None:
        """A new job, or several that train together."""
        self.waiting.append(tuple(map(Attempt, jobs)))

    def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Takes in what became of attempts; one that failed is kept in the job's folder, if that takes it.

        What is tried once more is tried alone, so that it can be blamed alone.

        Raises:
            OSError: the disk is full.
        """
        self.waiting.extendleft((one.attempt,) for one in reversed(verdicts) if isinstance(one, Again))
        for one in verdicts:
            if isinstance(one, Again):
                _keep(one)
            else:
                self._ended.append(one)

    def take(self) -> list[Done]:
        """The jobs that are over, each once."""
        ended, self._ended = self._ended, []
        return ended


def _keep(failed: Again) -> None:
    job = failed.attempt.job
    try:
        write_attempt(job.folder, failed.attempt.number - 1, job.config, failed.outcome)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise


def _settled(attempt: Attempt, outcome: Outcome) -> Verdict:
    """What becomes of an attempt that may have failed."""
    if _comes_again(outcome.failure) and attempt.number < ATTEMPTS:
        return Again(_next(attempt), outcome)
    return _over(attempt, outcome)


def _comes_again(failure: Failure | None) -> bool:
    return failure is not None and POLICY[failure.kind] == "again"


def _next(attempt: Attempt) -> Attempt:
    return Attempt(replace(attempt.job, together=()), attempt.number + 1)


def _over(attempt: Attempt, outcome: Outcome) -> Done:
    """`attempts`, where there was more than one: those of this job here, and those of its trainer."""
    if before := attempt.number - 1:
        attempts = outcome.metrics.get("attempts", 1.0) + before
        outcome = replace(outcome, metrics={**outcome.metrics, "attempts": attempts})
    return Done(attempt.job, outcome)
