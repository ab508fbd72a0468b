"""What the pages say of the cost of a search is what was measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from places import BENCHMARKS, ROOT


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BENCHMARKS / "results" / "cost.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "search-quality.md").read_text(encoding="utf-8")


def test_the_table_is_made_of_the_results(found: dict[str, Any], page: str) -> None:
    table = page.partition("## What a search costs")[2].partition("\n\nHow well")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    measured = {
        tuple(
            f"{own[name]:.{digits}f}"
            for name, digits in (("median_cost", 2), ("worst_cost", 2), ("regret", 3))
        )
        for own in found["methods"].values()
    }
    for row in rows:
        assert tuple(row[1:4]) in measured, row


def test_half_a_training_is_no_worse_than_thirty_trials_on_the_proxy(found: dict[str, Any]) -> None:
    summary = found["summary"]
    assert summary["median_cost"] <= 0.5
    assert summary["worst_cost"] <= 1.0
    assert summary["difference_high"] <= 0.005
    assert summary["samples_saved"] >= 0.7


def test_costs_are_those_of_recorded_tokens(found: dict[str, Any]) -> None:
    everything = found["methods"]["all data, 3 trials"]
    assert everything["median_cost"] == pytest.approx(3)  # a full training is the unit
    ends = [found["methods"][name]["median_cost"] for name in ("30 items", "100 items", "thorough")]
    assert ends == sorted(ends)
    assert found["methods"]["suggest"]["worst_cost"] == 0
