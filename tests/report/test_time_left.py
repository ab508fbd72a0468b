"""The time left, by arithmetic on recorded outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from loracle.config.loading import load_config
from loracle.records.events import Event, TrialFinished
from loracle.records.sizes import Sizes
from loracle.records.trial import Failure, FailureKind, Outcome, Trial
from loracle.report.time_left import Finals, Forecast, finals
from loracle.run.tune import tune

SIZES = Sizes(train=2000, proxy=200, validation=100, scored=100, test=200)


def finished(number: int, training: float, scoring: float, other: float = 0.0) -> Trial:
    """A trial that took so many seconds."""
    parts = {"training": training, "scoring": scoring, "other": other}
    return Trial(number, number, Outcome(0.5, {}, sum(parts.values()), seconds_by_part=parts))


def test_final_trainings_are_in_the_time_left() -> None:
    """29 of 30 trials of a minute are done. Finals train ten times as long: not a minute is left, but 18."""
    done = [finished(number, 50.0, 8.0, 2.0) for number in range(29)]
    forecast = Forecast(finals(2, SIZES, 1.0))
    each = 10 * 50 + 2 * 8 + 2  # ten times the training, twice the scoring, and what does not depend on data
    assert forecast.seconds_left(done, 30, 1) == pytest.approx(60 + 2 * each)
    assert forecast.seconds_left(done, 29, 1) == pytest.approx(2 * each)
    assert forecast.seconds_left(done, 30, 2) == pytest.approx(30 + each)  # both at the same time
    assert Forecast(Finals()).seconds_left(done, 30, 1) == pytest.approx(60)


def test_failures_count_for_trials_to_come_and_not_for_finals() -> None:
    failed = Trial(1, 1, Outcome(None, {}, 4.0, Failure(FailureKind.DIVERGED, "loss is NaN")))
    done = [finished(0, 10.0, 0.0), failed]
    assert Forecast(Finals(1, 10.0)).seconds_left(done, 4, 1) == pytest.approx(2 * 7 + 100)


def test_an_own_trainer_is_expected_to_take_longer_on_all_data() -> None:
    done = [Trial(0, 0, Outcome(0.5, {}, 6.0))]
    assert Forecast(finals(1, None, 0.1)).seconds_left(done, 1, 1) == pytest.approx(60)
    assert math.isnan(Forecast(Finals()).seconds_left([], 3, 1))


def test_a_run_counts_its_finals(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 2}))
    left: list[TrialFinished] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            left.append(event)

    tune(config, listen)
    assert left[-1].done == left[-1].budget
    assert left[-1].seconds_left > 0  # winner and standard are still to be trained
