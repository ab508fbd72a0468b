from __future__ import annotations

import math

import pytest

from loracle.records.space import default_space
from loracle.records.trial import TAKEN_BACK, Failure, FailureKind, History, Outcome, Trial
from loracle.report.wording import (
    knob_titles,
    nothing_succeeded,
    round_up,
    show_against,
    show_amount,
    show_amounts,
    show_change,
    show_config,
    show_difference,
    show_score,
    show_test,
    show_value,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[
            (2e-4, "2e-4"),
            (1.5e-5, "1.5e-5"),
            (0.05, "0.05"),
            (16, "16"),
            (0, "0"),
            (0.5, "0.5"),
            (1e6, "1e6"),
        ],
        *[(1234567, "1.234567e6"), (0.1234567, "0.1234567"), (123456.7, "123456.7"), (1e308, "1e308")],
    ],
)
def test_values_read_as_people_write_them_and_none_is_lost(value: float, text: str) -> None:
    assert show_value(value) == text
    assert float(text) == value


def test_configs_show_alpha_in_the_place_of_its_ratio() -> None:
    text = show_config(default_space().config(1234))
    assert text.startswith("rank ")
    assert "alpha_ratio" not in text
    assert text.index("alpha") < text.index("dropout")


def test_scores_read_as_their_metric_does() -> None:
    assert show_score(0.913, "exact_match") == "91.3 %"
    assert show_score(-1.25, "loss") == "1.2500"
    assert show_score(-0.125, "cost") == "0.125"


@pytest.mark.parametrize("metric", ["loss", "value", "cost"])
def test_huge_scores_stay_short(metric: str) -> None:
    for value in (1e308, -1e308, 1e160, -1e9):
        assert len(show_score(value, metric)) < 12


def test_test_scores_have_their_interval_or_say_what_failed() -> None:
    loss = Outcome(-1.2, {"low": -1.3, "high": -1.1})
    assert show_test(loss, "loss") == "1.2000 (1.1000 to 1.3000)"
    assert show_test(Outcome(0.5, {"low": 0.4, "high": 0.6}), "exact_match") == "50.0 % (40.0 to 60.0)"
    failed = Outcome(None, failure=Failure(FailureKind.DIVERGED, "loss is NaN"))
    assert show_test(failed, "loss") == "diverged"


@pytest.mark.parametrize("end", [math.nan, math.inf])
def test_an_interval_that_is_no_number_is_not_shown(end: float) -> None:
    assert show_test(Outcome(-1.2, {"low": -1.3, "high": end}), "loss") == "1.2000"


def test_metrics_of_an_own_trainer_are_no_interval_whatever_they_are_called() -> None:
    assert show_test(Outcome(3.0, {"low": 1.0, "high": 2.0}), "value") == "3"


def test_a_knob_with_the_name_of_a_column_is_told_from_it() -> None:
    assert knob_titles(["rank", "score"], ["trial", "score"]) == {"rank": "rank", "score": "score (knob)"}


def test_round_numbers() -> None:
    assert [round_up(x) for x in (3.2, 99.0, 1234.0, 1200.0)] == [4, 99, 1300, 1200]


def test_amounts_of_a_score_are_in_its_unit() -> None:
    assert show_amount(0.0324, "exact_match") == "3.24 points"
    assert show_amount(0.5, "value") == "0.5"
    assert show_amounts(-0.01, 0.0324, "exact_match") == "-1 to 3.24 points"
    assert show_change(-0.0324, "exact_match") == "\N{MINUS SIGN}3.24"
    assert show_change(0.02, "loss") == "+0.02"


def test_where_nothing_succeeded_it_says_how_and_what_helps() -> None:
    def failed(*failures: tuple[FailureKind, str]) -> History:
        outcomes = [Outcome(None, failure=Failure(kind, text)) for kind, text in failures]
        return History(tuple(Trial(i, i, outcome) for i, outcome in enumerate(outcomes)))

    nan, crash = (FailureKind.DIVERGED, "the result is nan"), (FailureKind.CRASHED, "ValueError: rank")
    said = nothing_succeeded(failed(nan, crash, nan))
    assert "nothing to recommend: 2 diverged, 1 crashed, the last one with: the result is nan." in said
    assert said.index("lower learning rates") < said.index("Mend what crashes")
    late = (FailureKind.TIMEOUT, "took longer than execution.time_limit, 0.3 s")
    said = nothing_succeeded(failed(late, late))
    assert "Give a larger execution.time_limit: with it and more search.trials the same loracle tune" in said
    assert "Mend what" not in said
    assert "larger objective.time_limit" in nothing_succeeded(
        failed((FailureKind.TIMEOUT, "took longer than objective.time_limit, 3 s"))
    )
    said = nothing_succeeded(failed((FailureKind.OUT_OF_MEMORY, "out of memory"), late, late))
    assert said.index("execution.time_limit: ") < said.index("lower data.max_length")
    taken_back = (FailureKind.INTERRUPTED, f"{TAKEN_BACK}: ValueError: rank")
    said = nothing_succeeded(failed(taken_back, taken_back))
    assert "(ValueError: rank). Once it is mended, the same loracle tune runs them again" in said
    assert nothing_succeeded(failed((FailureKind.INTERRUPTED, "stopped by the user"))) == ""
    assert nothing_succeeded(History()) == ""
    assert nothing_succeeded(History((Trial(0, 0, Outcome(1.0)), *failed(nan).trials))) == ""


def test_equal_scores_read_as_equal() -> None:
    ends = "(95 % interval of the difference -1 to 2 points)"
    assert show_difference(0.0, -0.01, 0.02, "exact_match") == f"equal {ends}"
    assert show_against(-0.0, -0.01, 0.02, "exact_match", "trial 2") == f"equal to trial 2 {ends}"
    better = "better by 3 points (95 % interval 1 to 5) than trial 2"
    assert show_against(0.03, 0.01, 0.05, "exact_match", "trial 2") == better


@pytest.mark.parametrize("metric", ["value", "cost", "loss", "perplexity", "exact_match", "bleu", "judge"])
def test_no_zero_has_a_sign(metric: str) -> None:
    for zero in (0.0, -0.0):
        found = Outcome(zero)
        assert found.value is not None
        assert math.copysign(1.0, found.value) == 1.0  # as files and `--json` have it
        shown = (show_score(zero, metric), show_change(zero, metric), show_amount(zero, metric))
        assert not [text for text in (*shown, show_value(zero)) if "-0" in text or "\N{MINUS SIGN}0" in text]
