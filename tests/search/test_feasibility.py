"""A search that has to keep something: what it proposes, and what it recommends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loracle.records.space import SearchSpace, default_space
from loracle.records.trial import GuardReading, History, Outcome, Trial
from loracle.search.feasibility import Feasibility
from loracle.search.presets import PRESETS, get_preset
from loracle.search.propose import propose, ranking

SPACE = default_space()


def reading(slack: float) -> GuardReading:
    return GuardReading("loss", -1.0, -1.0 + slack - 0.15, slack - 0.15, slack - 0.2, slack - 0.1, 0.1, 100)


def step(index: int) -> float:
    """Size of a step, in decades: what is learnt grows with it, and so does what is forgotten."""
    config = SPACE.config(index)
    return float(np.log10(config["learning_rate"] * config["alpha_ratio"]))


def trained(number: int, index: int, *, border: float | None = -3.5) -> Trial:
    """The score grows with the step up to -2.5; what is beyond the border is forgotten."""
    value = -abs(step(index) + 2.5)
    guards = {} if border is None else {"known": reading(border - step(index))}
    return Trial(number, index, Outcome(value, guards=guards))


def searched(n: int, preset: str = "default", border: float | None = -3.5) -> History:
    history = History()
    for number in range(n):
        (index,) = propose(SPACE, history, get_preset(preset))
        history = History((*history.trials, trained(number, index, border=border)))
    return history


@pytest.mark.parametrize("preset", ["default", "numeric"])
def test_a_search_goes_up_to_what_is_kept_and_recommends_nothing_beyond(preset: str) -> None:
    history = searched(14, preset)
    kept = [t for t in history.trials if t.outcome and not t.outcome.broken]
    best = ranking(SPACE, history, PRESETS[preset])[0]
    assert step(best) <= -3.5 + 1e-9
    assert step(best) > -4.3  # the border is found, and not merely kept away from
    assert len(kept) >= 5
    free = searched(14, preset, border=None)
    assert step(ranking(SPACE, free, PRESETS[preset])[0]) > -3.5  # which the score alone would choose


def test_while_nothing_keeps_it_the_search_looks_for_what_does() -> None:
    lost = [i for i in SPACE.candidates.tolist() if step(i) > -2.8][:3]
    history = History(tuple(trained(n, index) for n, index in enumerate(lost)))
    (index,) = propose(SPACE, history, replace(get_preset("numeric"), seed_configs=()))
    assert step(index) < -3.5
    assert ranking(SPACE, history, get_preset("default"))[0] == min(lost, key=step)


def test_the_probability_falls_where_guards_were_broken() -> None:
    history = searched(12)
    found = Feasibility.of(SPACE, history)
    assert found is not None
    small = np.array([i for i, index in enumerate(SPACE.candidates.tolist()) if step(index) < -4.5])
    large = np.array([i for i, index in enumerate(SPACE.candidates.tolist()) if step(index) > -2.5])
    likely = [np.exp(found.log_probability([], rows)).mean() for rows in (small, large)]
    assert likely[0] > 0.8
    assert likely[1] < 0.2
    assert Feasibility.of(SPACE, searched(3, border=None)) is None


def test_ranking_puts_what_keeps_first_and_then_what_loses_least() -> None:
    space: SearchSpace = SPACE
    indices = space.candidates[:4].tolist()
    slack = [-3.0, 0.5, -1.0, 0.1]
    values = [0.9, 0.2, 0.8, 0.3]
    history = History(
        tuple(
            Trial(n, i, Outcome(v, guards={"known": reading(s)}))
            for n, (i, v, s) in enumerate(zip(indices, values, slack, strict=True))
        )
    )
    order = ranking(space, history, PRESETS["paper"])
    assert order == [indices[3], indices[1], indices[2], indices[0]]
