"""Search spaces: index and config, twins, neighbours, constraints."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loracle.errors import SpaceError
from loracle.records.constraints import parse_expression
from loracle.records.space import Knob, SearchSpace, default_space, paper_space, with_alpha

PAPER = paper_space()
ANY = settings(deadline=None, max_examples=60)


def knobs(*, zero_ratio: bool = False) -> st.SearchStrategy[tuple[Knob, ...]]:
    """Random knobs under the names that have rules of their own, and one that has none."""

    def increasing(element: st.SearchStrategy[float], most: int = 4) -> st.SearchStrategy[tuple[float, ...]]:
        return st.lists(element, min_size=1, max_size=most, unique=True).map(lambda v: tuple(sorted(v)))

    whole = st.integers(1, 300)
    ratio = st.floats(0, 64) if zero_ratio else st.floats(1e-3, 64)
    ratios = (
        increasing(ratio).map(lambda v: tuple(dict.fromkeys((0, *v)))) if zero_ratio else increasing(ratio)
    )
    return st.tuples(
        increasing(whole).map(lambda v: Knob("rank", v, "log2")),
        ratios.map(lambda v: Knob("alpha_ratio", v)),
        increasing(whole).map(lambda v: Knob("batch_size", v, "log2")),
        increasing(st.floats(-1e6, 1e6)).map(lambda v: Knob("other", v)),
    )


@st.composite
def spaces(draw: st.DrawFn, *, zero_ratio: bool = False) -> SearchSpace:
    chosen = draw(knobs(zero_ratio=zero_ratio).flatmap(st.permutations))
    return SearchSpace(
        tuple(chosen[: draw(st.integers(1, len(chosen)))]),
        batch_limit=draw(st.none() | st.integers(1, 400)),
    )


# -- the published space ------------------------------------------------------------------------------


def test_paper_space_is_the_published_one() -> None:
    assert PAPER.size == len(PAPER) == 45_360
    assert len(PAPER.candidates) == 45_360
    assert {knob.name: knob.values for knob in PAPER} == {
        "rank": (1, 2, 4, 8, 16, 32, 64, 128, 256),
        "alpha_ratio": (0.5, 1, 2, 4, 8, 16, 32, 64, 128),
        "dropout": (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
        "batch_size": (2, 4, 8, 16, 32, 64, 128, 256),
        "learning_rate": (1e-6, 5e-6, 2e-5, 3e-5, 5e-5, 1e-4, 3e-4, 4e-4, 5e-4, 5e-3),
    }


def test_paper_space_index_and_config_are_a_bijection() -> None:
    seen = {PAPER.index(PAPER.config(index)) for index in range(PAPER.size)}
    assert seen == set(range(PAPER.size))


def test_default_space_leaves_out_what_is_dead_everywhere() -> None:
    space = default_space()
    values = space.values(space.candidates)
    assert 0 < len(space.candidates) < space.size
    assert (values["alpha"] * values["learning_rate"]).max() <= 0.5


# -- index <-> config ---------------------------------------------------------------------------------


@ANY
@given(spaces(zero_ratio=True), st.data())
def test_index_and_config_are_a_bijection(space: SearchSpace, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, space.size - 1))
    config = space.config(index)
    assert space.index(config) == index
    values = space.values([index])
    assert all(values[name][0] == config[name] for name in space.names)
    other = data.draw(st.integers(0, space.size - 1))
    assert (space.config(other) == config) == (other == index)


def test_config_states_alpha_and_index_takes_it() -> None:
    config = PAPER.config(0)
    assert config["alpha"] == 0.5
    given_alpha = {name: value for name, value in config.items() if name != "alpha_ratio"}
    assert PAPER.index(given_alpha) == 0
    whole = PAPER.config(PAPER.size - 1)["alpha"]
    assert whole == 256 * 128
    assert isinstance(whole, int)


def test_a_space_may_search_alpha_itself() -> None:
    space = SearchSpace((Knob("rank", (8, 16), "log2"), Knob("alpha", (16, 32), "log2")))
    assert space.config(1) == {"rank": 8, "alpha": 32, "alpha_ratio": 4}
    assert space.index({"rank": 16, "alpha_ratio": 2}) == 3
    assert with_alpha({"rank": 8, "alpha": 4})["alpha_ratio"] == 0.5


def test_nearly_equal_values_stay_apart() -> None:
    knob = Knob("x", (1.0, 1.0 + 1e-12, 2.0))
    assert [knob.position(value) for value in knob.values] == [0, 1, 2]
    assert knob.position(2.0 + 1e-12) == 2


@pytest.mark.parametrize("index", [-1, 45_360])
def test_indices_outside_the_space_are_refused(index: int) -> None:
    with pytest.raises(SpaceError, match="outside the space of 45,360 configs"):
        PAPER.config(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 3}, r"rank=3 is not in the space; its values are \[1, 2, "),
        ({"leaning_rate": 1}, "no knob 'leaning_rate'; did you mean 'learning_rate'"),
        ({"alpha": 7, "alpha_ratio": 2}, "alpha=7 is not alpha_ratio=2 x rank=8"),
        ({"rank": 0}, "rank is a whole number from 1 up; got 0"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change: dict[str, float], message: str) -> None:
    config = {"rank": 8, "alpha_ratio": 2, "dropout": 0, "batch_size": 8, "learning_rate": 1e-4}
    assert PAPER.config(PAPER.index(config))["alpha"] == 16
    with pytest.raises(SpaceError, match=message):
        PAPER.index(config | change)


def test_missing_knobs_are_refused() -> None:
    with pytest.raises(SpaceError, match="'learning_rate' is missing"):
        PAPER.index({"rank": 8, "alpha": 16, "dropout": 0, "batch_size": 8})
    with pytest.raises(SpaceError, match="no knob 'rnk'; did you mean 'rank'"):
        PAPER["rnk"]
    assert PAPER["rank"].values[0] == 1


# -- nearest, coordinates, neighbours -----------------------------------------------------------------


@ANY
@given(st.integers(0, PAPER.size - 1))
def test_the_nearest_candidate_to_a_candidate_is_itself(index: int) -> None:
    assert PAPER.nearest(PAPER.config(index)) == index


def test_nearest_works_on_the_knobs_own_scales() -> None:
    config = {"rank": 20, "alpha": 40, "dropout": 0.06, "batch_size": 20, "learning_rate": 2e-4}
    assert PAPER.config(PAPER.nearest(config)) == {
        "rank": 16,
        "alpha": 32,
        "alpha_ratio": 2,
        "dropout": 0.05,
        "batch_size": 16,
        "learning_rate": 3e-4,  # 2e-4 is nearer to 3e-4 than to 1e-4 by ratio
    }
    with pytest.raises(SpaceError, match="learning_rate=0 cannot stand on a log10 scale"):
        PAPER.nearest(config | {"learning_rate": 0})


def test_nearest_is_a_candidate() -> None:
    space = default_space()
    hot = {"rank": 256, "alpha_ratio": 32, "dropout": 0, "batch_size": 8, "learning_rate": 3e-3}
    assert space.index(hot) not in space.candidates
    assert space.nearest(hot) in space.candidates


def test_coordinates_are_steps_of_the_scale_in_the_unit_interval() -> None:
    knob = Knob("rank", (1, 4, 16), "log2")
    np.testing.assert_allclose(knob.scaled([1, 4, 16]), [0, 0.5, 1])
    np.testing.assert_allclose(Knob("x", (0, 1, 4)).scaled([0, 1, 4]), [0, 0.25, 1])
    assert Knob("one", (3,)).scaled([3]) == [0]
    coordinates = PAPER.coordinates([0, PAPER.size - 1])
    np.testing.assert_array_equal(coordinates, [[0] * 5, [1] * 5])


@ANY
@given(spaces(), st.data())
def test_neighbours_are_symmetric_and_one_step_away(space: SearchSpace, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, space.size - 1))
    around = space.neighbours(index)
    assert len(set(around)) == len(around)
    for other in around:
        assert index in space.neighbours(other)
        here, there = space.config(index), space.config(other)
        assert sum(here[name] != there[name] for name in space.names) == 1


# -- twins --------------------------------------------------------------------------------------------


@ANY
@given(spaces(zero_ratio=True))
def test_canonical_is_idempotent_and_candidates_are_the_canonical_ones(space: SearchSpace) -> None:
    everything = np.arange(space.size)
    canonical = space.canonical(everything)
    np.testing.assert_array_equal(space.canonical(canonical), canonical)
    np.testing.assert_array_equal(np.unique(canonical), space.candidates)


@ANY
@given(spaces())
def test_twins_train_the_same_number_of_examples_at_once(space: SearchSpace) -> None:
    everything = np.arange(space.size)
    values, representative = space.values(everything), space.values(space.canonical(everything))
    for name in space.names:
        if name != "batch_size":
            np.testing.assert_array_equal(values[name], representative[name])
            continue
        for own, other in zip(values[name], representative[name], strict=True):
            assert space.realised_batch(int(own)) == space.realised_batch(int(other))


def test_configs_whose_adapter_is_always_zero_are_one_candidate() -> None:
    space = SearchSpace((Knob("rank", (4, 8)), Knob("alpha_ratio", (0, 1)), Knob("dropout", (0.0, 0.1))))
    assert len(space.candidates) == 1 + 4
    dead = [i for i in range(space.size) if space.config(i)["alpha_ratio"] == 0]
    assert set(space.canonical(dead)) == {space.index({"rank": 4, "alpha_ratio": 0, "dropout": 0.0})}


def test_batches_beyond_the_examples_are_merged() -> None:
    knob = Knob("batch_size", (2, 4, 8, 16, 32), "log2")
    space = SearchSpace((knob,), batch_limit=10)
    assert [space.realised_batch(int(v)) for v in knob.values] == [2, 4, 8, 10, 10]
    # 16 stands for 10, which no value says; 8 for itself and all others, where it says what is trained.
    assert [space.config(int(i))["batch_size"] for i in space.candidates] == [2, 4, 8, 16]
    eight = SearchSpace((knob,), batch_limit=8)
    assert [eight.config(int(i))["batch_size"] for i in eight.candidates] == [2, 4, 8]


# -- constraints --------------------------------------------------------------------------------------

NAMES = ("rank", "alpha", "learning_rate")
VALUES = {name: np.array(v) for name, v in zip(NAMES, ([4.0, 8.0], [8.0, 64.0], [1e-4, 1e-2]), strict=True)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rank > 4", [False, True]),
        ("  1 < rank <= 4 ", [True, False]),
        ("alpha * learning_rate <= 0.5 and rank ** 2 > 10", [True, False]),
        ("not rank == 4 or alpha != 8", [False, True]),
        ("-rank + 2 * (alpha - 1) / 7 < -1.5", [True, False]),
        ("(rank > 4) + (alpha > 4) >= 2", [False, True]),
        ("(rank > 4) - (alpha > 4) == 0", [False, True]),
        ("+rank ** -(rank > 4) == 1", [True, False]),
        ("9 ** 9 ** 9 ** 9 > rank", [True, True]),  # infinite at once, not a huge whole number
        ("1 / 0 > rank", [True, True]),
        ("True", [True, True]),
    ],
)
def test_constraints_mean_what_they_say(text: str, expected: list[bool]) -> None:
    result = parse_expression(text, NAMES)(VALUES)
    np.testing.assert_array_equal(np.broadcast_to(result, (2,)), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank.real > 1", "'rank.real' is not allowed"),
        ("__import__('os').system('true') == 0", "is not allowed"),
        ("[rank] == 1", "is not allowed"),
        ("'rank' == 'rank'", "is not allowed"),
        ("(lambda: 1)() > 0", "is not allowed"),
        ("rank if alpha else 1", "is not allowed"),
        ("(rank := 3) > 1", "is not allowed"),
        ("rank in (1, 2)", "is not allowed"),
        ("rank // 2 == 1", "is not allowed"),
        ("~rank > 1", "is not allowed"),
        ("1j == 1", "is not allowed"),
        ("rnk > 3", "unknown name 'rnk'; did you mean 'rank'"),
        ("rank = 3", "is not an expression"),
        ("rank >", "is not an expression"),
        ("", "is not an expression"),
        ("rank > 1; alpha > 1", "is not an expression"),
        ("rank\x00 > 1", "is not an expression"),
        ("\ud800 > 1", "is not an expression"),
        ("rank * alpha", "is a number, not a condition"),
        ("1e999 > rank", "a number is too large"),
        ("9" * 400 + " > rank", "a number is too large"),
        ("rank > 1 and " * 100 + "rank > 1", "at most 500 characters; got 1308"),
        ("-" * 400 + "rank > 1", "nested more than 50 levels deep"),
        ("~" * 400 + "rank > 1", "is not allowed"),
        ("not " * 120 + "rank > 1", "nested more than 50 levels deep"),
        ("rank" + "+1" * 200 + " > 1", "nested more than 50 levels deep"),
        ("(" * 240 + "rank" + ")" * 240 + " > 1", "is not an expression"),
    ],
)
def test_anything_else_in_a_constraint_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(SpaceError) as error:
        parse_expression(text, NAMES)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@ANY
@given(st.text(alphabet="rank alpha0123456789.+-*/<>=()~!,'\"[]{}\\\n:notador", max_size=60))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        expression = parse_expression(text, NAMES)
    except SpaceError as error:
        lines = str(error).split("\n")
    else:
        lines = ["accepted"]
        assert np.broadcast_to(expression(VALUES), (2,)).astype(bool).dtype == bool
    assert len(lines) == 1


def test_constraints_choose_the_candidates() -> None:
    space = SearchSpace(
        (Knob("rank", (4, 8)), Knob("alpha_ratio", (1, 2))), ("alpha <= 8", "rank > alpha_ratio")
    )
    assert [space.config(int(i))["alpha"] for i in space.candidates] == [4, 8, 8]
    with pytest.raises(SpaceError, match=r"no config satisfies the constraints \['rank > 8'\]"):
        _ = SearchSpace((Knob("rank", (4, 8)),), ("rank > 8",)).candidates


# -- refusals and fingerprint -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("learning rate", (1,)), "must be a plain word"),
        (("x", ()), "has no values"),
        (("x", (1, 1)), "values must increase, without repeats; got 1 before 1"),
        (("x", (2, 1)), "values must increase"),
        (("x", (1, math.nan)), "finite numbers; got nan"),
        (("x", (False, True)), "finite numbers; got False"),
        (("x", ("1",)), "does not read as a number; write numbers without quotes; got '1'"),
        (("x", (0, 1), "log10"), "scale log10 needs values above 0; got 0"),
        (("x", (1, 2), "log"), "no scale 'log'; there are log2, log10, linear, names"),
        (("x", ("cosine")), "values are a list or a tuple; got 'cosine'; of one alone write \\['cosine'\\]"),
        (("x", 16), "values are a list or a tuple; got 16; of one"),
        (("x", {"a", "b"}), "values are a list or a tuple"),
        (("x", np.array(3.0)), "values are a list or a tuple"),
        (("x", np.ones((2, 2))), "finite numbers; got array"),
        ((3, (1,)), "must be a plain word; got 3"),
    ],
)
def test_bad_knobs_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Knob(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("knobs", "options", "message"),
    [
        ((), {}, "at least one knob"),
        ((Knob("x", (1,)), Knob("x", (2,))), {}, "'x' is given twice"),
        ((Knob("alpha", (1,)), Knob("alpha_ratio", (1,))), {}, "either alpha or alpha_ratio"),
        ((Knob("rank", (0, 1)),), {}, "'rank': values are whole numbers from 1 up; got 0"),
        ((Knob("batch_size", (1.5,)),), {}, "whole numbers from 1 up; got 1.5"),
        ((Knob("x", (1,)),), {"batch_limit": 0}, "impossible batch"),
        ((Knob("x", (1,)),), {"constraints": ("y > 1",)}, "unknown name 'y'"),
        (
            (Knob("x", (1,)),),
            {"constraints": ("x > 0")},
            "a space's constraints are a list or a tuple; got 'x > 0'",
        ),
        ((Knob("x", (1,)),), {"constraints": [1]}, "constraints are each a str; got 1"),
        (Knob("x", (1,)), {}, "a space's knobs are a list or a tuple"),
        (("x",), {}, "knobs are each a Knob; got 'x'"),
        (tuple(Knob(f"x{i}", tuple(range(100))) for i in range(4)), {}, "100,000,000 configs"),
    ],
)
def test_bad_spaces_are_refused(knobs: tuple[Knob, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace(knobs, **options)  # type: ignore[arg-type]


def test_lists_and_arrays_are_as_good_as_tuples() -> None:
    space = SearchSpace(
        [Knob("rank", np.array([4, 8])), Knob("x", np.linspace(0, 1, 3)), Knob("s", ["cosine", "linear"])],  # type: ignore[arg-type]
        ["rank * x <= 4"],  # type: ignore[arg-type]
    )
    same = SearchSpace(
        (Knob("rank", (4, 8)), Knob("x", (0.0, 0.5, 1.0)), Knob("s", ("cosine", "linear"))),
        ("rank * x <= 4",),
    )
    assert (space, space.fingerprint) == (same, same.fingerprint)
    assert hash(space) == hash(same)
    assert json.loads(json.dumps(space.config(0))) == space.config(0)


def test_fingerprint_changes_with_everything_that_an_index_means() -> None:
    knob = Knob("batch_size", (2, 4), "log2")
    spaces = [
        SearchSpace((knob,)),
        SearchSpace((Knob("batch_size", (2, 8), "log2"),)),
        SearchSpace((Knob("batch_size", (2, 4)),)),
        SearchSpace((knob, Knob("x", (1,)))),
        SearchSpace((Knob("x", (1,)), knob)),
        SearchSpace((knob,), ("batch_size > 2",)),
        SearchSpace((knob,), batch_limit=4),
    ]
    assert len({space.fingerprint for space in spaces}) == len(spaces)
    assert SearchSpace((Knob("batch_size", (2, 4), "log2"),)).fingerprint == spaces[0].fingerprint
    assert paper_space().fingerprint == PAPER.fingerprint != default_space().fingerprint
