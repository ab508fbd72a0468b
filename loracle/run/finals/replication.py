"""Where the best two configs lie within the noise of each other, both are trained with further seeds.

What they score then decides, by the mean of the seeds; measured in `benchmarks/replication.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.execution.executor import Executor, Job
from loracle.records.events import Listener
from loracle.records.sizes import Sizes
from loracle.records.space import SearchSpace
from loracle.records.trial import History, Outcome, Trial
from loracle.records.trial_files import read_items, read_outcome
from loracle.report.folders import replicate_folder, trial_folder
from loracle.report.verdict import MIN_DIFFERING, Replicated, Replication
from loracle.report.verdict.stored import read_finished
from loracle.run.finals.jobs import comes_again, run_jobs
from loracle.run.finals.training import train_alike
from loracle.search.observations import value_of
from loracle.training.intervals import count_differing, paired_difference

_FIRST = -3  # number of the first such training, downwards; -1 and -2 are winner and standard settings


def replicate(
    config: RunConfig,
    space: SearchSpace,
    history: History,
    ranked: Sequence[int],
    executor: Executor,
    listen: Listener,
    sizes: Sizes | None,
) -> tuple[list[int], Replication | None]:
    """Ranks the first two of `ranked` anew where noise asks for it; what was trained before is not again.

    Raises:
        LoracleError: the run cannot go on.
    """
    order = list(ranked)
    found = _within_noise(config, space, history, order[:2], sizes)
    if found is None or _ended_without(config, history):
        return order, None
    sides = _train(config, found, executor, listen)
    better = max(range(2), key=lambda i: (-sides[i].failed, -len(sides[i].broken), sides[i].mean, -i))
    found = replace(found, leader=sides[0], rival=sides[1], chosen=("leader", "rival")[better])
    return (order if better == 0 else [order[1], order[0], *order[2:]]), found


def _within_noise(
    config: RunConfig, space: SearchSpace, history: History, pair: Sequence[int], sizes: Sizes | None
) -> Replication | None:
    """The best two by their trials; None where these tell them apart, or cannot say, or nobody asks."""
    if config.search.further_seeds == 0 or len(pair) < 2 or sizes is None or config.objectives:
        return None
    trials = [_best_trial(history, index) for index in pair]
    if any(trial.outcome and trial.outcome.broken for trial in trials):
        return None
    knobs = [space.config(index) for index in pair]
    if train_alike(config, knobs[0], knobs[1], sizes):
        return None
    try:
        table = metric_of(config.metric).table
        items = [read_items(trial_folder(config.output, trial.number), table) for trial in trials]
        told = paired_difference(items[0], items[1], config.metric)
    except (OSError, ValueError, KeyError):  # gone, or of other items: nothing is known of the noise
        return None
    if told is None:
        return None
    difference, low, high = told
    if not low <= 0 <= high and count_differing(items[0], items[1], config.metric) >= MIN_DIFFERING:
        return None
    sides = [
        Replicated(knobs_, trial.number, (value_of(trial),))
        for knobs_, trial in zip(knobs, trials, strict=True)
    ]
    return Replication(sides[0], sides[1], difference, low, high, len(items[0]))


def _train(
    config: RunConfig, found: Replication, executor: Executor, listen: Listener
) -> tuple[Replicated, Replicated]:
    """Both with the values of further seeds."""
    seeds = [config.search.seed + 1 + i for i in range(config.search.further_seeds)]
    wanted = [(side, seed) for seed in seeds for side in (found.leader, found.rival)]
    outcomes: dict[int, Outcome] = {}
    jobs = []
    for i, (side, seed) in enumerate(wanted):
        place = replicate_folder(config.output, side.trial, seed)
        before = read_outcome(place, side.config)
        if before is not None and not comes_again(before):
            outcomes[i] = before
            continue
        title = f"training the settings of trial {side.trial} with seed {seed}: the best two are within noise"
        jobs.append((title, Job(_FIRST - i, side.config, seed, place)))
    for done in run_jobs(jobs, executor, listen):
        outcomes[_FIRST - done.job.number] = done.outcome
    first, second = (
        [outcomes[i] for i, (one, _) in enumerate(wanted) if one is side]
        for side in (found.leader, found.rival)
    )
    return _with(found.leader, first), _with(found.rival, second)


def _with(side: Replicated, outcomes: Sequence[Outcome]) -> Replicated:
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    return replace(
        side,
        values=(*side.values, *values),
        failed=len(outcomes) - len(values),
        broken=tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.broken)),
        seconds=sum(outcome.seconds for outcome in outcomes),
    )


def _best_trial(history: History, index: int) -> Trial:
    return max((trial for trial in history.succeeded if trial.index == index), key=value_of)


def _ended_without(config: RunConfig, history: History) -> bool:
    """Whether the run has ended before without asking for this, as those of earlier versions: it stays."""
    if config.search.replicates != "auto":
        return False
    with contextlib.suppress(StudyError):
        return read_finished(Path(config.output), history).comparison.replication is None
    return False
