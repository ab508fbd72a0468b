"""The end of a run: winner and standard settings are trained on all data and scored once, on test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.config.training.plan import plan_training
from loracle.execution.executor import Executor, Job, next_done
from loracle.execution.retry_policy import POLICY
from loracle.records.events import Listener, PhaseEnded, PhaseStarted, tell_steps
from loracle.records.sizes import Sizes
from loracle.records.space import Config, with_alpha
from loracle.records.trial import Outcome
from loracle.records.trial_files import read_items
from loracle.report.folders import final_adapter, final_folder
from loracle.report.verdict import Comparison
from loracle.run.final_results import keep_result, set_aside, stored_result
from loracle.training.intervals import count_differing, paired_difference

_RUNNERS_UP = 2  # tried on all data, one after the other, should the winner fail there
_NUMBERS = {"winner": -1, "standard": -2}  # final trainings are no trials
_TITLES = {"winner": "winner", "standard": "standard settings"}
_SECONDS_BETWEEN_LOOKS = 1.0


def compare(
    config: RunConfig,
    ranked: Sequence[Config],
    executor: Executor,
    listen: Listener,
    *,
    what: str,
    sizes: Sizes | None,
) -> Comparison:
    """Trains the first of `ranked` and the standard settings, and scores both the same way.

    At the same time where there is room, and nothing that has been done before. Where both train the same,
    they are trained once.

    Args:
        config: of the run.
        ranked: configs that succeeded, the winner first.
        executor: with nothing running.
        listen: told of what happens.
        what: the data that a final training takes, in words.
        sizes: how many examples; None: the trainer is the user's own.

    Raises:
        LoracleError: the run cannot go on.
    """
    standard = None if config.standard is None else with_alpha(config.standard)
    outcomes: dict[str, Outcome] = {}
    for i, winner in enumerate(ranked[: 1 + _RUNNERS_UP]):
        if i > 0:
            set_aside(config, ranked[i - 1])
        same = standard is not None and train_alike(config, winner, standard, sizes)
        wanted = {"winner": winner}
        if standard is not None and not same and "standard" not in outcomes:
            wanted["standard"] = standard
        outcomes |= _train(config, wanted, executor, listen, what)
        if outcomes["winner"].failure is None:
            break
    other = outcomes["winner"] if same else outcomes.get("standard")
    comparison = Comparison(winner, standard, outcomes["winner"], other, same=same)
    if sizes is not None:
        comparison = replace(comparison, overlap=sizes.overlap)
    if same or sizes is None or comparison.standing == "not_compared":
        return comparison
    return _paired(config, comparison)


def train_alike(config: RunConfig, one: Config, other: Config, sizes: Sizes | None) -> bool:
    """Whether two configs are one training: equal plans, or equal values for a trainer of the user's own.

    An adapter whose alpha is 0 changes nothing, whatever else its config says.
    """
    if sizes is None:
        return with_alpha(one) == with_alpha(other)
    plans = [plan_training(knobs, config.training, sizes.train) for knobs in (one, other)]
    return plans[0] == plans[1] or all(plan.alpha == 0 for plan in plans)


def _paired(config: RunConfig, comparison: Comparison) -> Comparison:
    folders = [final_folder(config.output, name) for name in ("winner", "standard")]
    winner, standard = (read_items(folder, metric_of(config.metric).table) for folder in folders)
    if not winner or not standard:  # a score that is made in another way than of items
        return comparison
    found = paired_difference(winner, standard, config.metric)
    if found is None:
        return comparison
    difference, low, high = found
    differing = count_differing(winner, standard, config.metric)
    return replace(
        comparison, difference=difference, low=low, high=high, items=len(winner), differing=differing
    )


def compare_trial(
    config: RunConfig, winner: Config, outcome: Outcome, executor: Executor, listen: Listener
) -> Comparison:
    """The comparison where a final training would only repeat a trial: the winner's own stands for it."""
    if config.standard is None:
        return Comparison(winner, None, outcome, None)
    standard = with_alpha(config.standard)
    if train_alike(config, winner, standard, None):
        return Comparison(winner, standard, outcome, outcome, same=True)
    trained = _train(config, {"standard": standard}, executor, listen, "")
    return Comparison(winner, standard, outcome, trained["standard"])


def _train(
    config: RunConfig, wanted: Mapping[str, Config], executor: Executor, listen: Listener, what: str
) -> dict[str, Outcome]:
    """Outcomes by name; taken from the run folder where they are there, and whole."""
    outcomes: dict[str, Outcome] = {}
    waiting = []
    for name, knobs in wanted.items():
        before = _done_before(config, name, knobs)
        if before is None:
            waiting.append(name)
        else:
            outcomes[name] = before
    running: dict[int, str] = {}
    while waiting or running:
        while waiting and len(running) < executor.capacity:
            name = waiting.pop(0)
            number, folder = _NUMBERS[name], final_folder(config.output, name)
            running[number] = name
            listen(PhaseStarted(f"training the {_TITLES[name]}{what}", number))
            adapter = final_adapter(config.output, name)
            executor.submit(Job(number, wanted[name], config.search.seed, folder, True, adapter))
        for done in next_done(executor, _SECONDS_BETWEEN_LOOKS, tell_steps(listen)):
            name = running.pop(done.job.number)
            outcomes[name] = done.outcome
            listen(PhaseEnded(done.job.number))
            keep_result(config, name, done.outcome)
    return outcomes


def _done_before(config: RunConfig, name: str, knobs: Config) -> Outcome | None:
    """What this final training gave when it was done before; None where it is to be done, or done again."""
    before = stored_result(config, name, knobs)
    if before is None or (before.failure and POLICY[before.failure.kind] == "again"):
        return None
    return before
