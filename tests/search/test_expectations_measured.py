"""The benchmark behind the intervals of trainings to come, and what a page quotes of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from places import BENCHMARKS, ROOT

sys.path.insert(0, str(BENCHMARKS))

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

import expectations as program

from loracle.report.findings.score_scale import FEW, ScoreScale, of_training
from loracle.search.belief import Belief

ROWS: list[dict[str, Any]] = json.loads(program.OUTPUT.read_text(encoding="utf-8"))["rows"]


def test_intervals_hold_what_they_say_on_landscapes_they_were_not_fitted_to_and_the_page_says_so() -> None:
    found = program.summary(ROWS, FEW)
    page = (ROOT / "docs" / "search-certainty.md").read_text(encoding="utf-8")
    n, before, after = found.pop("all")
    assert (n, program.fitted(ROWS)) == (2699, FEW)
    assert f"held {100 * before:.1f} % of {n:,} scores" in page
    assert f"fitted to all, {100 * after:.1f} % in all" in page
    for name, (_, _, share, *number) in found.items():
        if number:
            assert f"{100 * share:.1f} % ({name})" in page
            assert 0.93 <= share <= 0.98
    for few in ("3 to 5", "6 to 10"):
        _, before, after = found[few]
        assert before < program.LEVEL
        assert 0.93 <= after <= 0.98


def test_an_interval_is_as_wide_as_the_factor_that_a_score_needs() -> None:
    scale = ScoreScale(np.array([-1.0, 0.0, 1.0]), np.array([0.2, 0.5, 0.6]), 0.1, "exact_match")
    factor = program.factor_for(scale, 0.0, 0.5, 0.58)
    low, high = (scale.value(np.array([sign * factor * 1.96 * 0.5]))[0] for sign in (-1, 1))
    assert low < 0.5 < high == pytest.approx(0.58)


def test_a_training_to_come_has_noise_and_few_scores_make_nobody_sure() -> None:
    belief = Belief(np.zeros(1), np.full(1, 0.3), 1.3)
    widths = [float(of_training(belief, 0.4, n).sd[0]) for n in (1, 3, 10, 1000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(0.5, rel=1e-4)
