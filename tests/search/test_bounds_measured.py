"""How near an answer could come: what was measured, and what the page says of it."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from places import BENCHMARKS, ROOT

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
sys.path.insert(0, str(BENCHMARKS))

import bounds as program

FOUND = json.loads((BENCHMARKS / "results" / "bounds.json").read_text(encoding="utf-8"))
SUGGESTIONS = json.loads((BENCHMARKS / "results" / "suggestions.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "search-quality.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## How near could it come?")[2].partition("\n## ")[0]


def short(value: float, digits: int = 3) -> str:
    """As the page writes it: no zero before the point."""
    return f"{value:.{digits}f}".removeprefix("0")


def test_the_page_says_what_hindsight_reaches() -> None:
    same = {name: FOUND["one config"][f"{name}, the same"] for name in ("median", "worst", "mean")}
    moved = {name: FOUND["one config"][f"{name}, by size"] for name in ("median", "worst", "mean")}
    median, worst = same["median"], same["worst"]
    two = short(median["median"]), short(median["worst"])
    assert "has {} on the median family and {} on the worst;".format(*two) in SECTION
    assert f"has {short(worst['worst'])} there and {short(worst['median'])} on the median one" in SECTION
    assert f"best on the mean has {short(same['mean']['mean'])}." in SECTION
    three = [short(moved[name][name]) for name in ("median", "worst", "mean")]
    assert "these are {}, {} and {}.".format(*three) in SECTION
    suggested = SUGGESTIONS["summary"]["suggested"]
    mean = float(np.mean(list(suggested["by family"].values())))
    own = [short(value, 2) for value in (suggested["median"], suggested["worst"], mean)]
    assert "has {}, {} and on the mean {}.".format(*own) in SECTION


def test_the_page_says_what_an_oracle_reaches_and_it_is_measured_so() -> None:
    by_trials = {n: float(np.mean([task[str(n)] for task in FOUND["oracle"].values()])) for n in (1, 5, 10)}
    one, five, ten = (short(by_trials[n]) for n in (1, 5, 10))
    assert f"has {one} with the best one, {five} with the best score of five and {ten} of ten" in SECTION
    again = {task: {str(n): value for n, value in own.items()} for task, own in program.oracle().items()}
    assert again["sorting"] == pytest.approx(FOUND["oracle"]["sorting"])


def test_the_page_says_what_a_prior_that_cheats_and_a_hand_reach() -> None:
    seen = {(row["prior"], row["trials"]): row for row in FOUND["seen"]}
    cheats, honest = seen["has seen the task", 5], seen["without the family", 5]
    two = short(cheats["recommended"]), short(honest["recommended"])
    assert "have {}, without the family {},".format(*two) in SECTION
    assert f"that were tried has {short(honest['best tried'])}:" in SECTION
    told = {(row["method"], row["trials"]): short(row["regret"]) for row in FOUND["told"]}
    numbers = [told["default, told", n] for n in program.JUDGED]
    assert "has {}, {} and {} after 3, 5 and 8 trials".format(*numbers) in SECTION
    assert "the sweep {}, {} and {}.".format(*(told["hand", n] for n in program.JUDGED)) in SECTION


def test_tables_on_the_first_page_are_those_of_the_page_with_all() -> None:
    everything = (ROOT / "docs" / "search-tables.md").read_text(encoding="utf-8")
    whole = {}
    for group, name in (("table", "25 tables"), ("real", "Gemma"), ("rows", "small"), ("new", "formulas")):
        part = re.search(rf"\nfactory, \d+ landscapes \({group}\)\n\n(.*?)\n\n", everything, re.DOTALL)
        assert part is not None
        whole[name] = rows_of(part[1])
    for name, full in whole.items():
        part = re.search(rf"\n(\| {name}.*?)\n\n", PAGE, re.DOTALL)
        assert part is not None
        for method, numbers in list(rows_of(part[1]).items())[1:]:
            assert numbers == full[method][: len(numbers)], (name, method)


def test_the_page_says_how_much_chance_is_in_the_fit_of_the_prior() -> None:
    found = json.loads((BENCHMARKS / "results" / "prior_seeds.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "search-tables.md").read_text(encoding="utf-8")
    by = {(row["source"], row["fit"]): row["regret"] for row in found["table"]}
    shown = [("rows", (3, 5, 10, 30)), ("table", (3, 5, 8)), ("small trials", (3, 5, 10))]
    for fit in range(4):
        cells = [f"{by[source, fit][str(n)]:.3f}" for source, judged in shown for n in judged]
        assert f"| {' | '.join(cells)} |" in page
    worst = max(by["rows", fit]["3"] - by["rows", 0]["3"] for fit in range(4))
    assert f"regret is up to {short(worst, 2)} higher early on" in PAGE


def rows_of(table: str) -> dict[str, list[str]]:
    """Numbers of each row, without what stands in brackets."""
    rows = {}
    for line in table.splitlines():
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not first.startswith("-"):
            rows[first] = [cell.partition(" (")[0] for cell in cells]
    return rows
