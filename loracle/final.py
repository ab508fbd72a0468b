"""The end of a run: winner and standard settings are trained on all data and scored once, on test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from loracle.config import RunConfig
from loracle.events import Listener, PhaseStarted, Step
from loracle.metrics import paired_difference
from loracle.outcomes import read_items, read_outcome
from loracle.report import Comparison
from loracle.space import Config, with_alpha
from loracle.trial import Outcome
from loracle.workers import POLICY, Executor, Job

_RUNNERS_UP = 2  # tried on all data, one after the other, should the winner fail there
_NUMBERS = {"winner": -1, "standard": -2}  # final trainings are no trials
_TITLES = {"winner": "winner", "standard": "standard settings"}
_SECONDS_BETWEEN_LOOKS = 1.0


def compare(
    config: RunConfig, ranked: Sequence[Config], executor: Executor, listen: Listener, *, what: str
) -> Comparison:
    """Trains the first of `ranked` and the standard settings, and scores both the same way.

    At the same time where there is room, and nothing that has been done before.

    Args:
        config: of the run.
        ranked: configs that succeeded, the winner first.
        executor: with nothing running.
        listen: told of what happens.
        what: the data that a final training takes, in words.

    Raises:
        LoracleError: the run cannot go on.
    """
    winner = ranked[0]
    wanted = {"winner": winner}
    if config.standard is not None:
        wanted["standard"] = with_alpha(config.standard)
    outcomes = _train(config, wanted, executor, listen, what)
    for runner_up in ranked[1 : 1 + _RUNNERS_UP]:
        if outcomes["winner"].failure is None:
            break
        winner = runner_up
        outcomes |= _train(config, {"winner": winner}, executor, listen, what)
    standard, standard_outcome = wanted.get("standard"), outcomes.get("standard")
    comparison = Comparison(winner, standard, outcomes["winner"], standard_outcome)
    if config.objective is not None or any(outcome.failure for outcome in outcomes.values()):
        return comparison
    items = [read_items(_folder(config, name)) for name in ("winner", "standard")]
    difference, low, high = paired_difference(*items)
    return replace(comparison, difference=difference, low=low, high=high)


def compare_trial(
    config: RunConfig, winner: Config, outcome: Outcome, executor: Executor, listen: Listener
) -> Comparison:
    """The comparison where a final training would only repeat a trial: the winner's own stands for it."""
    if config.standard is None:
        return Comparison(winner, None, outcome, None)
    standard = with_alpha(config.standard)
    trained = _train(config, {"standard": standard}, executor, listen, "")
    return Comparison(winner, standard, outcome, trained["standard"])


def _train(
    config: RunConfig, wanted: Mapping[str, Config], executor: Executor, listen: Listener, what: str
) -> dict[str, Outcome]:
    """Outcomes by name; taken from the run folder where they are there."""
    outcomes: dict[str, Outcome] = {}
    waiting = []
    for name, knobs in wanted.items():
        before = read_outcome(_folder(config, name), knobs)
        if before is None or (before.failure and POLICY[before.failure.kind] == "again"):
            waiting.append(name)
        else:
            outcomes[name] = before
    running: dict[int, str] = {}
    while waiting or running:
        while waiting and len(running) < executor.capacity:
            name = waiting.pop(0)
            number, folder = _NUMBERS[name], _folder(config, name)
            running[number] = name
            listen(PhaseStarted(f"training the {_TITLES[name]}{what}", number))
            adapter = config.output / "best" if name == "winner" else None
            executor.submit(Job(number, wanted[name], config.search.seed, folder, True, adapter))
        for done in executor.wait(
            _SECONDS_BETWEEN_LOOKS,
            lambda number, step, total, loss: listen(Step(step, total, loss, number)),
        ):
            outcomes[running.pop(done.job.number)] = done.outcome
    return outcomes


def _folder(config: RunConfig, name: str) -> Path:
    return config.output / "final" / name
