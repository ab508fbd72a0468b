"""Explanations: numbers that are those of the search, and sentences that are those of the numbers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Loracle
from finished_runs import finish

from loracle.config.settings import NO_DATA, RunConfig
from loracle.errors import StudyError
from loracle.records.space import default_space
from loracle.records.trial import Failure, FailureKind, GuardReading, History, Outcome, Trial
from loracle.report.explanation.reasons import Reasons
from loracle.report.explanation.records import (
    Conclusion,
    Evidence,
    Expected,
    Explanation,
    LostInFinals,
    Next,
    PriorWord,
)
from loracle.report.explanation.sentences import conclusion_line, next_line, proposal_lines, sentences
from loracle.report.verdict import Comparison
from loracle.search.presets import get_preset
from loracle.search.propose import propose
from loracle.text.quantities import show_share

SPACE = default_space()
CONFIG = RunConfig(model="", data=NO_DATA, execution={"cost_per_hour": 3.6})  # type: ignore[arg-type]
REASONS = Reasons(CONFIG, SPACE, get_preset("default"))


def loss(index: int) -> float:
    """Depends on the size of the step alone; least at 1e-3."""
    config = SPACE.config(index)
    return 1.0 + abs(math.log10(config["learning_rate"] * config["alpha_ratio"]) + 3.0)


def searched(n: int) -> History:
    history = History()
    for number in range(n):
        (index,) = propose(SPACE, history, get_preset("default"))
        outcome = Outcome(-loss(index), seconds=10.0 + number)
        history = History((*history.trials, Trial(number, index, outcome)))
    return history


@pytest.fixture(scope="module")
def history() -> History:
    return searched(12)


@pytest.fixture(scope="module")
def explained(history: History) -> Explanation:
    return REASONS.explain(history, tuple(range(12)))


def test_the_search_asked_again_gives_every_trial(explained: Explanation, history: History) -> None:
    assert [one.again for one in explained.proposals] == [True] * 12
    assert [one.source for one in explained.proposals[:2]] == ["named", "belief"]
    assert [one.known for one in explained.proposals] == list(range(12))
    assert [one.score for one in explained.proposals] == [loss(trial.index) for trial in history.trials]


def test_a_trial_after_nothing_but_divergence_is_said_to_have_smaller_steps() -> None:
    diverged, history = Outcome(None, failure=Failure(FailureKind.DIVERGED, "it diverged")), History()
    for number, outcome in enumerate((diverged, diverged, Outcome(-1.0))):
        (index,) = propose(SPACE, history, get_preset("default"))
        history = History((*history.trials, Trial(number, index, outcome)))
    explained = REASONS.explain(history, (0, 1, 2)).proposals
    assert [(one.source, one.again) for one in explained] == [
        ("named", True),
        ("divergence", True),
        ("divergence", True),
    ]
    said = ["The training before it had diverged", "Every training before it had diverged"]
    for proposal, words in zip(explained[1:], said, strict=True):
        assert f"{words}, so it has about a tenth of the learning rate." in proposal_lines(proposal, "loss")
        assert proposal.expected is None


def test_the_best_of_many_scores_is_said_to_be_partly_luck(explained: Explanation) -> None:
    chosen = explained.chosen
    assert chosen is not None
    assert explained.proposals[chosen.trial].score == chosen.score
    assert chosen.believed == pytest.approx(chosen.score, abs=0.3)  # there is no noise here
    said = f"without it {chosen.believed:.4f} is believed of its settings."
    lucky = replace(explained, chosen=replace(chosen, score=chosen.believed - 0.1))
    assert any(line.endswith(f"partly luck, and {said}") for line in sentences(lucky))
    worse = replace(explained, chosen=replace(chosen, score=chosen.believed + 0.1))
    said = f"; going by all trials, {chosen.believed:.4f} is believed of its settings."
    assert any(line.endswith(said) for line in sentences(worse))
    assert REASONS.explain(searched(1)).chosen is None


def test_what_was_expected_is_an_interval_that_mostly_holds_what_came(explained: Explanation) -> None:
    expected = [(one.expected, one.score) for one in explained.proposals if one.expected]
    scores = [one.score for one in explained.proposals]
    known = [len(set(scores[:n])) for n in range(len(scores))]
    # Before there were three different scores, nothing said what a difference is worth.
    assert len(expected) == sum(n >= 3 for n in known) >= 7
    assert all(e.low <= e.score <= e.high for e, _ in expected)
    assert all(0 <= e.chance <= 1 and e.gain >= 0 and e.keeps is None for e, _ in expected)
    assert sum(e.holds(score or 0, less_is_better=True) for e, score in expected) >= len(expected) - 2
    late = explained.proposals[-1].expected
    assert late is not None
    assert late.best == pytest.approx(1.0, abs=0.3)  # what the best known config really has


def test_the_nearest_evidence_is_the_nearest_and_its_differences_are_true(
    explained: Explanation, history: History
) -> None:
    for proposal in explained.proposals[1:]:
        near = proposal.nearest
        assert near is not None
        indices = [history.trials[n].index for n in range(proposal.trial + 1)]
        places = SPACE.coordinates(np.array(indices))
        away = ((places[:-1] - places[-1]) ** 2).sum(axis=1)
        assert away[near.trial] == away.min()
        there = SPACE.config(history.trials[near.trial].index)
        assert set(near.differs) == {n for n in SPACE.names if there[n] != proposal.config[n]}
        assert near.score == loss(history.trials[near.trial].index)


def test_the_second_trial_is_what_the_prior_likes(explained: Explanation) -> None:
    word = explained.proposals[1].prior
    assert word is not None
    assert word.share < 0.1
    assert 0 <= word.weight <= 1


def test_conclusions_say_which_knobs_matter_and_the_next_experiment_is_the_next_proposal(
    explained: Explanation, history: History
) -> None:
    drawn = np.random.default_rng(0).choice(SPACE.candidates, 24, replace=False)
    spread = History(tuple(Trial(i, int(k), Outcome(-loss(int(k)))) for i, k in enumerate(drawn)))
    knobs = {one.name: one for one in REASONS.explain(spread).conclusions if one.about == "knob"}
    assert knobs["learning_rate"].safe
    assert not knobs["dropout"].safe
    assert all(one.safe == (one.low > 0 or one.high < 0) for one in explained.conclusions)
    assert [one.safe for one in explained.conclusions] == sorted(
        (one.safe for one in explained.conclusions), reverse=True
    )
    (index,) = propose(SPACE, history, get_preset("default"))
    assert explained.next is not None
    assert explained.next.config == SPACE.config(index)
    assert explained.next.seconds == pytest.approx(15.5)
    assert explained.next.cost == pytest.approx(3.6 * 15.5 / 3600)


def test_the_verdict_is_a_conclusion_and_is_safe_where_it_is_told(history: History) -> None:
    settings = SPACE.config(0)
    told = Comparison(settings, settings, Outcome(-1.0), Outcome(-1.4), 0.4, 0.3, 0.5, 100, 50)
    for comparison, safe in ((told, True), (replace(told, low=-0.1), False)):
        found = REASONS.explain(history, (), comparison)
        (one,) = (one for one in found.conclusions if one.about == "standard")
        assert (one.safe, one.difference, one.low, one.high) == (safe, 0.4, comparison.low, 0.5)


def test_what_won_in_the_end_leads_whatever_the_search_ranked_first(
    explained: Explanation, history: History
) -> None:
    assert explained.chosen is not None
    other = next(trial for trial in history.trials if trial.number != explained.chosen.trial)
    winner = SPACE.config(other.index)
    found = REASONS.explain(history, (), Comparison(winner, winner, Outcome(-1.0), Outcome(-1.0)))
    assert found.chosen is not None
    assert (found.chosen.trial, found.chosen.score) == (other.number, loss(other.index))
    (runner_up,) = (one for one in found.conclusions if one.about == "runner_up")
    assert runner_up.name == f"trial {explained.chosen.trial}"


def test_what_lies_within_the_noise_of_scoring_is_not_safe() -> None:
    """The same trials, scored on many items and on few."""
    scoring = CONFIG.scoring.model_copy(update={"metric": "exact_match"})
    reasons = Reasons(CONFIG.model_copy(update={"scoring": scoring}), SPACE, get_preset("default"))
    drawn = np.random.default_rng(0).choice(SPACE.candidates, 24, replace=False)
    trials = [Trial(i, int(k)) for i, k in enumerate(drawn)]

    def concluded(half: float) -> list[bool]:
        shares = [1 - loss(trial.index) / 5 for trial in trials]
        outcomes = [Outcome(share, {"low": share - half, "high": share + half}) for share in shares]
        scored = [replace(trial, outcome=one) for trial, one in zip(trials, outcomes, strict=True)]
        return [one.safe for one in reasons.explain(History(tuple(scored))).conclusions]

    assert any(concluded(0.01))
    assert not any(concluded(0.5))


def test_odd_runs_have_explanations() -> None:
    nothing = REASONS.explain(History())
    assert nothing.conclusions == ()
    assert nothing.next is not None
    assert nothing.next.expected is None
    assert "Nothing can be concluded yet." in list(sentences(nothing))
    failed = Outcome(None, failure=Failure(FailureKind.DIVERGED, "NaN"))
    history = History((Trial(0, 40, failed), Trial(1, 77)))
    found = REASONS.explain(history, (0, 1))
    assert [one.failure for one in found.proposals] == ["diverged", None]
    assert "It failed: diverged." in list(sentences(found))
    assert "It is not over." in list(sentences(found))
    with pytest.raises(StudyError, match="there is no trial 7"):
        REASONS.explain(history, (7,))


def test_guards_are_a_part_of_the_expectation() -> None:
    reading = GuardReading("loss", -1.0, -1.0, 0.0, -0.01, 0.01, 0.02, 50)
    history = searched(6)
    watched = History(
        tuple(
            replace(t, outcome=replace(t.outcome, guards={"a": reading})) for t in history.trials if t.outcome
        )
    )
    (one,) = REASONS.explain(watched, (5,)).proposals
    assert one.expected is not None
    assert one.expected.keeps is not None
    said = f"one of {show_share(one.expected.keeps)} to keep what must not be lost"
    assert said in " ".join(proposal_lines(one, "loss"))


def test_conclusions_and_the_next_experiment_say_what_guards_are_lost_or_kept() -> None:
    history = searched(6)
    best = max(history.succeeded, key=lambda trial: trial.outcome.value if trial.outcome else -1e9)

    def watched(trial: Trial) -> Trial:
        change = 0.0 if trial is not best else -1.0
        guards = {"a": GuardReading("loss", -1.0, -1.0 + change, change, change, change, 0.02, 50)}
        assert trial.outcome is not None
        return replace(trial, outcome=replace(trial.outcome, guards=guards))

    two = [watched(best), watched(next(trial for trial in history.succeeded if trial is not best))]
    found = REASONS.explain(History(tuple(sorted(two, key=lambda trial: trial.number))), (best.number,))
    assert "and lost a" in " ".join(proposal_lines(found.proposals[0], "loss"))
    (rival,) = [one for one in found.conclusions if one.about == "runner_up"]
    assert rival.broken == ("a",)
    assert conclusion_line(rival, "loss").endswith(f"than that of trial {best.number}, which lost a.")
    knobs = [one for one in found.conclusions if one.about == "knob"]
    assert all(one.keeps is not None and 0 <= one.keeps <= 1 for one in knobs)
    assert all(
        conclusion_line(one, "loss").endswith("to keep what must not be lost in a trial.") for one in knobs
    )
    everything = History(tuple(watched(trial) for trial in history.trials if trial.outcome))
    following = REASONS.explain(everything).next
    assert following is not None
    assert following.expected is not None
    assert following.expected.keeps is not None
    assert f"and one of {show_share(following.expected.keeps)} to keep" in next_line(following, "loss")
    assert following.rows is None
    assert next_line(following, "loss").endswith("to keep what must not be lost in a trial.")


def test_what_the_winner_does_to_a_guard_is_a_conclusion_and_is_safe_where_the_items_tell_it(
    history: History,
) -> None:
    def reading(change: float, half: float, items: int = 50) -> GuardReading:
        return GuardReading(
            "exact_match", 0.9, 0.9 + change, change, change - half, change + half, 0.1, items
        )

    guards = {
        "lost": reading(-0.3, 0.05),
        "kept": reading(-0.02, 0.05),
        "open": reading(-0.08, 0.05),
        "one number": reading(-0.3, 0.0, 0),
    }
    winner, standard = Outcome(-1.0, guards=guards), Outcome(-1.2)
    config = SPACE.config(history.trials[0].index)
    comparison = Comparison(config, {**config, "rank": 1}, winner, standard, 0.2, 0.1, 0.3, 50, 50)
    found = [one for one in REASONS.explain(history, (), comparison).conclusions if one.about == "guard"]
    assert {one.name: one.safe for one in found} == {
        "lost": True,
        "kept": True,
        "open": False,
        "one number": False,
    }
    said = {one.name: conclusion_line(one, "loss") for one in found}
    assert said["lost"] == (
        "Safe: the winner loses lost, against the base model worse by 30 points (95 % interval 25 to 35), "
        "where 10 points may be lost."
    )
    assert said["open"].startswith(
        "Not safe: the winner keeps open, against the base model worse by 8 points"
    )


def test_the_next_experiment_says_that_final_trainings_lost_what_trials_keep() -> None:
    """A chance to keep the guards is of a trial, on few rows: what trainings on all of them lose is said."""

    def outcome(value: float, rows: int, change: float) -> Outcome:
        guards = {"general": GuardReading("loss", -2.0, -2.0 + change, change, change, change, 0.2, 50)}
        return Outcome(value, {"n_examples": float(rows)}, seconds=10.0, guards=guards)

    trials = tuple(
        replace(trial, outcome=outcome(trial.outcome.value or 0.0, 600, 0.0))
        for trial in searched(5).trials
        if trial.outcome
    )
    history, config = History(trials), SPACE.config(trials[2].index)
    lost, kept = outcome(-1.0, 6000, -0.5), outcome(-1.1, 6000, -0.1)
    told = (-0.1, 0.0, 0.2, 50, 50)
    both = Comparison(config, {**config, "rank": 1}, lost, kept, *told)
    following = REASONS.explain(history, (), both).next
    assert following is not None
    assert following.expected is not None
    assert following.expected.keeps is not None
    assert (following.rows, following.lost) == (600, LostInFinals(2, {"general": 1}, 6000))
    said = next_line(following, "loss")
    assert said.endswith(
        "to keep what must not be lost in a trial, on 600 rows. A training on all data may lose more: of 2 "
        "final trainings, on all 6,000 rows, 1 lost general."
    )
    neither = Comparison(config, {**config, "rank": 1}, kept, kept, *told)
    for comparison in (neither, None):
        following = REASONS.explain(history, (), comparison).next
        assert following is not None
        assert following.lost is None
        assert next_line(following, "loss").endswith("must not be lost in a trial, on 600 rows.")


def test_where_scores_are_too_few_to_say_what_a_difference_is_worth_that_is_said() -> None:
    history = History(
        tuple(replace(t, outcome=replace(t.outcome, value=-1.0)) for t in searched(5).trials if t.outcome)
    )
    found = REASONS.explain(history, (3,))
    assert found.proposals[0].expected is None
    why = "cannot be told in scores: fewer than three different ones were known"
    assert why in " ".join(proposal_lines(found.proposals[0], "loss"))
    assert why in next_line(found.next, "loss")


def test_each_sentence_has_the_numbers_of_its_record(explained: Explanation) -> None:
    base = explained.proposals[5]
    made = replace(
        base,
        again=True,
        known=5,
        expected=Expected(1.25, 1.0, 1.5, 1.3, 0.062, 0.71),
        nearest=Evidence(3, 1.375, ("rank", "dropout")),
        prior=PriorWord(0.031, 0.84),
        score=1.625,
        failure=None,
    )
    said = list(proposal_lines(made, "loss"))
    assert said[1:] == [
        "It promised most of what was untried, after 5 trials.",
        "It was expected to score 1.2500 (95 % interval 1.0000 to 1.5000), where the best known "
        "config was believed to reach 1.3000: an expected gain of 0.062 nats a token, and a chance of 71 % "
        "to be better.",
        "The nearest evidence was trial 3, which scored 1.3750 and differs in rank and dropout.",
        "Of all candidates, the prior alone expects more of 3 %; its weight was 84 %.",
        "It scored 1.6250, outside the interval.",
    ]
    assert "the search would choose another" in " ".join(proposal_lines(replace(made, again=False), "loss"))
    share = Conclusion("standard", True, 0.05, 0.02, 0.08)
    assert conclusion_line(share, "exact_match") == (
        "Safe: on test items, the winner is better by 5 points (95 % interval 2 to 8) than the standard "
        "settings."
    )
    assert conclusion_line(share, "value").startswith("Safe: on the same items, the winner is better by 0.05")
    knob = Conclusion("knob", False, 0.3, -0.1, 0.5, "rank", 32.0)
    assert conclusion_line(knob, "loss") == (
        "Not safe: with all else as in the leading config, rank 32 is better by 0.3 nats a token "
        "(95 % interval -0.1 to 0.5) than its worst value."
    )
    following = Next(base.config, made.expected, 120.0, 0.12)
    assert next_line(following, "loss").endswith(
        "; a trial takes about 2 min and costs 0.12; expected gain 0.062 nats a token, a chance of 71 % to "
        "be better."
    )
    assert next_line(None, "loss") == "Every candidate was tried, so there is no next experiment."


def test_explain_prints_the_sentences_of_a_run_and_json_their_numbers(
    loracle: Loracle, tmp_path: Path, tiny_model: Path
) -> None:
    knobs = {"rank": [2, 4], "alpha_ratio": [2], "dropout": [0.0], "batch_size": [8], "learning_rate": [1e-3]}
    space = {"base": "empty", "knobs": {name: {"values": values} for name, values in knobs.items()}}
    run = finish(tmp_path, tiny_model, space=space, search={"trials": 2})
    code, out, err = loracle("explain", run, 1)
    assert (code, err) == (0, "")
    assert out.startswith("Trial 1 trained ")
    assert "Every candidate was tried" in out
    code, text, _ = loracle("explain", run, 1, "--json")
    content = json.loads(text)
    assert content["proposals"][0]["again"] is True
    assert content["sentences"] == out.strip().splitlines()
    code, out, err = loracle("explain", run, 9)
    assert (code, out) == (2, "")
    assert re.search(r"there is no trial 9; the run has 2", err)
