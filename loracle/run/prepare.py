"""A run made ready: data and model checked, the search half built, and workers found.

Everything that can be refused is refused here, before anything is trained.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from loracle.config.search.limits import is_default, least_trials
from loracle.config.settings import RunConfig, build_space
from loracle.execution.executor import Executor, InProcess, check_in_process
from loracle.execution.local import LocalWorkers
from loracle.records.events import Listener, PhaseStarted
from loracle.records.notices import Notice, gathered
from loracle.records.objective import Pace, Report
from loracle.records.sizes import Sizes
from loracle.report.wording import search_ends
from loracle.run.identity import Identity, common_settings
from loracle.run.past.candidates import read_past
from loracle.run.search import Search, check_values, prior_contents, reads_in_worker, run_preset, search_space
from loracle.run.search_notices import search_notices
from loracle.run.stopping import Budget
from loracle.run.storage.opening import begun_with
from loracle.run.worker import PROGRAM, load_objective
from loracle.training.memory.plan import MemoryModel


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        search: chooses configs.
        executor: trains them.
        final: what a final training takes, in words; None where it would only repeat a trial.
        identity: what makes it the same run when it goes on.
        notices: what the user must see before anything is trained.
        sizes: how many examples are used; None: the trainer is the user's own.
        pace: how fast trainings go, where that was measured.
    """

    search: Search
    executor: Executor
    final: str | None
    identity: Identity
    notices: tuple[Notice, ...]
    sizes: Sizes | None = None
    pace: Pace | None = None


def prepare(config: RunConfig, listen: Listener) -> Prepared:
    """Checks data and model, builds the search half, and starts where the trials run.

    The model is loaded where the trials run, which stays for them; here it is only known what was found.
    """
    check_values(config)
    past = read_past(config, build_space(config.space)).notices  # refused before a model is loaded
    executor = make_executor(config)
    try:
        prepared = prepare_on(config, executor, listen)
    except BaseException:
        executor.close()
        raise
    return replace(prepared, notices=gathered(prepared.notices, past))


def make_executor(config: RunConfig) -> Executor:
    """Where the trials of a run are trained.

    Raises:
        ConfigError: what is asked for is not there, or does not go together.
    """
    check_in_process(config.execution)
    if config.execution.workers == 0:
        return InProcess(lambda: load_objective(config), str(config.output))
    if config.execution.executor == "ray":
        from loracle.execution.ray_cluster import RayWorkers

        return RayWorkers(config, PROGRAM)
    return LocalWorkers(config, PROGRAM)


def prepare_on(config: RunConfig, executor: Executor, listen: Listener) -> Prepared:
    """The same where the trials run on an executor that is there, as that of `benchmarks/simulator.py`."""
    if config.objective is None:
        prompts = ", and the prompts of the candidates" if reads_in_worker(config) else ""
        listen(PhaseStarted(f"reading data and model{prompts}"))
    report = executor.load()
    local = config.execution.executor == "local"
    memory = MemoryModel.from_json(report.memory) if report.memory and local else None
    search = prepare_search(config, report, listen)
    told = search_notices(config, search.space, memory, report.sizes)
    search = replace(search, memory=memory, notices=(*search.notices, *told))
    identity = Identity(
        {**report.contents, **search.contents},
        common_settings(config),
        None if memory is None else memory.room,
        platform.node(),
        report.together,
    )
    notices = gathered(report.notices, search.notices)
    return Prepared(search, executor, _final_training(report), identity, notices, report.sizes, report.pace)


def prepare_search(config: RunConfig, report: Report, listen: Listener) -> Search:
    """Builds the search half: space, preset, and language features of all candidates.

    Raises:
        LoracleError: see `search_space`, `get_preset` and `reading.features_of`.
    """
    space = search_space(config, report.n_rows)
    preset, features = run_preset(config), None
    if preset.reads:
        from loracle.run.reading import features_of  # needs torch

        features, contents, preset = features_of(config, space, preset, report, listen)
    else:
        known = begun_with(config.output, config.execution.storage)
        contents = prior_contents(preset, known, report.parameters, report.part)
        preset = run_preset(config, contents)
    return Search(
        space,
        preset,
        features,
        config.search.seed,
        contents=contents,
        metric=config.metric,
        objectives=config.objectives,
        worth=config.search.worth,
        budget=_budget(config, report.sizes),
        ends_when=search_ends(config, None if report.sizes is None else report.sizes.expected),
    )


# -- helpers ----------------------------------------------------------------------------------------


def _budget(config: RunConfig, sizes: Sizes | None) -> Budget | None:
    if config.search.budget is None:
        return None
    each = None if sizes is None else sizes.expected
    return Budget(config.search.budget, least_trials(config.search), is_default(config.search), each)


def _final_training(report: Report) -> str | None:
    if report.sizes is not None:
        return f" on all {report.sizes.train:,} examples"
    return "" if report.has_final else None
