from __future__ import annotations

from pathlib import Path

import pytest

from loracle.records.space import Knob, SearchSpace, default_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.figures import draw, write_figure

SPACE = default_space()
NAN = Failure(FailureKind.DIVERGED, "loss is NaN")


def trials(*values: float | None) -> History:
    outcomes = [Outcome(None, failure=NAN) if value is None else Outcome(value) for value in values]
    return History(tuple(Trial(i, i, outcome) for i, outcome in enumerate(outcomes)))


def drawn(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "history",
    [trials(0.25, None, 0.5), trials(None, None), trials(0.5), History(), History((Trial(0, 1),))],
    ids=["mixed", "failed only", "one", "none", "running only"],
)
def test_is_drawn_whatever_succeeded(tmp_path: Path, history: History) -> None:
    write_figure(tmp_path / "a.png", SPACE, history, "loss")
    assert drawn(tmp_path / "a.png")


@pytest.mark.parametrize(
    "values",
    [(1e308, -1e308, 1e307, 0.0), (1e308,), (1e160, 0.1, 0.2, 0.3, 0.25), (-1e308, -1e308), (5e-324, 0.0)],
)
def test_is_drawn_with_scores_of_any_size(tmp_path: Path, values: tuple[float, ...]) -> None:
    write_figure(tmp_path / "a.png", SPACE, trials(*values), "cost")
    assert drawn(tmp_path / "a.png")


@pytest.mark.parametrize(
    "names", [["x"], ["λ", "数学", "__class__", "A" * 60], [f"knob_{i}" for i in range(20)]]
)
def test_is_drawn_with_knobs_of_any_name_and_number(tmp_path: Path, names: list[str]) -> None:
    space = SearchSpace(tuple(Knob(name, (1,)) for name in names))
    write_figure(tmp_path / "a.png", space, trials(0.5), "loss")
    assert drawn(tmp_path / "a.png")


def test_is_drawn_with_hundreds_of_values_of_a_knob(tmp_path: Path) -> None:
    write_figure(tmp_path / "a.png", SearchSpace((Knob("x", tuple(range(500))),)), trials(0.5, 0.6), "value")
    assert drawn(tmp_path / "a.png")


def test_one_outlier_does_not_press_the_others_into_a_line() -> None:
    top = draw(SPACE, trials(1.0, 1.1, 1.2, 1.3, 1e8), "value").axes[0]
    assert top.get_ylim()[1] < 10
    points = top.collections[0].get_offsets().tolist()
    assert [y for _, y in points[:4]] == [1.0, 1.1, 1.2, 1.3]
    assert top.get_legend_handles_labels()[1][-1] == "1 beyond the scale"


def test_scores_that_axes_cannot_hold_are_in_powers_of_ten() -> None:
    top = draw(SPACE, trials(1e308, 5e307), "value").axes[0]
    assert top.get_ylabel() == "value, in 1e308"
    assert [y for _, y in top.collections[0].get_offsets().tolist()] == [1.0, 0.5]
