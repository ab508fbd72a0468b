from __future__ import annotations

import pytest

from loracle.records.trial import Failure, FailureKind, Outcome, Tokens
from loracle.report.findings.search_cost import search_cost, show_trainings


def outcome(trained: int, read: int = 0, generated: int = 0, kind: FailureKind | None = None) -> Outcome:
    metrics = Tokens(trained, read, generated, full=900, full_scoring=read + generated).metrics
    if kind is None:
        return Outcome(0.5, metrics)
    return Outcome(None, metrics, failure=Failure(kind, "no"))


def test_cost_is_in_trainings_on_all_data_with_their_scoring() -> None:
    found = search_cost([outcome(90, 60, 20), outcome(90, 60, 60)])
    assert found is not None
    assert found.one_training == 900 + 100  # 80 and 120 of scoring
    assert found.trainings == pytest.approx((150 + 20 + 150 + 60) / 1000)


def test_a_full_training_is_scored_on_all_examples_where_trials_are_on_some() -> None:
    some = Outcome(0.5, Tokens(90, 20, 0, full=900, full_scoring=100).metrics)
    before = Outcome(0.5, {n: v for n, v in some.metrics.items() if n != "full_scoring_tokens"})
    for outcome_, one in (
        (some, 1000),
        (before, 920),
    ):  # a version did not count it, and knew the trial's alone
        found = search_cost([outcome_])
        assert found is not None
        assert found.trainings == pytest.approx(110 / one)


def test_what_failed_had_its_price() -> None:
    diverged = outcome(40, kind=FailureKind.DIVERGED)
    interrupted = Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "stopped"))
    found = search_cost([outcome(90, 100), diverged, interrupted])
    assert found is not None
    assert found.trainings == pytest.approx(0.23)


def test_nothing_is_guessed() -> None:
    old = Outcome(0.5, {"tokens": 90.0})  # of a run that was begun before tokens were counted
    assert search_cost([]) is None
    assert search_cost([outcome(90, kind=FailureKind.DIVERGED)]) is None
    assert search_cost([outcome(90, 100), old]) is None


def test_one_is_one() -> None:
    assert show_trainings(1.0) == "1 full training"
    assert show_trainings(0.4449) == "0.445 full trainings"
    assert show_trainings(12.345) == "12.3 full trainings"
