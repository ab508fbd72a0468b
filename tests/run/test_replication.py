"""The best two of a search within noise: trained with further seeds, chosen by the mean, told everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed_runs import killed

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.records.events import Event, Expected, PhaseStarted
from loracle.report.time_left import in_words
from loracle.report.verdict import verdict
from loracle.report.verdict.stored import verdict_json
from loracle.run.tune import Result, tune

KNOBS = {"rank": [4], "alpha_ratio": [4], "dropout": [0.0, 0.1], "batch_size": [4], "learning_rate": [1e-2]}
TWINS = {"base": "empty", "knobs": {name: {"values": values} for name, values in KNOBS.items()}}


def run(config: RunConfig) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    return tune(config, events.append), events


def again(events: list[Event]) -> list[int]:
    """Numbers of the trainings with further seeds that were made."""
    return [
        e.number for e in events if isinstance(e, PhaseStarted) and e.number is not None and e.number < -2
    ]


def test_the_best_two_within_noise_are_trained_with_further_seeds_and_the_mean_decides(
    run_config: Callable[..., Path],
) -> None:
    path = run_config(space=TWINS, search={"trials": 2, "replicates": 2})
    killed(path, "PhaseEnded", "number=-4")
    config = load_config(path)
    result, events = run(config)
    assert again(events) == [-5, -6]  # what had not ended
    found = result.comparison.replication
    assert found is not None
    assert found.low <= 0 <= found.high
    assert len(found.leader.values) == len(found.rival.values) == 3
    assert len(set(found.leader.values)) == 3  # seeds differ
    better = max((found.leader, found.rival), key=lambda side: side.mean)
    assert result.comparison.winner == better.config
    assert found.chosen == ("leader" if better is found.leader else "rival")
    said = verdict(result.comparison, "loss", result.history)
    assert "which is within noise; so both were trained with 3 seeds in all, with a mean of" in said
    assert "3 seeds in all" in (result.folder / "report.md").read_text()
    assert "3 seeds in all" in (result.folder / "report.html").read_text()
    told = verdict_json(config, result.space, result.finished, result.history, result.notices)
    assert told["replication"]["leader"]["values"] == list(found.leader.values)
    second, events = run(config)
    assert again(events) == []
    assert second.comparison == result.comparison
    # Without being asked for it is another choice; the run may change that at any time.
    third, events = run(
        config.model_copy(update={"search": config.search.model_copy(update={"replicates": 0})})
    )
    assert again(events) == []
    assert third.comparison.replication is None


def test_trials_that_are_told_apart_are_not_repeated(run_config: Callable[..., Path]) -> None:
    knobs = {"values": [1e-4, 1e-2]}
    space = {**TWINS, "knobs": TWINS["knobs"] | {"dropout": {"values": [0.0]}, "learning_rate": knobs}}
    result, events = run(load_config(run_config(space=space, search={"trials": 2, "replicates": 1})))
    assert again(events) == []
    assert result.comparison.replication is None
    (expected,) = [event for event in events if isinstance(event, Expected)]
    assert expected.again == 2
    assert "up to 2 with another seed, should the best two lie within noise, then 2 final" in in_words(
        expected
    )


@pytest.mark.parametrize(
    ("trials", "replicates", "seeds"), [(29, "auto", 0), (30, "auto", 1), (30, 0, 0), (3, 2, 2)]
)
def test_by_default_searches_of_30_trials_and_more_replicate(
    run_config: Callable[..., Path], trials: int, replicates: Any, seeds: int
) -> None:
    search = {"trials": trials, "replicates": replicates}
    assert load_config(run_config(search=search)).search.further_seeds == seeds
    limited = load_config(run_config(search=search | {"budget": 2.0}))
    assert limited.search.further_seeds == (0 if replicates == "auto" else seeds)


def test_a_run_that_ended_without_it_stays_as_it_is(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(space=TWINS, search={"trials": 2, "replicates": 0}))
    run(config)
    # As by an earlier version, which knew no such setting; here the budget alone says how many.
    asked = config.search.model_copy(update={"replicates": "auto", "trials": 30})
    result, events = run(config.model_copy(update={"search": asked}))
    assert again(events) == []
    assert result.comparison.replication is None
