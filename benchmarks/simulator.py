"""Searches on recorded trainings, in virtual time, through the very loop of `loracle tune`.

`VirtualWorkers` is an executor whose trainings are over at once, and whose clock then shows what their
outcomes say they took; `Replayed` is an objective that answers from a table. Everything else
is the package's own: the search as a run prepares it, `run_search`, the study in its journal, the rules that
end a search, `search.finalists`. So what is measured here is what `loracle tune` does, and a run that was
interrupted goes on from its journal. What choosing a config takes is no part of virtual time.

`cost.py` has the recorded tasks; this module knows none of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from loracle.config.settings import RunConfig
from loracle.errors import SpaceError
from loracle.execution.executor import Done, Job, run_jobs
from loracle.execution.executor import Progress as ExecutorProgress
from loracle.records.contents import Contents
from loracle.records.events import Listener
from loracle.records.objective import Asked, Objective, Part, Progress, Report
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import History, Outcome
from loracle.records.trial_files import items_file
from loracle.run.finals.finalists import choose_finalist
from loracle.run.folder import as_begun, hold
from loracle.run.prepare import prepare_on
from loracle.run.search import Search
from loracle.run.storage.opening import open_study
from loracle.run.tune import run_search


class VirtualWorkers:
    """An executor of `capacity` workers that nobody waits for.

    A job, or a group of them, that is handed over at `now` ends when the seconds of its outcomes have passed;
    those of a group one after the other, as what a shared forward pass saves is in no table. Of two that end
    at the same time the one that was handed over first comes first.

    Attributes:
        now: virtual seconds since the executor was made.
        busy: virtual seconds that all workers together have trained.
    """

    def __init__(self, objective: Objective, capacity: int = 1) -> None:
        self.capacity = capacity
        self.now = self.busy = 0.0
        self._objective = objective
        self._running: list[tuple[float, int, list[Done]]] = []  # by when they end
        self._begun = 0

    def load(self) -> Report:
        return self._objective.report()

    def submit(self, *jobs: Job) -> None:
        assert len(self._running) < self.capacity, "no worker is free"
        outcomes = run_jobs(jobs, self._objective, [_silent for _ in jobs])
        seconds = sum(outcome.seconds for outcome in outcomes)
        self.busy += seconds
        self._begun += 1
        heapq.heappush(self._running, (self.now + seconds, self._begun, list(map(Done, jobs, outcomes))))

    def wait(self, seconds: float, progress: ExecutorProgress) -> list[Done]:
        """What ends next, and the clock shows when that is; `seconds` are real ones, which nothing takes."""
        if not self._running:
            return []
        self.now, _, done = heapq.heappop(self._running)
        return done

    def close(self) -> None:
        self._running.clear()


def _silent(step: int, total: int, loss: float | None, part: Part = "training", /) -> None:
    """A replay is over at once: nobody has to be told how far it is."""


@dataclass(frozen=True)
class Replayed:
    """An objective that answers with recorded outcomes: values, tokens, curves and seconds.

    Attributes:
        space: that indices belong to.
        trials: what a trial of each config gave, by index, at the fidelity of the search.
        finals: the same of its training on all data, with `validation_value` among the metrics; none where
            trials are trainings on all data.
        told: what a run has to know of it; sizes and parameters decide how much the search trusts its trials.
    """

    space: SearchSpace
    trials: Mapping[int, Outcome]
    finals: Mapping[int, Outcome] = field(default_factory=dict)
    told: Report = field(default_factory=lambda: Report(has_final=False))

    @property
    def contents(self) -> Contents:
        return Contents(self.told.fingerprint, lambda: self.told.contents)

    def report(self) -> Report:
        return self.told

    def run(self, config: Config, *, seed: int, folder: Path, progress: Progress | None = None) -> Outcome:
        return self._found(self.trials, config)

    def final(
        self,
        config: Config,
        *,
        seed: int,
        folder: Path,
        adapter: Path | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """There is no adapter, and of items no results, of which a run expects a file."""
        folder.mkdir(parents=True, exist_ok=True)
        items_file(folder).touch()
        return self._found(self.finals, config)

    def run_together(self, asked: Sequence[Asked], together: Sequence[Config]) -> list[Outcome]:
        """As each was trained alone."""
        return [self._found(self.trials, one.config) for one in asked]

    def _found(self, table: Mapping[int, Outcome], config: Config) -> Outcome:
        index = self.space.index(config)
        if index not in table:
            raise SpaceError(f"nothing is recorded of index {index} ({dict(config)})")
        return table[index]


@dataclass(frozen=True)
class Simulated:
    """A search that has ended.

    Attributes:
        history: its trials.
        stopped: why it ended.
        ranked: indices of what succeeded, the config to use first.
        seconds: virtual, of the search; of one that was interrupted, since it went on.
        busy: virtual seconds of all workers together.
        with_finals: virtual seconds with the trainings of `search.finalists`.
    """

    history: History
    stopped: str
    ranked: list[int]
    seconds: float
    busy: float
    with_finals: float


def simulate(
    config: RunConfig,
    objective: Objective,
    *,
    workers: int = 1,
    adjusted: Callable[[Search], Search] = lambda search: search,
    listen: Listener = lambda event: None,
) -> Simulated:
    """Runs, or continues, the search that `config` describes, and chooses among its finalists.

    Args:
        config: of a run; its journal and the outcomes of its trials are kept in `config.output`.
        objective: what trainings give.
        workers: trials at a time.
        adjusted: changes the search as a run prepares it: a table's candidates, or a prior that has not seen
            the task.
        listen: told of everything that happens; what it raises ends the search as if it had been interrupted.
    """
    with hold(config.output):
        config = as_begun(config)
        executor = VirtualWorkers(objective, workers)
        run = prepare_on(config, executor, listen)
        search, together = adjusted(run.search), config.execution.trials_together
        assert together != "auto", "how many configs pay is measured where they train"
        limits = config.output, config.search.trials
        with closing(executor), open_study(config.output, search.space, identity=run.identity) as study:
            stopped = run_search(search, study, executor, *limits, listen, together=together)
            history, seconds, busy = study.history(), executor.now, executor.busy
            ranked = search.ranking(history) if history.succeeded else []
            if run.final is not None and ranked:
                told = {"what": run.final, "sizes": run.sizes}
                ranked, _ = choose_finalist(config, search.space, history, ranked, executor, listen, **told)
        return Simulated(history, stopped, ranked, seconds, busy, executor.now)
