"""The time left, by arithmetic on recorded outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from loracle.config.loading import load_config, parse_config
from loracle.config.training.settings import TrainingConfig
from loracle.records.events import Event, Expected, Span, TrialFinished
from loracle.records.objective import Pace
from loracle.records.sizes import Sizes
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, Outcome, Tokens, Trial
from loracle.report.time_left import Finals, Forecast, Guess, finals, forecast, guess, in_words
from loracle.run.tune import tune

SIZES = Sizes(train=2000, proxy=200, validation=100, scored=100, test=200)


def finished(number: int, training: float, scoring: float, other: float = 0.0) -> Trial:
    """A trial that took so many seconds."""
    parts = {"training": training, "scoring": scoring, "other": other}
    return Trial(number, number, Outcome(0.5, {}, sum(parts.values()), seconds_by_part=parts))


def likely(forecast: Forecast, done: list[Trial], budget: int, capacity: int) -> float:
    """Seconds left."""
    left = forecast.expected(done, budget, capacity).whole
    assert left is not None
    assert left.low <= left.likely <= left.high
    return left.likely


def test_final_trainings_are_in_the_time_left() -> None:
    """29 of 30 trials of a minute are done. Finals train ten times as long: not a minute is left, but 18."""
    done = [finished(number, 50.0, 8.0, 2.0) for number in range(29)]
    forecast = Forecast(finals(2, SIZES, 1.0))
    each = 10 * 50 + 2 * 8 + 2  # ten times the training, twice the scoring, and what does not depend on data
    assert likely(forecast, done, 30, 1) == pytest.approx(60 + 2 * each)
    assert likely(forecast, done, 29, 1) == pytest.approx(2 * each)
    assert likely(forecast, done, 30, 2) == pytest.approx(60 + each)  # both finals at once
    assert likely(Forecast(), done, 30, 1) == pytest.approx(60)


def test_failures_count_for_trials_to_come_and_not_for_finals() -> None:
    failed = Trial(1, 1, Outcome(None, {}, 4.0, Failure(FailureKind.DIVERGED, "loss is NaN")))
    done = [finished(0, 10.0, 0.0), failed]
    assert likely(Forecast(Finals(1, 10.0)), done, 4, 1) == pytest.approx(2 * 7 + 100)


def test_an_own_trainer_is_expected_to_take_longer_on_all_data() -> None:
    done = [Trial(0, 0, Outcome(0.5, {}, 6.0))]
    assert likely(Forecast(finals(1, None, 0.1)), done, 1, 1) == pytest.approx(60)
    before = Forecast(finals(1, None, 0.1)).expected([], 3, 1)
    assert before == Expected(3, 3, 1, 1)
    assert (
        in_words(before)
        == "3 trials, then 1 final training: how long they take is known after the first trial"
    )


def test_the_range_narrows() -> None:
    forecast = Forecast(finals(2, SIZES, 1.0))
    widths = []
    for n in (1, 5, 15, 29):
        left = forecast.expected([finished(i, 50.0 + i % 3, 8.0, 2.0) for i in range(n)], 30, 1).whole
        assert left is not None
        assert left.low < left.likely < left.high
        widths.append(left.high - left.low)
    assert widths == sorted(widths, reverse=True)


def test_what_a_trial_costs_is_that_of_the_configs_that_are_likely_first() -> None:
    """Where steps are counted, a batch of 64 costs 20 times one of 2, and may never be tried."""
    space = SearchSpace([Knob("batch_size", (2, 8, 64), scale="log2")], [])
    sizes = replace(SIZES, expected=0.16, expected_ends=(0.02, 0.4), costs=((2, 0.02), (8, 0.06), (64, 0.4)))
    config = parse_config("model: m\ndata: {train: t.jsonl}\nsearch: {budget: 1.0, trials: 40}\n")
    told = {}
    for name, first in (("all", ()), ("small", (0, 0, 0, 1))):
        estimates = forecast(config, space, has_final=True, sizes=sizes, first=lambda first=first: first)  # type: ignore[misc]
        told[name] = estimates.expected([], 40, 1)
    assert (told["all"].budget, told["all"].budget_ends) == (6, (2, 40))
    assert (told["small"].budget, told["small"].budget_ends) == (33, (2, 40))
    before = forecast(config, space, has_final=True, sizes=replace(sizes, costs=()), first=lambda: (0,))
    assert before.expected([], 40, 1).budget == 6  # of a run that was begun before costs were kept by length


SPACE = SearchSpace([Knob("batch_size", (4, 16)), Knob("epochs", (1.0, 2.0))], [])
PACE = Pace(step=0.1, example=0.02, item_least=0.01, item_most=0.03, other=1.0)


def test_a_first_estimate_follows_from_the_pace_and_the_sizes() -> None:
    found = guess(PACE, SIZES, SPACE, TrainingConfig())
    assert found is not None
    # 200 examples: 50 or 13 steps an epoch, 4 s of examples; 100 scored in 1 to 3 s; 1 s for the rest.
    assert found.trial.low == pytest.approx(1.3 + 4 + 1 + 1)
    assert found.trial.high == pytest.approx(10 + 8 + 3 + 1)
    assert found.trial.likely == pytest.approx((5 + 10 + 1.3 + 2.5) / 4 + 6 + 2 + 1)
    # All 2,000, scored on 200.
    assert found.final.low == pytest.approx(12.5 + 40 + 2 + 1)
    assert found.final.high == pytest.approx(100 + 80 + 6 + 1)
    assert guess(None, SIZES, SPACE, TrainingConfig()) is None


def test_steps_in_place_of_epochs_are_a_share_of_those_of_a_final_training() -> None:
    space = SearchSpace([Knob("batch_size", (4,))], [])
    found = guess(PACE, SIZES, space, TrainingConfig(max_steps=300))
    assert found is not None
    assert found.trial.likely == pytest.approx(30 * (0.1 + 4 * 0.02) + 2 + 1)
    assert found.final.likely == pytest.approx(300 * (0.1 + 4 * 0.02) + 4 + 1)


def test_before_the_first_trial_the_whole_is_trials_and_finals_with_a_margin() -> None:
    first = guess(PACE, SIZES, SPACE, TrainingConfig())
    assert first is not None
    forecast = Forecast(finals(2, SIZES, 1.0), first)
    found = forecast.expected([], 30, 1)
    assert (found.trial, found.final) == (first.trial, first.final)
    assert found.whole is not None
    assert found.whole.likely == pytest.approx(30 * first.trial.likely + 2 * first.final.likely)
    assert found.whole.low < (30 * first.trial.low + 30 * first.trial.likely) / 2 + 2 * first.final.low
    four = forecast.expected([], 30, 4).whole
    assert four is not None
    assert four.likely == pytest.approx(7.5 * first.trial.likely + first.final.likely)  # both at once


def test_what_is_to_come_in_words() -> None:
    trial, final, whole = Span(30, 40, 50), Span(90, 120, 150), Span(5000, 6000, 9000)
    several = "18 of 30 trials of about 40 s, 4 at a time, then 1 final training of about 2 min"
    assert in_words(Expected(18, 30, 4, 1, trial, final, whole)) == f"{several}: 1.4 to 2.5 h in all"
    priced = Expected(18, 30, 4, 1, trial, final, whole, cost_per_hour=2.5)
    assert in_words(priced) == f"{several}: 1.4 to 2.5 h in all, at 2.5 an hour 3.47 to 6.25"
    assert in_words(Expected(1, 1, 1, 0, trial, final, Span(35, 40, 44))) == (
        "1 trial of about 40 s: 35 to 44 s in all"
    )


def test_final_trainings_that_a_guard_may_ask_for_are_told_beside_the_whole() -> None:
    finals_, trial = finals(2, SIZES, 1.0, spare=2), Span(30, 40, 50)
    expected = Forecast(finals_, Guess(trial, Span(90, 120, 150))).expected([], 3, 1)
    without = Forecast(finals(2, SIZES, 1.0), Guess(trial, Span(90, 120, 150))).expected([], 3, 1)
    assert (expected.spare, expected.whole) == (2, without.whole)
    told = "then 2 final trainings of about 2 min (and up to 2 more, should the winner lose what is guarded)"
    assert told in in_words(expected)
    assert "more" not in in_words(without)


def test_a_run_counts_its_finals(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 2}))
    left: list[TrialFinished] = []
    first: list[Expected] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            left.append(event)
        if isinstance(event, Expected):
            assert not left
            first.append(event)

    tune(config, listen)
    assert left[-1].done == left[-1].budget
    assert left[-1].left is not None
    assert left[-1].left.likely > 0  # winner and standard are still to be trained
    (expected,) = first
    assert (expected.trials, expected.finals) == (2, 2)
    assert expected.trial is not None
    assert expected.whole is not None
    assert 0 < expected.whole.low < expected.whole.likely < expected.whole.high


def test_what_a_search_may_cost_has_a_range_until_trials_say_it() -> None:
    forecast = Forecast(trainings=Span(0.1, 0.2, 0.4), most=1.0)
    before = forecast.expected([], 20, 1)
    assert (before.budget, before.budget_ends) == (5, (2, 10))
    assert before.trainings_span == Span(pytest.approx(0.8), pytest.approx(1.0), pytest.approx(1.0))
    free = Forecast(trainings=Span(0.1, 0.2, 0.4)).expected([], 20, 1)
    assert (free.budget_ends, free.trainings_span) == ((20, 20), Span(2.0, 4.0, 8.0))
    told = in_words(replace(before, whole=Span(60, 60, 60)))
    assert told.startswith("5 trials (2 to 10, by what they cost): ")
    assert told.endswith("; the search costs about 1 full training in tokens (0.8 to 1)")
    took = Tokens(trained=80, read=20, generated=0, full=800, full_scoring=200).metrics
    after = forecast.expected([Trial(0, 0, Outcome(0.5, took, 1.0))], 20, 1)
    assert after.budget_ends == (10, 10)
    assert after.trainings_span == Span(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {"knobs": {"epochs": {"values": [1, 2, 4]}}}},
        {"training": {"max_steps": 30}},
        {"scoring": {"metric": "token_f1", "max_new_tokens": 20}},
    ],
)
def test_a_search_costs_what_was_told_before(run_config: Callable[..., Path], changes: Any) -> None:
    """Lengths of trainings and of answers are not known before: the range that is told holds what came."""
    if "space" in changes:
        space = yaml.safe_load(run_config().read_text())["space"]
        changes = {"space": space | {"knobs": space["knobs"] | changes["space"]["knobs"]}}
    told: list[Event] = []
    tune(load_config(run_config(**changes)), told.append)
    (expected,) = [event for event in told if isinstance(event, Expected)]
    spent = [event.trainings for event in told if isinstance(event, TrialFinished)][-1]
    assert spent is not None
    assert expected.trainings_span is not None
    low, high = expected.trainings_span.low, expected.trainings_span.high
    assert high > 1.05 * low
    assert low <= expected.trainings <= high  # type: ignore[operator]
    assert 0.95 * low < spent < 1.05 * high  # rows differ in length
