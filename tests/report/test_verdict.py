"""What may be claimed about a result, and what not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loracle.records.sizes import Overlap
from loracle.records.space import Knob, SearchSpace, default_space
from loracle.records.trial import Failure, FailureKind, GuardReading, History, Outcome, Trial
from loracle.report.tables import comparison_json
from loracle.report.verdict import (
    Comparison,
    Difference,
    PassedOver,
    edges,
    guarded_search,
    headline,
    nothing_learnt,
    paired,
    relative_gain,
    result_notices,
    verdict,
    verdict_lines,
)

SPACE = default_space()
NAN = Failure(FailureKind.DIVERGED, "loss is NaN")


def compared(
    winner: float | None,
    standard: float | None,
    low: float,
    high: float,
    *,
    items: int = 200,
    differing: int = 50,
) -> Comparison:
    """A comparison with this interval around the difference of the two values."""
    sides = [Outcome(None, failure=NAN) if value is None else Outcome(value) for value in (winner, standard)]
    difference = None if winner is None or standard is None else winner - standard
    found = Comparison(SPACE.config(1234), SPACE.config(40), *sides, difference, low, high, items, differing)
    return found if difference is not None else replace(found, difference=None, low=None, high=None)


def said(comparison: Comparison, metric: str) -> str:
    return verdict(comparison, metric)


def test_a_gain_is_claimed_where_the_interval_excludes_zero() -> None:
    found = compared(0.9, 0.6, 0.2, 0.4)
    text = said(found, "exact_match")
    assert found.standing == "better"
    assert found.best == "winner"
    assert (
        "The winner is better than the standard settings: a test exact match of 90.0 % against 60.0 %" in text
    )
    assert "a relative gain of 50 %" in text
    assert "On the same 200 test items the winner is better by 30 points (95 % interval 20 to 40)." in text


def test_a_gain_on_items_that_were_trained_on_says_so_with_counts() -> None:
    found = compared(0.9, 0.6, 0.2, 0.4)
    seen = replace(found, overlap=Overlap(items=1200, rows=1, prompts=1000, chosen=2))
    assert (
        "Of the 1,200 test items, 1 was also trained on, 1,000 ask what a training row asks, 2 are in "
        "validation, whole or by prompt, where the settings were chosen: scores say less about new data "
        "than they seem to." in said(seen, "exact_match")
    )
    assert "Of the 200 test items, 3 were also trained on: scores" in said(
        replace(found, overlap=Overlap(200, rows=3)), "exact_match"
    )
    assert said(replace(found, overlap=Overlap(200)), "exact_match") == said(found, "exact_match")
    nothing = replace(compared(None, None, 0, 0), overlap=Overlap(200, rows=3))
    assert "also trained on" not in said(nothing, "exact_match")
    counts = "of these 1,200 test items 1 trained on, 1,000 asked in training, 2 in validation, too"
    assert headline(seen, "exact_match").endswith(f"on the same 200 test items; {counts}.")
    assert "trained on" not in headline(nothing, "exact_match")


def test_no_gain_is_claimed_where_the_interval_holds_zero() -> None:
    found = compared(-1.0, -1.03, -0.02, 0.08, items=100)
    text = said(found, "loss")
    assert found.standing == "no_difference"
    assert "relative gain" not in text
    assert "No difference between winner and standard settings can be told" in text
    assert "better by 0.03 nats a token (95 % interval -0.02 to 0.08)" in text
    # The interval narrows with the square root: (0.05 / 0.03)^2 times as many items.
    assert found.items_needed == 280
    assert "about 280 test items would be needed" in text
    assert "as far as these data tell, the standard settings are as good" in text


@pytest.mark.parametrize(("kept", "end"), [(True, "but they lose"), (False, "and both lose")])
def test_standard_settings_that_lose_a_guard_are_not_called_as_good_without_it(kept: bool, end: str) -> None:
    lost = GuardReading("loss", -1.0, -2.0, -1.0, -1.1, -0.9, 0.1, 50)
    fine = replace(lost, value=-1.0, change=0.0, low=-0.05, high=0.05)
    winner = Outcome(0.5, guards={"text": fine if kept else lost})
    standard = Outcome(0.49, guards={"text": lost})
    found = Comparison({"rank": 8}, {"rank": 16}, winner, standard, 0.01, -0.02, 0.04, 100, 20)
    assert found.best == "winner"
    text = verdict(found, "exact_match")
    assert f"the standard settings are as good, {end} what must not be lost." in text


def test_a_worse_winner_is_called_worse_and_is_not_what_best_holds() -> None:
    found = compared(-1.0616, -1.0, -0.08, -0.04)
    text = said(found, "loss")
    assert (found.standing, found.best) == ("worse", "standard")
    assert "The winner is worse than the standard settings" in text
    assert "worse by 0.0616 nats a token (95 % interval 0.04 to 0.08)" in text
    assert "`best/` holds the standard settings" in text
    assert "better" not in text
    assert "relative gain" not in text


def test_equal_scores_are_called_equal() -> None:
    text = said(compared(0.5, 0.5, -0.03, 0.03), "exact_match")
    assert "the two score the same (95 % interval of the difference -3 to 3 points)" in text
    assert "more test data are needed" in text


@pytest.mark.parametrize("differing", [1, 5])
def test_a_few_items_prove_nothing_however_narrow_their_interval(differing: int) -> None:
    found = compared(1.0, 0.0, 1.0, 1.0, items=differing, differing=differing)  # a bootstrap of equal items
    assert found.standing == "no_difference"
    assert "relative gain" not in said(found, "exact_match")
    assert f"differ on only {differing} item{'s' * (differing > 1)}, which is too few" in said(
        found, "exact_match"
    )
    assert found.items_needed is not None
    assert found.items_needed >= 6
    short = headline(found, "exact_match")
    plural = "s" * (differing > 1)
    assert short.startswith("No difference beyond noise: ")
    assert f"but they differ on only {differing} item{plural}, which is too few to tell a difference" in short
    stated = comparison_json(found, "exact_match")["difference"]
    assert stated["differing"] == differing
    assert stated["why_not_told"] == f"they differ on only {differing} item{plural}, which is too few"


def test_a_tiny_difference_asks_for_more_data_than_can_be_named() -> None:
    assert compared(-1.0, -1.0000001, -0.1, 0.1).items_needed is None
    assert "more test data are needed" in said(compared(-1.0, -1.0000001, -0.1, 0.1), "loss")


def test_a_run_that_found_the_standard_settings_says_so() -> None:
    outcome = Outcome(-1.0)
    found = Comparison(SPACE.config(40), SPACE.config(40), outcome, outcome, same=True)
    assert found.standing == "same"
    assert verdict(found, "loss").startswith("The winner is the standard settings")
    assert paired(found, "loss") == ""
    assert headline(found, "loss").startswith(
        "Nothing better found: the winner is the standard settings: no "
    )


def guarded(history: History, winner: int) -> Comparison:
    outcome, config = Outcome(0.3), SPACE.config(winner)
    found = Comparison(config, config, outcome, outcome, same=True)
    return replace(found, guarded=guarded_search(SPACE, history, config))


def test_standard_settings_that_won_as_the_others_lose_a_guard_say_so() -> None:
    def reading(change: float) -> GuardReading:
        return GuardReading("loss", -1.0, -1.0 + change, change, change, change, 0.1, 50)

    def trial(number: int, value: float, **changes: float) -> Trial:
        guards = {name: reading(change) for name, change in changes.items()}
        return Trial(number, 40 + number, Outcome(value, guards=guards))

    first, lost = trial(0, 0.12, text=0.0), trial(1, 0.92, text=-1.0)
    found = guarded(History((first, lost)), 40)
    why = "with 92.0 % in validation where these scored 12.0 %"
    assert f": the one other config that was tried loses text, at best {why}. They" in verdict(
        found, "exact_match"
    )
    found = guarded(History((first, lost, trial(2, 0.4, text=-1.0, sums=-2.0))), 40)
    for said in (verdict(found, "exact_match"), headline(found, "exact_match")):
        assert f": all the 2 others that were tried lose text and sums, at best {why}. They" in said
    found = guarded(History((first, lost, trial(2, 0.4, text=-1.0), trial(3, 0.1, text=0.0))), 40)
    rest = "and of those that keep it none is trusted more"
    assert f": 2 of the 3 others that were tried lose text, at best {why}, {rest}. They" in verdict(
        found, "exact_match"
    )
    found = guarded(History((trial(0, 0.12, text=-0.2), lost)), 40)
    assert ": all that were tried lose text, others more than these, at best" in verdict(found, "exact_match")
    found = guarded(History((first, trial(1, 0.1, text=-1.0))), 40)
    assert "no others are trusted more" in verdict(found, "exact_match")
    passed = replace(found, passed_over=(PassedOver(SPACE.config(41), Outcome(None, failure=NAN)),))
    assert "what led failed or lost what must not be lost in its final training" in headline(passed, "loss")


def test_failed_finals_are_named_and_not_compared() -> None:
    winner_failed = compared(None, 0.5, 0, 0)
    assert (winner_failed.standing, winner_failed.best) == ("not_compared", "standard")
    assert "The winner failed in its final training (diverged)" in verdict(winner_failed, "exact_match")
    assert "`best/` holds the standard settings" in verdict(winner_failed, "exact_match")
    standard_failed = compared(0.5, None, 0, 0)
    assert standard_failed.best == "winner"
    assert "the standard settings failed (diverged)" in verdict(standard_failed, "exact_match")
    both = compared(None, None, 0, 0)
    assert "nothing was compared" in verdict(both, "exact_match")
    for found in (winner_failed, standard_failed, both):
        assert "relative gain" not in said(found, "exact_match")
        assert paired(found, "exact_match") == ""


def test_one_number_of_an_own_trainer_is_not_taken_for_certain() -> None:
    config = {"lr": 1e-3}
    worse = Comparison(config, {"lr": 1e-4}, Outcome(-0.30), Outcome(-0.25))
    assert worse.best == "standard"
    assert "worse than the standard settings: a cost of 0.3 against 0.25" in verdict(worse, "cost")
    assert "one run each and no interval, so chance plays a part" in verdict(worse, "cost")
    assert "`best.yaml` holds the standard settings" in verdict(worse, "cost")
    alone = Comparison(config, None, Outcome(0.7), None)
    none = "and there are no standard settings to compare it with: lr 1e-3."
    assert verdict(alone, "value") == f"The winner reaches a value of 0.7, {none}"
    assert headline(alone, "value") == f"Nothing was compared: the winner reaches a value of 0.7, {none}"
    assert alone.exit_code == 3
    same = "the search learnt nothing: all 3 trials that succeeded scored the same (value 0.5)"
    assert headline(alone, "value", scored(0.5, 0.5, 0.5)).endswith(f"lr 1e-3; {same}.")
    assert headline(alone, "value", scored(0.5, 0.6)) == headline(alone, "value")


def test_gains_are_relative_to_the_standard_and_never_without_meaning() -> None:
    assert relative_gain(0.9, 0.6, "exact_match") == pytest.approx(0.5)
    assert relative_gain(-0.9, -1.2, "loss") == pytest.approx(0.25)
    assert relative_gain(0.5, 0.0, "exact_match") is None
    assert relative_gain(1e308, -1e308, "value") is None
    for name in ("judge", "mine.py:closeness", "lm_eval:task", "0.5*loss + 0.5*bleu"):  # no zero of their own
        assert relative_gain(-0.1, -5.0, name) is None
    assert relative_gain(-10.0, -20.0, "perplexity") == 0.5


def scored(*values: float) -> History:
    return History(tuple(Trial(i, 40 + i, Outcome(value)) for i, value in enumerate(values)))


def test_nothing_is_called_best_when_all_trials_scored_the_same() -> None:
    history = scored(0.0, 0.0, 0.0)
    text = verdict(compared(0.0, 0.0, 0.0, 0.0), "exact_match", history)
    assert text.startswith(
        "The search learnt nothing: all 3 trials that succeeded scored the same (exact match 0.0 %)"
    )
    assert "no config is known to be better than another" in text
    assert "scoring.max_new_tokens" in text
    assert "best settings" not in text
    assert "scoring.metric loss" in nothing_learnt(scored(1.0, 1.0), "exact_match")
    assert "can tell configs apart" in nothing_learnt(scored(0.0, 0.0), "minimize mine.py:word_errors")
    assert "learning rates" in nothing_learnt(scored(-2.0, -2.0), "loss")
    assert "settings it is given" in nothing_learnt(scored(0.0, 0.0), "value")


def test_scores_that_differ_or_a_single_one_say_nothing_of_the_kind() -> None:
    assert nothing_learnt(scored(0.0, 0.1), "exact_match") == ""
    assert nothing_learnt(scored(0.0), "exact_match") == ""
    assert nothing_learnt(History(), "exact_match") == ""


# -- the edge of the space --------------------------------------------------------------------------

EDGY = SearchSpace(
    (
        Knob("rank", (1, 2, 4), "log2"),
        Knob("dropout", (0.0, 0.05, 0.1)),
        Knob("batch_size", (4, 8), "log2"),
        Knob("learning_rate", (1e-4, 1e-3, 1e-2), "log10"),
    )
)


def test_a_winner_at_the_edge_is_told_with_the_knob_and_what_to_widen() -> None:
    config = {"rank": 2, "dropout": 0.05, "batch_size": 8, "learning_rate": 1e-2}
    (notice,) = result_notices(Comparison(config, None, Outcome(0.5), None), EDGY, scored(0.1, 0.5), "value")
    assert notice.name == "winner_at_edge"
    assert "learning_rate 0.01 (the highest)" in notice.text
    assert "space.knobs.learning_rate" in notice.text
    assert edges(EDGY, {**config, "rank": 4, "learning_rate": 1e-4}) == [
        ("rank", 4, "highest"),
        ("learning_rate", 1e-4, "lowest"),
    ]


def test_where_nothing_lies_beyond_nothing_is_said() -> None:
    inside = {"rank": 1, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-3}  # natural ends, two values
    assert edges(EDGY, inside) == []
    assert result_notices(Comparison(inside, None, Outcome(0.5), None), EDGY, scored(0.1, 0.5), "value") == ()


def test_where_the_winner_lies_means_nothing_when_all_scored_the_same() -> None:
    config = {"rank": 4, "dropout": 0.05, "batch_size": 8, "learning_rate": 1e-2}
    found = Comparison(config, None, Outcome(0.5), None)
    assert result_notices(found, EDGY, scored(0.5, 0.5), "value") == ()
    all_right = Comparison(config, None, Outcome(1.0), None)
    assert result_notices(all_right, EDGY, scored(0.5, 1.0), "exact_match") == ()


def test_a_batch_of_all_examples_is_no_edge_and_a_constraint_is() -> None:
    knobs = (Knob("batch_size", (4, 8, 16, 32)), Knob("learning_rate", (1e-4, 1e-3, 1e-2, 1e-1), "log10"))
    space = SearchSpace(knobs, ("learning_rate < 0.05",), batch_limit=16)
    assert edges(space, {"batch_size": 16, "learning_rate": 1e-3}) == []
    assert edges(space, {"batch_size": 8, "learning_rate": 1e-2}) == [("learning_rate", 1e-2, "highest")]


def by_loss(low: float, high: float, differing: int = 50) -> Difference:
    mean = (low + high) / 2
    return Difference("loss", -1.2 + mean, -1.2, mean, low, high, 100, differing)


@pytest.mark.parametrize(
    ("ends", "other", "standing", "code", "best", "sentence"),
    [
        (
            (0.1, 0.3),
            (0.1, 0.3),
            "better",
            0,
            "winner",
            "better than the standard settings by exact match and",
        ),
        (
            (0.1, 0.3),
            (-0.1, 0.3),
            "better",
            0,
            "winner",
            "by exact match, and no difference is told by the o",
        ),
        ((-0.1, 0.3), (0.1, 0.3), "better", 0, "winner", "better than the standard settings by loss, and no"),
        (
            (0.1, 0.3),
            (-0.3, -0.1),
            "trade_off",
            3,
            "winner",
            "better than the standard settings by exact match",
        ),
        (
            (-0.3, -0.1),
            (-0.1, 0.1),
            "worse",
            4,
            "standard",
            "worse than the standard settings by exact match",
        ),
        ((-0.1, 0.1), (-0.1, 0.1), "no_difference", 3, "winner", "can be told by any of the objectives"),
    ],
)
def test_of_several_objectives_the_verdict_says_what_each_tells(
    ends: tuple[float, float],
    other: tuple[float, float],
    standing: str,
    code: int,
    best: str,
    sentence: str,
) -> None:
    config = {"rank": 8.0}
    outcomes = (Outcome(0.5, {"test_loss": 1.0}), Outcome(0.4, {"test_loss": 1.2}))
    mean = sum(ends) / 2
    found = Comparison(config, {"rank": 16.0}, *outcomes, mean, *ends, 100, 50, others=(by_loss(*other),))
    assert (found.standing, found.exit_code, found.best) == (standing, code, best)
    lines = verdict_lines(found, "exact_match")
    assert sentence in lines[0]
    assert lines[1].startswith("By exact match 50.0 % against 40.0 %, ")
    assert lines[2].startswith("By loss ")
    assert ("zero is inside" in lines[2]) == (other[0] <= 0 <= other[1])
    head = headline(found, "exact_match")
    assert "; loss " in head
    assert head.startswith("Better by one objective, worse by another: ") == (standing == "trade_off")


def test_an_objective_without_items_and_a_few_items_are_told_with_care() -> None:
    assert by_loss(0.1, 0.3, differing=5).told == "no_difference"
    assert Difference("loss", -1.0, -1.2).told == "untested"
    assert Difference("loss", -1.2, -1.0).told == "worse"
    assert Difference("loss", None, -1.2).told == "no_difference"


def test_trials_that_differ_by_another_objective_have_taught_something() -> None:
    trials = [Trial(i, i, Outcome(0.0, {"validation_loss": 1.0 + i})) for i in range(3)]
    history = History(tuple(trials))
    assert nothing_learnt(history, "exact_match") != ""
    assert nothing_learnt(history, "exact_match", ["loss"]) == ""
