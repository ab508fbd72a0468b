"""The end of a run: winner and standard settings are trained on all data and scored once, on test data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.config.training.plan import plan_training
from loracle.execution.executor import Executor, Job
from loracle.records.events import Listener
from loracle.records.sizes import Sizes
from loracle.records.space import Config, SearchSpace, with_alpha
from loracle.records.trial import History, Outcome, Trial
from loracle.records.trial_files import read_items
from loracle.report.folders import final_adapter, final_folder, trial_folder
from loracle.report.objectives import scores_of
from loracle.report.verdict import RUNNERS_UP, Comparison, Difference, PassedOver
from loracle.run.finals.jobs import comes_again, run_jobs
from loracle.run.finals.own_items import paired_on_own_items
from loracle.run.finals.results import bring_back, is_candidate, keep_result, set_aside, stored_result
from loracle.training.intervals import count_differing, paired_difference

_NUMBERS = {"winner": -1, "standard": -2}  # final trainings are no trials
_TITLES = {"winner": "winner", "standard": "standard settings"}


@dataclass(frozen=True)
class Contender:
    """A config that succeeded in the search, and how far its trial was from breaking a guard."""

    config: Config
    slack: float = math.inf


def contenders(space: SearchSpace, history: History, ranked: Sequence[int]) -> list[Contender]:
    """Those with these indices, in this order."""
    slack: dict[int, float] = {}
    for trial in history.succeeded:
        assert trial.outcome is not None
        slack[trial.index] = max(trial.outcome.slack, slack.get(trial.index, -math.inf))
    return [Contender(space.config(index), slack[index]) for index in ranked]


def compare(
    config: RunConfig,
    ranked: Sequence[Contender],
    executor: Executor,
    listen: Listener,
    *,
    what: str,
    sizes: Sizes | None,
) -> Comparison:
    """Trains the first of `ranked` and the standard settings, and scores both the same way.

    At the same time where there is room, and nothing that has been done before. Where both train the same,
    they are trained once. Where the first fails, or breaks a guard that its trial kept, the next are tried,
    `RUNNERS_UP` at most; if none of them keeps it, the one that loses the least stands for the search.

    Args:
        config: of the run.
        ranked: what succeeded, the winner first.
        executor: with nothing running.
        listen: told of what happens.
        what: the data that a final training takes, in words.
        sizes: how many examples; None: the trainer is the user's own.

    Raises:
        LoracleError: the run cannot go on.
    """
    standard = None if config.standard is None else with_alpha(config.standard)
    other: Outcome | None = None
    tried: list[PassedOver] = []
    waiting = deque(ranked)
    while waiting and len(tried) <= RUNNERS_UP:
        leader = waiting.popleft()
        _make_room(config, tried, leader.config)
        wanted = {"winner": leader.config}
        if standard is not None and other is None and not train_alike(config, leader.config, standard, sizes):
            wanted["standard"] = standard
        outcomes = _train(config, wanted, executor, listen, what, next_best=bool(tried))
        other = outcomes.get("standard", other)
        found = outcomes["winner"]
        tried.append(PassedOver(leader.config, found))
        if found.failure is None and not found.broken:
            break
        if found.failure is None:  # more data forget more: what lost as much in its trial would lose it, too
            waiting = deque(one for one in waiting if one.slack > max(0.0, leader.slack))
    chosen = _least_lost(tried)
    winner, outcome = chosen.config, chosen.outcome
    if chosen is not tried[-1]:
        bring_back(config, winner)
        outcome = _train(config, {"winner": winner}, executor, listen, what)["winner"]
    same = standard is not None and train_alike(config, winner, standard, sizes)
    comparison = Comparison(winner, standard, outcome, outcome if same else other, same=same)
    comparison = replace(comparison, passed_over=tuple(one for one in tried if one is not chosen))
    if sizes is not None:
        others = tuple(_by_another(config, comparison, name) for name in config.objectives[1:])
        comparison = replace(comparison, overlap=sizes.overlap, others=others)
    if same or comparison.standing == "not_compared":
        return comparison
    return _paired(config, comparison)


def _make_room(config: RunConfig, tried: Sequence[PassedOver], leader: Config) -> None:
    """Has `final/winner` free for a leader, or hold what was trained of it to be chosen from."""
    if tried:
        set_aside(config, tried[-1].config)
    if is_candidate(config, leader):
        bring_back(config, leader)


def _least_lost(tried: Sequence[PassedOver]) -> PassedOver:
    """What stands for the search: of those that succeeded the first that keeps what must not be lost, or the
    one that is nearest to it; the last where all failed."""
    succeeded = [one for one in tried if one.outcome.failure is None]
    return max(succeeded, key=lambda one: min(0.0, one.outcome.slack)) if succeeded else tried[-1]


def train_alike(config: RunConfig, one: Config, other: Config, sizes: Sizes | None) -> bool:
    """Whether two configs are one training: equal plans, or equal values for a trainer of the user's own.

    An adapter whose alpha is 0 changes nothing, whatever else its config says.
    """
    if sizes is None:
        return with_alpha(one) == with_alpha(other)
    plans = [plan_training(knobs, config.training, sizes.rows) for knobs in (one, other)]
    return plans[0] == plans[1] or all(plan.alpha == 0 for plan in plans)


def _paired(config: RunConfig, comparison: Comparison) -> Comparison:
    if config.objective is not None:
        ran = final_folder(config.output, "winner"), final_folder(config.output, "standard")
        return paired_on_own_items(comparison, config.metric, *ran)
    found = _on_items(config, config.metric)
    if found is None:
        return comparison
    (difference, low, high), items, differing = found
    return replace(comparison, difference=difference, low=low, high=high, items=items, differing=differing)


def _by_another(config: RunConfig, comparison: Comparison, name: str) -> Difference:
    """Winner and standard settings by an objective after the first."""
    winner, standard = (
        scores_of(one, (config.metric, name), "test")[1] if one and one.value is not None else None
        for one in (comparison.winner_outcome, comparison.standard_outcome)
    )
    found = Difference(name, winner, standard)
    told = None if comparison.same or winner is None or standard is None else _on_items(config, name)
    if told is None:
        return found
    (mean, low, high), items, differing = told
    return replace(found, mean=mean, low=low, high=high, items=items, differing=differing)


def _on_items(config: RunConfig, metric: str) -> tuple[tuple[float, float, float], int, int] | None:
    """Winner minus standard on the same test items with a 95 % interval, the number of items, and how many
    they scored differently; None where a score is made in another way than of items."""
    folders = [final_folder(config.output, name) for name in ("winner", "standard")]
    winner, standard = (read_items(folder, metric_of(metric).table) for folder in folders)
    found = paired_difference(winner, standard, metric) if winner and standard else None
    return None if found is None else (found, len(winner), count_differing(winner, standard, metric))


def compare_trial(
    config: RunConfig, winner: Config, trial: Trial, among: int, executor: Executor, listen: Listener
) -> Comparison:
    """The comparison where a final training would only repeat a trial: the winner's own stands for it, the
    best `among` so many configs."""
    outcome = trial.outcome
    assert outcome is not None
    if config.standard is None:
        return Comparison(winner, None, outcome, None)
    standard = with_alpha(config.standard)
    if train_alike(config, winner, standard, None):
        return Comparison(winner, standard, outcome, outcome, same=True)
    trained = _train(config, {"standard": standard}, executor, listen, "")
    found = Comparison(winner, standard, outcome, trained["standard"])
    if found.standing == "not_compared":
        return found
    folders = trial_folder(config.output, trial.number), final_folder(config.output, "standard")
    return paired_on_own_items(found, config.metric, *folders, among)


def _train(
    config: RunConfig,
    wanted: Mapping[str, Config],
    executor: Executor,
    listen: Listener,
    what: str,
    *,
    next_best: bool = False,
) -> dict[str, Outcome]:
    """Outcomes by name; taken from the run folder where they are there, and whole."""
    titles = _TITLES | ({"winner": "next best settings"} if next_best else {})
    outcomes: dict[str, Outcome] = {}
    waiting = []
    for name, knobs in wanted.items():
        before = _done_before(config, name, knobs)
        if before is None:
            waiting.append(name)
        else:
            outcomes[name] = before
    jobs = []
    for name in waiting:
        place, adapter = final_folder(config.output, name), final_adapter(config.output, name)
        job = Job(_NUMBERS[name], wanted[name], config.search.seed, place, True, adapter)
        jobs.append((f"training the {titles[name]}{what}", job))
    names = {number: name for name, number in _NUMBERS.items()}
    for done in run_jobs(jobs, executor, listen):
        name = names[done.job.number]
        outcomes[name] = done.outcome
        keep_result(config, name, done.outcome)
    return outcomes


def _done_before(config: RunConfig, name: str, knobs: Config) -> Outcome | None:
    """What this final training gave when it was done before; None where it is to be done, or done again."""
    before = stored_result(config, name, knobs)
    return None if before is None or comes_again(before) else before
