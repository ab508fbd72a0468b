"""The benchmark behind the default of `search.replicates`, and what a page quotes of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from places import BENCHMARKS, ROOT

sys.path.insert(0, str(BENCHMARKS))

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

import replication as program

from loracle.config.settings import TRIALS_TO_REPLICATE

ROWS: list[dict[str, Any]] = json.loads(program.OUTPUT.read_text(encoding="utf-8"))["rows"]


def test_the_default_begins_where_a_second_seed_gains_more_and_the_page_says_by_how_much() -> None:
    found = {row["n"]: row for row in program.summary(ROWS) if row["seeds"] == 1}
    page = (ROOT / "docs" / "search-cost.md").read_text(encoding="utf-8")
    for n, row in found.items():
        told = [row[key] for key in ("gain_of_seeds", "gain_of_trials", "difference")]
        gains = " | ".join(f"{value:+.3f}".replace("0.", ".") for value in told)
        error = f"{row['error']:.3f}".replace("0.", ".")
        assert f"| {n} trials | {row['within']} of {row['searches']} | {gains} ({error}) |" in page
        clear = row["difference"] > 2 * row["error"]
        assert clear == (n >= TRIALS_TO_REPLICATE)
    last = found[TRIALS_TO_REPLICATE]
    assert f"a better config in {last['better']} searches and a worse one in {last['worse']}" in page
