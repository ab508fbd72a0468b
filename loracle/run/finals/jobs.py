"""Trainings that are no trials of the search: told as they begin and end, some at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from loracle.execution.executor import Done, Executor, Job, next_done
from loracle.execution.retry_policy import POLICY
from loracle.records.events import Listener, PhaseEnded, PhaseStarted, tell_steps
from loracle.records.trial import Outcome

_SECONDS_BETWEEN_LOOKS = 1.0


def run_jobs(jobs: Sequence[tuple[str, Job]], executor: Executor, listen: Listener) -> Iterator[Done]:
    """Runs jobs, each told by its title, and gives them back as they end; their numbers are distinct."""
    waiting, running = deque(jobs), 0
    while waiting or running:
        while waiting and running < executor.capacity:
            title, job = waiting.popleft()
            running += 1
            listen(PhaseStarted(title, job.number))
            executor.submit(job)
        for done in next_done(executor, _SECONDS_BETWEEN_LOOKS, tell_steps(listen)):
            running -= 1
            listen(PhaseEnded(done.job.number))
            yield done


def comes_again(outcome: Outcome) -> bool:
    """Whether a training that failed is made again when the run goes on: its config was not to blame."""
    return outcome.failure is not None and POLICY[outcome.failure.kind] == "again"
