"""Jobs that end, whoever ran them: what is kept of each in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loracle.execution.executor import InProcess, Job, next_done
from loracle.records.objective import Progress, TableObjective
from loracle.records.space import Config, default_space
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import read_outcome

SPACE = default_space()
FAILED = Failure(FailureKind.DIVERGED, "diverged: the loss is nan")


class Untidy(TableObjective):
    """Leaves something in its folder."""

    def __init__(self, leave: Callable[[Path], object]) -> None:
        super().__init__(SPACE, {0: 1.0})
        self._leave = leave

    def run(self, config: Config, *, seed: int, folder: Path, progress: Progress | None = None) -> Outcome:
        self._leave(folder)
        return super().run(config, seed=seed, folder=folder)


def run(objective: TableObjective, job: Job) -> Outcome:
    executor = InProcess(lambda: objective)
    executor.load()
    executor.submit(job)
    (done,) = next_done(executor, 1.0, lambda *_: None)
    return done.outcome


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize(("index", "expected"), [(0, Outcome(0.25)), (1, Outcome(None, failure=FAILED))])
def test_every_job_that_ends_leaves_its_outcome(
    tmp_path: Path, index: int, expected: Outcome, final: bool
) -> None:
    objective = TableObjective(SPACE, {0: 0.25, 1: FAILED})
    job = Job(0, SPACE.config(index), 0, tmp_path / "0000", final)
    assert run(objective, job) == expected
    assert read_outcome(job.folder, job.config) == expected
    assert [path.name for path in job.folder.iterdir()] == ["outcome.json"]


def test_what_lies_in_the_way_of_an_outcome_costs_its_trial(tmp_path: Path) -> None:
    job = Job(0, SPACE.config(0), 0, tmp_path / "0000")
    outcome = run(Untidy(lambda folder: (folder / "outcome.json").mkdir(parents=True)), job)
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.CRASHED
    assert outcome.failure.message.startswith("the trial could not be kept: ")


def test_a_run_folder_that_takes_nothing_is_no_fault_of_a_trial(tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        run(Untidy(lambda folder: None), Job(0, SPACE.config(0), 0, tmp_path / "trials" / "0000"))
