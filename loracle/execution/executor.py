"""What runs trainings, as a run sees it: jobs go in, outcomes come out; and the simplest: this process.

Another executor is one class with these methods, and a line in `run/prepare.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from loracle.config.settings import ExecutionConfig
from loracle.errors import ConfigError, StudyError
from loracle.records import objective as records
from loracle.records.contents import Beginning
from loracle.records.failures import DISK_ERRORS
from loracle.records.objective import Asked, GroupObjective, Objective, Part, Report
from loracle.records.space import Config
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import write_outcome


class Progress(Protocol):
    """Takes the number of a trial, then what an objective's takes."""

    def __call__(
        self, number: int, step: int, total: int, loss: float | None, part: Part = "training", /
    ) -> None: ...


@dataclass(frozen=True)
class Job:
    """One training. `final`: on all data, scored on test; the adapter is then saved where `adapter` says.
    `together`: the configs that share its forward pass, its own among them; none where it trains alone.
    """

    number: int
    config: Config
    seed: int
    folder: Path
    final: bool = False
    adapter: Path | None = None
    together: tuple[Config, ...] = ()

    def run(self, objective: Objective, progress: records.Progress) -> Outcome:
        """Runs it here and now."""
        arguments: dict[str, Any] = {"seed": self.seed, "folder": self.folder, "progress": progress}
        if self.final:
            return objective.final(self.config, adapter=self.adapter, **arguments)
        return objective.run(self.config, **arguments)


def run_jobs(
    jobs: Sequence[Job],
    objective: Objective,
    progress: Sequence[records.Progress],
    began: Beginning | None = None,
) -> list[Outcome]:
    """Runs a job, or several that train together, here and now; an outcome for each.

    Raises:
        StudyError: the objective is not what the run `began` with, before them or after: then nothing is
            trained, or what was trained is no outcome.
    """
    objective.contents.require(began)
    outcomes = _run(jobs, objective, progress)
    try:
        objective.contents.require(began)
    except StudyError as error:
        what = "it changed during a trial; what trials write themselves belongs into {folder}"
        raise StudyError(f"{error}: {what}") from None
    return outcomes


def _run(jobs: Sequence[Job], objective: Objective, progress: Sequence[records.Progress]) -> list[Outcome]:
    together = jobs[0].together
    if not together:
        ((job, told),) = zip(jobs, progress, strict=True)
        return [job.run(objective, told)]
    assert isinstance(objective, GroupObjective), "this objective trains one config at a time"
    wanted = [Asked(job.config, job.seed, job.folder, told) for job, told in zip(jobs, progress, strict=True)]
    return objective.run_together(wanted, together)


@dataclass(frozen=True)
class Done:
    """A job has ended."""

    job: Job
    outcome: Outcome


class Executor(Protocol):
    """Runs jobs, or groups of them that train together, `capacity` at a time."""

    capacity: int

    def load(self) -> Report:
        """Has an objective loaded, which stays for the jobs to come, and says what a run has to know of it.

        Raises:
            LoracleError: the user's input is wrong, or nothing can be loaded.
        """
        ...

    def submit(self, *jobs: Job) -> None:
        """Starts a job, or several that train together and are alike but for their configs; there must be
        room for it."""
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


def next_done(executor: Executor, seconds: float, progress: Progress) -> list[Done]:
    """What `executor.wait` gives, with each outcome kept in its job's folder: `outcome.json`.

    A job whose folder does not take it, as it was locked or something lies in the way, has failed.

    Raises:
        OSError: the disk is full.
    """
    return [_kept(done) for done in executor.wait(seconds, progress)]


def _kept(done: Done) -> Done:
    job = done.job
    try:
        write_outcome(job.folder, job.config, done.outcome)
    except OSError as error:
        if error.errno in DISK_ERRORS or not job.folder.exists():  # not the trial's affair
            raise
        what = f"the trial could not be kept: {error.filename or job.folder}: {error.strerror or error}"
        outcome = Outcome(None, {}, done.outcome.seconds, Failure(FailureKind.CRASHED, what))
        return replace(done, outcome=outcome)
    return done


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
    """Runs jobs here, one or one group at a time: nothing is isolated. For tests, debuggers and tables.

    Args:
        load: makes the objective.
        run: what messages call the run.
    """

    capacity = 1

    def __init__(self, load: Callable[[], Objective], run: str = "the run") -> None:
        self._load = load
        self._run = run
        self._objective: Objective | None = None
        self._began: Beginning | None = None
        self._jobs: list[tuple[Job, ...]] = []

    def load(self) -> Report:
        self._objective = self._load()
        report = self._objective.report()
        self._began = report.beginning(self._run)
        return report

    def submit(self, *jobs: Job) -> None:
        self._jobs.append(jobs)

    def wait(self, seconds: float, progress: Progress) -> list[Done]:
        jobs = self._jobs.pop()
        if self._objective is None:
            self._objective = self._load()
        told = [functools.partial(progress, job.number) for job in jobs]
        outcomes = run_jobs(jobs, self._objective, told, self._began)
        return list(map(Done, jobs, outcomes))

    def close(self) -> None:
        self._jobs.clear()
