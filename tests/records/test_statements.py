"""What a user holds likely, in words: which candidates it doubts, and what is no belief."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loracle.errors import SpaceError
from loracle.records.space import Knob, SearchSpace, UserBeliefs, Value, default_space
from loracle.records.space.beliefs import LARGEST, Statement

SPACE = SearchSpace(
    (
        Knob("rank", (4, 8, 16, 32, 64), "log2"),
        Knob("alpha_ratio", (0.5, 1, 2), "log2"),
        Knob("learning_rate", (1e-5, 1e-4, 1e-3, 1e-2), "log10"),
        Knob("targets", ("all-linear", "attention"), "names"),
    )
)


def doubts(text: Value, name: str = "rank") -> list[float]:
    return Statement.parse(text).doubts(SPACE[name]).round(3).tolist()


@pytest.mark.parametrize(
    ("text", "none"),
    [
        ("around 16", {16}),
        ("at least 16", {16, 32, 64}),
        ("At Most 8", {4, 8}),
        ("between 8 and 32", {8, 16, 32}),
        ("probably 64", {64}),
        ("not 4", {8, 16, 32, 64}),
        ("16", {16}),
        (16, {16}),
    ],
)
def test_what_is_said_is_not_doubted_and_everything_else_is(text: Value, none: set[int]) -> None:
    found = dict(zip(SPACE["rank"].values, doubts(text), strict=True))
    assert {value for value, doubt in found.items() if doubt == 0} == none
    assert all(0 < doubt <= LARGEST for value, doubt in found.items() if value not in none)


def test_doubt_grows_with_the_distance_on_the_knobs_own_scale() -> None:
    found = doubts("around 1e-4", "learning_rate")
    assert found[0] == found[2] <= found[3]  # a decade below and above are as far
    near = doubts("around 16")
    assert near[0] > near[1] > near[2] == 0
    assert near[1] == near[3]


def test_names_have_no_order() -> None:
    assert doubts("probably attention", "targets") == [LARGEST, 0]
    assert doubts("not attention", "targets") == [0, LARGEST]


def test_a_space_that_has_ratios_can_be_told_of_alpha() -> None:
    alpha = SPACE.values(SPACE.candidates)["alpha"]
    found = UserBeliefs.of({"alpha": "at least 16"}).doubts(SPACE)
    assert (found[alpha >= 16] == 0).all()
    assert (found[alpha < 16] > 0).all()


def test_configs_speak_of_their_neighbours_and_of_the_knobs_that_they_name() -> None:
    config = {"rank": 16, "alpha": 32, "learning_rate": 1e-3, "targets": "attention"}
    index = SPACE.candidates.tolist().index(SPACE.nearest({**config, "alpha_ratio": 2}))
    good, bad = (UserBeliefs.of({}, **{kind: [config]}).doubts(SPACE) for kind in ("good", "bad"))
    assert good[index] == pytest.approx(0)
    assert bad[index] == pytest.approx(LARGEST)
    np.testing.assert_allclose(good + bad, LARGEST)
    assert UserBeliefs.of({"good": config}) == UserBeliefs.of({}, good=[config])  # as in a file
    partly = UserBeliefs.of({}, bad=[{"learning_rate": 1e-2}]).doubts(SPACE)
    rates = SPACE.values(SPACE.candidates)["learning_rate"]
    np.testing.assert_allclose(partly[rates == 1e-2], LARGEST)
    assert (partly[rates == 1e-5] < 0.1).all()


def test_several_beliefs_add_up_over_a_whole_space() -> None:
    space = default_space()
    one, other = {"learning_rate": "around 1e-4"}, {"rank": "at least 64"}
    both = UserBeliefs.of(one | other).doubts(space)
    np.testing.assert_allclose(both, UserBeliefs.of(one).doubts(space) + UserBeliefs.of(other).doubts(space))
    assert both.shape == space.candidates.shape


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"rank": "arround 16"}, "rank: arround 16 is no belief; write around V, at least V"),
        ({"rank": "at least"}, "rank: at least is no belief"),
        ({"rank": "around many"}, "rank: around many: around takes finite numbers"),
        ({"rank": "between 8"}, "rank: between 8: write between A and B, A below B"),
        ({"rank": "between 32 and 8"}, "A below B"),
        ({"rank": "around nan"}, "around takes finite numbers"),
        ({"rank": f"at least 1{'0' * 400}"}, "at least takes finite numbers"),
        ({"rank": None}, "rank: a belief is a value, or words; got None"),
        ({"rank": True}, "rank: a belief is a value, or words; got True"),
        ({1: 2}, "1 is no knob of the space"),
        ({"good": [{"rank": None}]}, "good: a config names a value for some knobs; got {'rank': None}"),
        ({"bad": [{}]}, "bad: a config names a value for some knobs; got {}"),
        ({"bad": 3}, "bad: a config names a value for some knobs; got 3"),
        ({"good": [{"targets": "atention"}]}, "targets='atention' is not in the space.*did you mean"),
        ({"rnak": 16}, "rnak is no knob of the space; did you mean 'rank'"),
        ("rank: around 16", "beliefs are said by knob; got 'rank: around 16'"),
        ({"rank": "around -16"}, "rank=-16 cannot stand on a log2 scale"),
        ({"rank": "probably 17"}, r"rank=17 is not in the space; its values are \[4, 8, 16, 32, 64\]"),
        ({"targets": "probably everything"}, "targets='everything' is not in the space"),
        ({"targets": "at least 2"}, "targets has names, which have no order: say probably V or not V"),
        ({"dropout": "around 0"}, "dropout is no knob of the space; it has rank, alpha_ratio"),
    ],
)
def test_what_is_no_belief_is_refused_by_name(knobs: Any, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        UserBeliefs.of(knobs).doubts(SPACE)
