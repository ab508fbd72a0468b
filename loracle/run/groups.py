"""Which trials begin at once: one, or several whose adapters are trained in one forward pass.

What shares a forward pass differs from a training alone by rounding, so a group is recorded with each of its
trials. When a run goes on whose process died in a group, what it left is trained again beside the same
configs, those included that were finished: so it gives what an undisturbed run would have given, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from loracle.execution.executor import Executor, Job
from loracle.records.events import Listener, PhaseStarted, TrialStarted
from loracle.records.trial import History, Trial
from loracle.report.folders import trial_folder
from loracle.run.search import Search
from loracle.run.storage.study import Study
from loracle.search.observations import crashing, untried


@dataclass(frozen=True)
class Group:
    """Configs by their indices.

    Attributes:
        begin: whose trials begin, in this order.
        together: all that share their forward pass; none where one trains alone.
    """

    begin: tuple[int, ...]
    together: tuple[int, ...] = ()


@dataclass(frozen=True)
class Running:
    """A trial: its index, and the number of the first trial of those that share its forward pass."""

    index: int
    group: int


@dataclass
class Starter:
    """Starts the trials of a run while there is room for more.

    Attributes:
        search: chooses configs.
        study: where trials are recorded.
        executor: trains them.
        folder: of the run.
        budget: trials at most.
        together: how many new ones share a forward pass.
        listen: told of each that begins.
        running: by number; who records an outcome takes its trial out.
    """

    search: Search
    study: Study
    executor: Executor
    folder: Path
    budget: int
    together: int
    listen: Listener
    running: dict[int, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._left = self.study.take_over()

    def fill(self) -> str | None:
        """Starts trials while there is room; returns why the search is over, if it is."""
        while len({trial.group for trial in self.running.values()}) < self.executor.capacity:
            if self.study.shared:  # another process may have died meanwhile
                self._left = self.study.take_over()
            history = self.study.history()
            if len(history.counted) >= self.budget and not self.running:
                return f"all {self.budget} trials are done"
            if self._given_out(history):
                return None
            if self._left:
                self._begin(self._left_group(history), history, chosen=False)
                continue
            group, over = self._choose(history)
            if group is None:
                return over
            self._begin(group, history, chosen=True)
        return None

    def _given_out(self, history: History) -> bool:
        """Whether no trial can begin before another has ended."""
        begun = len(history.counted) + len(history.pending)
        return begun >= self.budget or self.search.waits(history)

    def _choose(self, history: History) -> tuple[Group | None, str | None]:
        """New configs, each chosen as if the trials of those before had begun; or why the search is over,
        where it is."""
        chosen: list[int] = []
        while len(chosen) < self.together and not self._given_out(history):
            reason = self.search.ends(history, self.budget)
            index = None if reason else self.search.next(history)
            if index is None:
                if chosen or history.pending:
                    break
                if reason:
                    self.listen(PhaseStarted(reason))
                return None, reason or exhausted(self.search, history)
            chosen.append(index)
            history = _with(history, index)
        return (Group(tuple(chosen), tuple(chosen) if len(chosen) > 1 else ()) if chosen else None), None

    def _left_group(self, history: History) -> Group:
        """What a process that died has left of a group; with those of it that had not begun yet, unless
        other processes may have them."""
        first = self._left[0]
        together = next(trial.together for trial in reversed(history.trials) if trial.index == first)
        known = {trial.index for trial in history.trials}
        unknown = set() if self.study.shared else set(together) - known
        begin = [index for index in together if index in self._left or index in unknown] or [first]
        begin = begin[: self.budget - len(history.counted) - len(history.pending)]
        self._left = [index for index in self._left if index not in begin]
        return Group(tuple(begin), together)

    def _begin(self, group: Group, history: History, *, chosen: bool) -> None:
        """Starts trials; `chosen`: just now, and not what a process that died has left."""
        search, together = self.search, tuple(map(self.search.space.config, group.together))
        jobs: dict[int, Job] = {}
        for index in group.begin:
            number = self.study.claim(index, self.budget, group.together)
            if number is not None:
                where, config = trial_folder(self.folder, number), search.space.config(index)
                jobs[index] = Job(number, config, search.seed, where, together=together)
                self.running[number] = Running(index, next(iter(jobs.values())).number)
        if not jobs:
            return
        self.executor.submit(*jobs.values())
        shown, begun = (
            search.likely_trials(self.budget, history.counted),
            len(history.counted) + len(self.running) - len(jobs),
        )
        for place, (index, job) in enumerate(jobs.items()):
            believed = search.believed(history, index) if chosen else None
            self.listen(TrialStarted(begun + place, shown, job.config, job.number, believed))
            history = _with(history, index)


def _with(history: History, index: int) -> History:
    """A trial more, which has begun."""
    return History((*history.trials, Trial(len(history.trials), index)))


def exhausted(search: Search, history: History) -> str:
    """Why there is nothing left to try."""
    tried = len({trial.index for trial in history.counted})
    if tried >= len(search.space.candidates):
        return f"all {tried} candidates are tried"
    if (untried(search.space, history) & crashing(search.space, history)).any():
        return f"{tried} candidates are tried, and the others have what every trial crashed with"
    return f"{tried} candidates are tried, and no other fits into memory"
