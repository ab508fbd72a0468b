"""Several objectives as one: ranks, the front, and a search that spreads over it."""

from __future__ import annotations

import numpy as np
import pytest

from loracle.records.space import default_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.objectives import front_rows, pareto_notice, pareto_set
from loracle.run.search import Search
from loracle.search.outputs import as_one, drawn_weights, on_front
from loracle.search.presets import PRESETS

SPACE = default_space()
OBJECTIVES = ("exact_match", "loss")


def test_the_front_is_what_no_other_row_dominates() -> None:
    values = np.array([[1.0, 0], [0, 1], [0.5, 0.5], [0.4, 0.5], [1, 0], [0, 0]])
    assert on_front(values).tolist() == [True, True, True, False, True, False]


def test_a_maximum_of_the_one_score_is_on_the_front_whatever_the_units() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(40, 3))
    for round_ in range(20):
        weights = drawn_weights(3, 7, round_)
        assert weights.sum() == pytest.approx(1)
        one = as_one(values, weights)
        assert on_front(values)[one.argmax()]
        np.testing.assert_array_equal(one, as_one(np.exp(3 * values) * [1, 1e6, 1e-6], weights))
    assert not np.array_equal(drawn_weights(3, 7, 0), drawn_weights(3, 7, 1))
    np.testing.assert_array_equal(drawn_weights(3, 7, 1), drawn_weights(3, 7, 1))


def scored(number: int, index: int) -> Trial:
    """Two goals that want different learning rates, and say nothing else."""
    rate = float(SPACE.coordinates([index])[0, 4])
    loss = 1 + (rate - 0.8) ** 2  # less is better
    return Trial(number, index, Outcome(1 - (rate - 0.4) ** 2, {"validation_loss": loss}))


def run(search: Search, n: int, history: History | None = None) -> History:
    history = history or History()
    for number in range(len(history.trials), n):
        index = search.next(history)
        assert index is not None
        history = History((*history.trials, scored(number, index)))
    return history


def rates(history: History) -> np.ndarray:
    return np.round(SPACE.coordinates([trial.index for trial in history.trials])[:, 4], 6)


def test_a_search_spreads_over_the_front_and_goes_on_as_if_it_had_not_stopped() -> None:
    search = Search(SPACE, PRESETS["default"], None, 0, objectives=OBJECTIVES)
    history = run(search, 14)
    late = rates(history)[4:]
    assert late.min() < 0.6 < late.max()  # both ends of what lies between the two goals
    assert run(search, 14, History(history.trials[:9])) == history
    front = pareto_set(history, OBJECTIVES)
    assert {trial.number for trial in front} <= {trial.number for trial in history.trials}
    assert len(front) > 1
    leader = search.leader(history)
    assert leader in front
    assert leader is not None
    assert leader.outcome is not None
    assert leader.outcome.value == 1 - (float(SPACE.coordinates([leader.index])[0, 4]) - 0.4) ** 2
    assert search.ranking(history)[0] == leader.index
    rows = front_rows(SPACE, history, OBJECTIVES, leader.index)
    assert rows[0][-2:] == ["exact match", "loss"]
    assert [row[0] for row in rows if "winner" in row[0]] == [f"{leader.number} (winner)"]
    (notice,) = pareto_notice(history, OBJECTIVES, leader.index)
    assert notice.count == len(front)
    assert "not on the front" not in notice.text
    beside = next(trial for trial in history.trials if trial not in front)
    (notice,) = pareto_notice(history, OBJECTIVES, beside.index)
    assert f"It is trial {beside.number}, which is not on the front" in notice.text
    assert not pareto_notice(history, (), leader.index)


def test_failed_and_interrupted_trials_are_no_part_of_it() -> None:
    search = Search(SPACE, PRESETS["default"], None, 0, objectives=OBJECTIVES)
    history = run(search, 5)
    failed = Trial(5, history.trials[0].index + 1, Outcome(None, failure=Failure(FailureKind.DIVERGED, "x")))
    cut = Trial(5, 3, Outcome(None, failure=Failure(FailureKind.INTERRUPTED, "x")))
    assert search.next(History((*history.trials, cut))) == search.next(history)
    assert failed not in pareto_set(History((*history.trials, failed)), OBJECTIVES)
    assert search.next(History((*history.trials, failed))) is not None
    assert pareto_set(History(), OBJECTIVES) == []
