"""The benchmark that says whether the verdict's interval holds the truth, and what a page quotes of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from places import BENCHMARKS, ROOT

sys.path.insert(0, str(BENCHMARKS))

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

import interval_coverage as program
from landscape_data import load_landscapes

ROWS: list[dict[str, Any]] = json.loads(program.OUTPUT.read_text(encoding="utf-8"))["rows"]


def test_the_interval_held_the_truth_as_often_as_it_says_and_the_page_says_so() -> None:
    held = sum(row["held"] for row in ROWS)
    assert len(ROWS) == 100
    assert 93 <= held <= 97
    for row in ROWS:
        _, low, high = row["stated"]
        inside = min(row["truth"] - low, high - row["truth"])
        assert row["held"] == (inside >= 0) or abs(inside) < 2e-5  # what is stored is rounded
    page = (ROOT / "docs" / "search-certainty.md").read_text(encoding="utf-8")
    assert f"held the recorded difference in {held} of 100 replays" in page
    assert f"would have held the truth in {sum(row['held_in_validation'] for row in ROWS)} of 100" in page


def test_what_is_believed_of_the_winner_is_less_too_good_than_its_score_and_the_page_says_by_how_much() -> (
    None
):
    page = (ROOT / "docs" / "search-certainty.md").read_text(encoding="utf-8")
    score, believed = (
        sum(row[key] for row in ROWS) / len(ROWS) for key in ("too_good", "too_good_as_believed")
    )
    shown = [f"{x:.3f}".replace("0.", ".", 1) for x in (score, believed)]
    assert f"was too good by {shown[0]}," in page
    assert f"towards what its neighbours scored) by {shown[1]}." in page
    assert abs(believed) < score / 2


def test_a_replay_compares_the_recommended_config_with_the_standard() -> None:
    landscape = next(one for one in load_landscapes(["rows"]) if one.name.startswith("code"))
    row = program.replay(landscape, 0)
    assert row is not None
    mean, low, high = row["stated"]
    assert low < mean < high
    assert row["held"] == (low <= row["truth"] <= high)
    assert row["truth"] > 0  # the recommended config is better, as recorded
