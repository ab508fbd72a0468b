"""The main job: ask, train, tell, until the budget is spent; then train the winner and compare.

Everything is in the run folder, and every step is recorded before the next begins, so the same command
continues a run that was interrupted at any moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.execution.executor import Executor, next_done
from loracle.records.codec import json_text
from loracle.records.events import (
    FinalFinished,
    Listener,
    Noticed,
    PhaseStarted,
    RunEnded,
    TrialFinished,
    tell_steps,
)
from loracle.records.notices import FILE as NOTICES
from loracle.records.notices import Notice, gathered
from loracle.records.notices import as_json as notices_as_json
from loracle.records.space import SearchSpace, with_alpha
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.best_folder import write_best
from loracle.report.findings.curves import curve_notices
from loracle.report.findings.finding import Subject
from loracle.report.findings.search_cost import search_cost
from loracle.report.folders import missing_files
from loracle.report.markdown import write_report
from loracle.report.objectives import pareto_notice
from loracle.report.page.live import LivePage
from loracle.report.page.page import FILE
from loracle.report.time_left import Forecast, forecast
from loracle.report.verdict import Comparison, guarded_search, headline, not_measured, result_notices
from loracle.report.verdict.stored import Finished, write_finished
from loracle.report.wording import nothing_succeeded, search_ends, show_config
from loracle.run.finals.finalists import choose_finalist
from loracle.run.finals.replication import replicate
from loracle.run.finals.training import compare, compare_trial, contenders
from loracle.run.folder import as_begun, hold, own_folder, record_config, require_recorded
from loracle.run.groups import Starter
from loracle.run.prepare import Prepared, prepare
from loracle.run.search import Search
from loracle.run.search_notices import TOO_LARGE, about_memory, alone_notices, crash_notices
from loracle.run.storage.event_file import recorded
from loracle.run.storage.opening import open_study
from loracle.run.storage.study import Study
from loracle.search.observations import blame, crashed_in_a_row
from loracle.text.files import write_atomically
from loracle.training.memory.plan import describe

_BROKEN_IN_A_ROW = 5  # crashed or lost: then the cause is hardly the configs
_NO_CONFIGS_FAULT = (FailureKind.CRASHED, FailureKind.LOST)
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    space: SearchSpace
    history: History
    comparison: Comparison
    stopped: str  # why the search ended
    notices: tuple[Notice, ...] = ()  # what the user must see
    page: Path | None = None  # None: it could not be written
    best: Path | None = None  # what to use: the folder of an adapter, or a file of settings

    @property
    def finished(self) -> Finished:
        """What the run folder keeps of how it ended."""
        return Finished(self.comparison, self.stopped, len(self.history.counted))


def tune(config: RunConfig, listen: Listener = lambda event: None) -> Result:
    """Runs, or continues, the whole job that `config` describes.

    Args:
        config: with absolute paths, as `load_config` gives it.
        listen: told of everything that happens; it must not raise.

    Raises:
        LoracleError: bad input, refused before anything is trained; or a run that cannot go on.
        KeyboardInterrupt: as it came; the trial is recorded as interrupted, and the run can be continued.
    """
    with _held(config, listen) as (config, listen):
        run = prepare(config, listen)
        space = run.search.space
        with closing(run.executor), _open(config, run) as study:
            run = _as_recorded(run, study)
            record_config(config)
            _tell(run.notices, config.output, listen)
            subject = Subject(config, space, run.search.preset)
            page = LivePage(subject, study.history, run.notices, listen)
            stopped = _search(config, run, study, page, _estimates(config, run))
            _take_back(study)
            history = study.history()
            comparison = _compare(config, run, history, listen)
            comparison = replace(comparison, guarded=guarded_search(space, history, comparison.winner))
        memory = run.search.memory
        said = describe(memory, space, with_alpha(config.standard or {}), history) if memory else []
        front = pareto_notice(history, config.objectives, space.index(comparison.winner))
        found = result_notices(comparison, space, history, config.metric)
        late = () if config.objective else not_measured(config.scoring.all_metrics, comparison)
        items = config.objective is None and config.execution.executor == "local"
        gone = () if study.shared else missing_files(config.output, history, items=items)
        notices = gathered(
            run.notices, found, late, front, _news(space, history, config.output).values(), gone
        )
        _keep(notices, config.output)
        best = write_best(config, comparison, run.sizes)
        write_report(
            *(config, space, history, comparison, stopped),
            memory=said,
            notices=notices,
            sizes=run.sizes,
            held=subject.held(history, comparison),
        )
        page_file = config.output / FILE
        result = Result(config.output, space, history, comparison, stopped, notices, page_file, best)
        if write_finished(config.output, result.finished):
            for name, (chosen, outcome) in comparison.sides.items():
                listen(FinalFinished(name, chosen, outcome))
        if not page.finish(history, result.finished, notices):
            result = replace(result, page=None)
        listen(RunEnded(headline(comparison, config.metric, history)))
        return result


def work(config: RunConfig, listen: Listener = lambda event: None) -> tuple[str, History]:
    """The search half of `tune`, as one of many processes on a shared storage: no final training, no report.

    Many such processes may share a run folder, on one machine or on a file system that all machines see.

    Returns:
        Why it stopped, and all trials.

    Raises:
        LoracleError: as `tune`; or the storage cannot be shared.
    """
    if config.execution.storage is None:
        raise StudyError("workers on many machines share a database; give --storage postgresql://...")
    with own_folder(config.output) as own, recorded(own, listen) as listen:
        config = as_begun(config)
        require_recorded(config)
        run = prepare(config.model_copy(update={"output": own}), listen)
        run = replace(run, identity=replace(run.identity, machine=own.name))
        with closing(run.executor), _open(config, run) as study:
            run = _as_recorded(run, study)
            record_config(config, own)
            _tell(run.notices, own, listen)
            os.replace(own / NOTICES, config.output / NOTICES)
            stopped = _search(config, run, study, listen)
            listen(RunEnded(stopped))
            return stopped, study.history()


@contextmanager
def _held(config: RunConfig, listen: Listener) -> Iterator[tuple[RunConfig, Listener]]:
    """Holds the run's folder, and gives the config as the run began. Those who follow are told, too, what
    happens; what is refused first leaves the events of a run alone."""
    with hold(config.output):
        config = as_begun(config)
        require_recorded(config)
        with recorded(config.output, listen) as told:
            yield config, told


def _tell(notices: Sequence[Notice], folder: Path, listen: Listener) -> None:
    """Tells and keeps what the user must see, before anything is trained."""
    for notice in notices:
        listen(Noticed(notice))
    _keep(notices, folder)


def _keep(notices: Sequence[Notice], folder: Path) -> None:
    write_atomically(folder / NOTICES, json_text(notices_as_json(notices)))


def _open(config: RunConfig, run: Prepared) -> Study:
    return open_study(config.output, run.search.space, config.execution.storage, identity=run.identity)


def _as_recorded(run: Prepared, study: Study) -> Prepared:
    """The run with what was recorded when it began, and what has to be said about that."""
    search = run.search.within(study.room)
    others = [notice for notice in run.notices if notice.name != TOO_LARGE]
    notices = gathered(others, about_memory(search.space, search.memory))  # not of what is free just now
    if study.recorded_late:
        notice = Notice(
            "search",
            "contents_recorded_late",
            "this run began before the contents of data, model and prompts were recorded; what is here now "
            "is taken for what was there, and compared from now on",
        )
        notices = gathered(notices, [notice])
    return replace(run, search=search, notices=notices)


def _search(
    config: RunConfig, run: Prepared, study: Study, listen: Listener, estimates: Forecast | None = None
) -> str:
    """The whole search; returns why it stopped."""
    trials, wanted = config.search.trials, config.execution.trials_together
    together = study.together or 1 if wanted == "auto" else run.identity.together or wanted
    search, before = run.search, study.history().counted
    if estimates is not None:
        search = replace(search, ends_when=search_ends(config, estimates.each_after(before)))
    return run_search(search, study, run.executor, config.output, trials, listen, estimates, together)


def _estimates(config: RunConfig, run: Prepared) -> Forecast:
    has_final = run.final is not None
    first = run.search.first
    return forecast(
        config, run.search.space, has_final=has_final, sizes=run.sizes, pace=run.pace, first=first
    )


def _begins(ends_when: str, done: int, budget: int) -> str:
    """That the search begins or goes on, and what will end it."""
    more = f"; {done} are done, so none is added" if done > budget else ""
    return f"searching: {ends_when}{more}" if ends_when else f"searching{more}"


def run_search(
    search: Search,
    study: Study,
    executor: Executor,
    folder: Path,
    budget: int,
    listen: Listener,
    estimates: Forecast | None = None,
    together: int = 1,
) -> str:
    """Keeps the executor busy until `budget` trials have finished; returns why it stopped.

    Whenever there is room, a new config is chosen with all that still run accounted for, or as many as are
    trained `together`. Outcomes are recorded in the order in which they come, and the choice depends on the
    recorded history alone. `estimates` tell how long it takes, with the trainings that follow.
    """
    before = study.history().counted
    listen(PhaseStarted(_begins(search.ends_when, len(before), budget)))
    recent: list[Trial] = []  # that ended here, in the order in which they did
    estimates = estimates or Forecast()
    search = search.priced(estimates.each)
    trials = Starter(search, study, executor, folder, budget, together, listen)
    running = trials.running
    told: dict[str, Notice] = {}  # as they were told once
    most = search.most_trials(budget)  # the budget that can be spent
    if len(before) < most and not study.shared:  # what others do is not known
        listen(estimates.expected(before, most, executor.capacity))

    progress = tell_steps(listen)
    try:
        while True:
            if stopped := trials.fill():
                _tell_last(_news(search.space, study.history(), folder), told, listen)
                return stopped
            if not running:  # other processes train the rest; one of them may die
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            for done in next_done(executor, _SECONDS_BETWEEN_LOOKS, progress):
                number, index = done.job.number, running[done.job.number].index
                counts = study.finish(number, done.outcome)
                del running[number]  # not before: what is interrupted here has not been recorded
                recent.append(trial := Trial(number, index, done.outcome))
                if counts:
                    history = study.history()
                    ended = history.counted
                    left = estimates.expected(ended, most, executor.capacity).whole
                    best, use = search.best(history), search.leader(history)
                    cost = search_cost(one.outcome for one in history.finished if one.outcome)
                    spent = None if cost is None else cost.trainings
                    shown = search.likely_trials(budget, ended)
                    finished = (trial, done.job.config, best, len(ended), shown, left, spent, use)
                    listen(TrialFinished(*finished))
                    _tell_news(_news(search.space, history, folder), told, listen)
                _refuse_hopeless(search.space, recent, study)
    except BaseException as error:
        if not isinstance(error, StudyError | OSError):  # then nothing more can be written
            reason = "stopped by the user" if isinstance(error, KeyboardInterrupt) else "the run ended"
            for number in running:
                study.finish(number, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, reason)))
        raise


# -- helpers ----------------------------------------------------------------------------------------


def _news(space: SearchSpace, history: History, folder: Path) -> dict[str, Notice]:
    """What trials have shown that a user must see; counts may grow, the names stay."""
    told = [*curve_notices(history), *alone_notices(history, folder)]
    return {notice.name: notice for notice in told} | crash_notices(space, history)


def _tell_news(found: Mapping[str, Notice], told: dict[str, Notice], listen: Listener) -> None:
    """Tells what was not told before."""
    for name, notice in found.items():
        if name not in told:
            listen(Noticed(notice))
            told[name] = notice


def _tell_last(found: Mapping[str, Notice], told: dict[str, Notice], listen: Listener) -> None:
    """Tells once more, when all trials are done, whose counts have grown since they were told."""
    for name, notice in told.items():
        if name in found and found[name].text != notice.text:
            listen(Noticed(found[name]))


def _refuse_hopeless(space: SearchSpace, ended: Sequence[Trial], study: Study) -> None:
    """Raises StudyError when trials fail one after the other for a reason that no config will mend.

    These trials are taken back: once the reason is gone, their configs are run again.
    """

    def shown(index: int, knobs: Collection[str]) -> str:
        config = space.config(index)
        return show_config({name: config[name] for name in knobs})

    row = crashed_in_a_row(ended)
    why = blame(space, study.history(), row, _BROKEN_IN_A_ROW, shown) if row else None
    if why:
        study.void(trial.number for trial in row)
        outcome = row[-1].outcome
        raise StudyError(
            f"the last {len(row)} trials crashed or were lost, {why}: "
            f"{outcome and outcome.failure and outcome.failure.message}; see their folders under trials/. "
            "They do not count, and the same command runs them again"
        )


def _take_back(study: Study) -> None:
    """Where every trial crashed or was lost, none counts: whoever mends the cause runs them again."""
    counted = study.history().counted
    failures = [trial.outcome.failure for trial in counted if trial.outcome]
    if all(failure is not None and failure.kind in _NO_CONFIGS_FAULT for failure in failures):
        study.void(trial.number for trial in counted)


def _compare(config: RunConfig, run: Prepared, history: History, listen: Listener) -> Comparison:
    if nothing := nothing_succeeded(history):
        raise StudyError(f"{nothing[:1].lower()}{nothing[1:]}")
    space, ranked = run.search.space, run.search.ranking(history)
    if run.final is not None:
        ranked, again = replicate(config, space, history, ranked, run.executor, listen, run.sizes)
        what, sizes, executor = run.final, run.sizes, run.executor
        ranked, ends = choose_finalist(
            config, space, history, ranked, executor, listen, what=what, sizes=sizes
        )
        configs = contenders(space, history, ranked)
        found = compare(config, configs, executor, listen, what=what, sizes=sizes)
        return replace(found, replication=again, finalists=ends)
    best = run.search.leader(history)
    assert best is not None
    among = len({trial.index for trial in history.succeeded})
    return compare_trial(config, space.config(ranked[0]), best, among, run.executor, listen)
