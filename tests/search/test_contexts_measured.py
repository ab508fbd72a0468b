"""The landscapes that vary their context, and what the pages say of the best learning rate there."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from places import BENCHMARKS, ROOT

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

import context_shift as program
import loracle_landscapes as published

ROWS = [row for row in published.load() if row["part"] == "contexts"]
FOUND: dict[str, Any] = json.loads(program.RESULTS.read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "search-knowledge.md").read_text(encoding="utf-8")


def test_all_contexts_have_the_same_configs_over_wide_ranges() -> None:
    found = defaultdict(list)
    for row in ROWS:
        found[row["landscape"]].append(tuple(row[knob] for knob in published.KNOBS))
    assert len(found) == 36
    shared = set.intersection(*(set(configs) for configs in found.values()))
    assert len(shared) >= 16
    for name, least, most in (("width", 64, 384), ("depth", 2, 8), ("examples", 500, 8000), ("epochs", 1, 4)):
        assert (min(r[name] for r in ROWS), max(r[name] for r in ROWS)) == (least, most)
    assert {row["length"] for row in ROWS} == {"short", "long"}
    assert {row["metric"] for row in ROWS} == {"exact_match", "loss"}
    about = json.loads((BENCHMARKS / "landscapes" / "contexts.json").read_text(encoding="utf-8"))
    assert about["rows"] == len(ROWS)


def test_the_best_learning_rate_falls_with_the_number_of_examples() -> None:
    for column in ("score", "loss"):
        told = FOUND["optimum"][column]
        slope, low, high = told["slopes"]["examples"]
        assert low < high < 0
        assert f"{slope:.2f} ({low:.2f} to {high:.2f})" in PAGE
        assert all(one < 0 for one in told["examples by task"].values())


def test_the_page_states_what_knowing_it_is_worth() -> None:
    section = PAGE.partition("## Does the number of examples move the best learning rate?")[2]
    assert section
    for line in FOUND["table"]:
        assert line in section
    for family, moves in FOUND["tables"].items():
        assert " ".join(f"{regret:.2f}" for regret in moves.values()) in section, family


def test_a_moved_prior_has_its_optimum_there() -> None:
    from loracle.search.prior import RATE, SHIPPED, load_prior

    numbers = np.random.default_rng(0).normal(size=(40, 5))
    moved = load_prior(program.moved_prior(SHIPPED, 0.3)).inputs(numbers + 0.3 * np.eye(5)[RATE])
    np.testing.assert_allclose(moved.mean, load_prior(SHIPPED).inputs(numbers).mean, atol=1e-5)
