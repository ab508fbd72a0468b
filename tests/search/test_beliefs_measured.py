"""What a user's beliefs are worth to a search, and what the pages say of it."""

from __future__ import annotations

import json
import sys

import pytest
from places import BENCHMARKS, ROOT

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
sys.path.insert(0, str(BENCHMARKS))

import beliefs as program
from landscape_data import load_landscapes, table_folder

FOUND = json.loads((BENCHMARKS / "results" / "beliefs.json").read_text(encoding="utf-8"))
TABLE = {(row["source"], row["beliefs"], row["trials"]): row for row in FOUND["table"]}
WRONG = ("rate wrong", "both wrong", "good wrong", "bad wrong")


def test_the_pages_quote_what_was_measured() -> None:
    page = (ROOT / "docs" / "search-knowledge.md").read_text(encoding="utf-8")
    for source in ("table", "rows"):
        for kind in dict.fromkeys(row["beliefs"] for row in FOUND["table"]):
            cells = [TABLE[source, kind, n] for n in program.JUDGED]
            shown = [
                f"{row['regret']:.3f}"
                if kind == program.NONE
                else f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
                for row in cells
            ]
            assert f"| {' | '.join(shown)} |" in page
    assert len({row["landscape"] for row in FOUND["rows"] if row["source"] == "table"}) == 25
    both = TABLE["table", "both", 2]
    assert 0.5 < both["regret"] / (both["regret"] - both["difference"]) < 0.6  # nearly halved
    assert max(TABLE["table", kind, 10]["difference"] for kind in WRONG) == 0.013
    assert "wrong beliefs cost at most 0.013 after ten" in (ROOT / "README.md").read_text(encoding="utf-8")
    real = [TABLE["real", kind, 10]["difference"] for kind in WRONG]
    assert (round(min(real), 2), round(max(real), 2)) == (0.05, 0.21)


def test_the_table_follows_from_the_searches() -> None:
    """Of own and of real landscapes; the intervals of all 25 tables take a minute."""
    sources = ("rows", "real")
    rows = [
        {**row, "regret": {int(n): value for n, value in row["regret"].items()}}
        for row in FOUND["rows"]
        if row["source"] in sources
    ]
    assert program.table(rows) == [row for row in FOUND["table"] if row["source"] in sources]


def test_a_search_is_replayed_as_it_was() -> None:
    if not any(table_folder().glob("*.csv")):
        pytest.skip(f"no tables in {table_folder()}: the prior of these searches had learnt from them")
    landscape = next(one for one in load_landscapes(("real",)) if one.name == "real:sections")
    kinds = dict(program.kinds(landscape, 0))
    for kind in ("rate", "good wrong"):
        (stored,) = (
            row["regret"]
            for row in FOUND["rows"]
            if (row["landscape"], row["beliefs"], row["seed"]) == (landscape.name, kind, 0)
        )
        found = program.search(landscape, kinds[kind], 0)
        assert {str(n): value for n, value in found.items()} == pytest.approx(stored)
