"""Shares of the variance against surfaces whose truth is known by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from reported_runs import history_of, made

from loracle.config.settings import build_space
from loracle.records.space import Knob, SearchSpace
from loracle.report.findings.importance import grid, importance

Floats = npt.NDArray[np.float64]

SPACE = SearchSpace(tuple(Knob(name, (0, 1, 2, 3)) for name in ("a", "b", "c")))
NAMES = SPACE.names


def shares(surface: Callable[[Floats], Floats]) -> tuple[dict[str, float], dict[str, float | None], float]:
    """Of one function: each knob by itself, with its interactions, and the strongest interaction."""
    _, positions = grid(SPACE, 1000)
    found = importance(NAMES, positions, surface(positions.astype(float).T)[None])
    assert found is not None
    assert found.interaction is not None
    alone = {one.knobs[0]: one.share for one in found.knobs}
    return alone, {one.knobs[0]: one.total for one in found.knobs}, found.interaction.share


def test_of_an_additive_surface_each_knob_explains_its_own_variance() -> None:
    alone, total, pair = shares(lambda x: 2 * x[0] + x[1])
    assert alone == pytest.approx({"a": 0.8, "b": 0.2, "c": 0.0})  # variances of 2 a and of b: 5 and 5 / 4
    assert total == pytest.approx(alone)
    assert pair == pytest.approx(0.0)


def test_of_an_interaction_alone_no_knob_explains_anything_by_itself() -> None:
    alone, total, pair = shares(lambda x: (x[0] - 1.5) * (x[1] - 1.5))
    assert alone == pytest.approx({"a": 0.0, "b": 0.0, "c": 0.0})
    assert total == pytest.approx({"a": 1.0, "b": 1.0, "c": 0.0})
    assert pair == pytest.approx(1.0)


def test_a_mixed_surface_has_the_shares_that_are_worked_out_by_hand() -> None:
    """a + (a - 1.5)(b - 1.5): variances 5/4 and 25/16."""
    alone, _, pair = shares(lambda x: x[0] + (x[0] - 1.5) * (x[1] - 1.5))
    assert alone["a"] == pytest.approx(1.25 / (1.25 + 25 / 16))
    assert pair == pytest.approx((25 / 16) / (1.25 + 25 / 16))


def test_intervals_are_those_of_the_draws() -> None:
    _, positions = grid(SPACE, 1000)
    x = positions.astype(float).T
    draws = np.array([x[0] + weight * x[1] for weight in np.linspace(0, 1, 101)])
    found = importance(NAMES, positions, draws)
    assert found is not None
    (a,) = [one for one in found.knobs if one.knobs == ("a",)]
    expected = (1 / (1 + 0.975**2), 0.8, 1 / (1 + 0.025**2))
    assert (a.low, a.share, a.high) == pytest.approx(expected, abs=1e-4)


def test_flat_surfaces_and_spaces_of_one_config_have_no_importance() -> None:
    _, positions = grid(SPACE, 1000)
    assert importance(NAMES, positions, np.ones((3, len(positions)))) is None
    one = SearchSpace((Knob("a", (1,)),))
    rows, positions = grid(one, 10)
    assert importance(one.names, positions, np.ones((3, len(rows)))) is None


def test_a_grid_keeps_the_ends_and_heeds_constraints() -> None:
    space = SearchSpace(tuple(Knob(name, tuple(range(9))) for name in "ab"), ("a + b <= 12",))
    rows, positions = grid(space, 20)
    assert len(rows) <= 20
    assert {0, 8} <= set(positions[:, 0].tolist())
    values = space.values(space.candidates[rows])
    assert (values["a"] == positions[:, 0]).all()
    assert (values["a"] + values["b"] <= 12).all()


# -- through the belief of a run -----------------------------------------------------------------------

KNOBS = {name: {"values": [1, 2, 3, 4, 5]} for name in ("one", "two", "idle")}
OWN = {"objective": {"command": "train {one} {two} {idle}", "direction": "maximize"}, "standard": None}


@pytest.mark.parametrize(
    ("surface", "order", "pair"),
    [
        (lambda c: 2.0 * c["one"] + c["two"], ["one", "two", "idle"], None),
        (lambda c: (c["one"] - 3.0) * (c["two"] - 3.0) + 0.5 * c["one"], ["one"], ("one", "two")),
    ],
)
def test_the_belief_of_a_run_ranks_knobs_as_the_truth_does(
    tmp_path: Path,
    surface: Callable[[dict[str, float]], float],
    order: list[str],
    pair: tuple[str, str] | None,
) -> None:
    space = {"base": "empty", "knobs": KNOBS}
    there = build_space(made(tmp_path, n=2, finished=False, space=space, **OWN).subject.config.space)
    history = history_of(there, 60, score=surface)
    found = made(tmp_path, history, finished=False, space=space, **OWN).find().importance
    assert found is not None
    named = [one.knobs[0] for one in found.knobs]
    assert named[: len(order)] == order
    by_name = {one.knobs[0]: one for one in found.knobs}
    assert by_name["idle"].share < 0.05
    assert (by_name["idle"].total or 0.0) < 0.1
    assert found.interaction is not None
    if pair is None:
        assert found.interaction.share < 0.1
        assert (
            by_name["one"].low <= 0.8 <= by_name["one"].high + 0.1
        )  # ranks below the median bend it a little
    else:
        assert found.interaction.knobs == pair
        assert found.interaction.share > 0.4
    for more, less in pairwise(found.knobs):
        assert more.share >= less.share
