"""The best of a search, each trained on all data: the one that is best there on validation is the winner.

A part of the data tells good settings from bad, and ranks the good less well: `benchmarks/cost.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from loracle.config.settings import RunConfig
from loracle.execution.executor import Executor, Job
from loracle.records.events import Listener
from loracle.records.sizes import Sizes
from loracle.records.space import SearchSpace, with_alpha
from loracle.records.trial import History, Outcome
from loracle.records.trial_files import read_outcome
from loracle.report.folders import final_adapter, final_folder
from loracle.report.verdict import Finalist
from loracle.run.finals.jobs import comes_again, run_jobs
from loracle.run.finals.results import (
    CANDIDATE,
    back_to_candidates,
    keep_result,
    stand_for_standard,
    stored_result,
)
from loracle.run.finals.training import contenders, train_alike
from loracle.search.observations import value_of

_VALUE = "validation_value"
_FIRST = -50  # number of the first such training, downwards; they are no trials


def choose_finalist(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    ranked: Sequence[int],
    executor: Executor,
    listen: Listener,
    *,
    what: str,
    sizes: Sizes | None,
) -> tuple[list[int], tuple[Finalist, ...]]:
    """Ranks the first `search.finalists` of `ranked` anew, by their trainings on all data; what was trained
    before is not again.

    Args:
        config: of the run.
        space, history: the search.
        ranked: indices of what succeeded, the best first.
        executor: with nothing running.
        listen: told of what happens.
        what: the data that a final training takes, in words.
        sizes: how many examples; None: the trainer is the user's own, and nothing is trained here.

    Raises:
        LoracleError: the run cannot go on.
    """
    order = list(ranked)
    chosen = _first(config, space, history, order, sizes)
    if len(chosen) < 2:
        return order, ()
    trials = {index: _trial_of(history, index) for index in chosen}
    outcomes = _train(config, space, trials, executor, listen, what)
    found = [
        Finalist(space.config(index), place, outcomes[index], outcomes[index].metrics.get(_VALUE))
        for place, index in enumerate(chosen, 1)
    ]
    best = sorted(range(len(found)), key=lambda i: _standing(found[i]))
    found[best[0]] = replace(found[best[0]], chosen=True)
    for index in chosen:
        if index != chosen[best[0]]:
            back_to_candidates(config, space.config(index), trials[index])
            if config.standard is not None and with_alpha(config.standard) == space.config(index):
                stand_for_standard(config, space.config(index))
    again = [chosen[i] for i in best]
    return [*again, *(index for index in order if index not in again)], tuple(found)


def _first(
    config: RunConfig, space: SearchSpace, history: History, ranked: Sequence[int], sizes: Sizes | None
) -> list[int]:
    """The best of the search that keep what must not be lost, each another training on all data."""
    if config.search.finalists < 2 or config.objectives or sizes is None:
        return []
    found: list[int] = []
    for index, one in zip(ranked, contenders(space, history, ranked), strict=True):
        alike = any(train_alike(config, one.config, space.config(other), sizes) for other in found)
        if one.slack >= 0 and not alike and len(found) < config.search.finalists:
            found.append(index)
    return found


def _train(
    config: RunConfig,
    space: SearchSpace,
    trials: dict[int, int],
    executor: Executor,
    listen: Listener,
    what: str,
) -> dict[int, Outcome]:
    """Outcomes by index; `trials` are their trials, also by index."""
    outcomes: dict[int, Outcome] = {}
    jobs, indices = [], {}
    for number, (index, trial) in enumerate(trials.items()):
        before = stored_result(config, "winner", space.config(index))
        if before is not None and not comes_again(before) and (before.failure or _VALUE in before.metrics):
            outcomes[index] = before
            continue
        is_winner = read_outcome(final_folder(config.output, "winner"), space.config(index)) is not None
        name = "winner" if is_winner else f"{CANDIDATE}{trial:04d}"
        place, adapter = final_folder(config.output, name), final_adapter(config.output, name)
        job = Job(_FIRST - number, space.config(index), config.search.seed, place, True, adapter)
        jobs.append((f"training the settings of trial {trial}, one of the best {len(trials)},{what}", job))
        indices[job.number] = index, name
    for done in run_jobs(jobs, executor, listen):
        index, name = indices[done.job.number]
        outcomes[index] = done.outcome
        keep_result(config, name, done.outcome)
    return outcomes


def _standing(one: Finalist) -> tuple[bool, int, float, int]:
    """What is smaller is better."""
    failed = one.value is None
    return failed, len(one.outcome.broken), 0.0 if one.value is None else -one.value, one.place


def _trial_of(history: History, index: int) -> int:
    return max((trial for trial in history.succeeded if trial.index == index), key=value_of).number
