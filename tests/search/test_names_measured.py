"""The benchmark of how the search sees names, and what a page quotes of it."""

from __future__ import annotations

import json
import sys

from places import BENCHMARKS, ROOT

sys.path.insert(0, str(BENCHMARKS))

import named_knobs as program

from loracle.config.settings import build_space

RESULTS = json.loads(program.OUTPUT.read_text(encoding="utf-8"))


def test_the_table_holds_every_config_and_the_page_what_came_of_searches_on_it() -> None:
    rows = program.read()
    space = build_space(program.run_config().space)
    assert sorted(row["index"] for row in rows) == space.candidates.tolist()
    for row in rows:
        assert {name: row[name] for name in program.NAMES} == {
            name: space.config(row["index"])[name] for name in program.NAMES
        }
    page = (ROOT / "docs" / "search-knowledge.md").read_text(encoding="utf-8")
    for found in RESULTS["regret"].values():
        cells = " | ".join(f"{one['mean']:.2f} +- {one['se']:.2f}" for one in found.values())
        assert f"| {cells} |" in page
    assert f"{RESULTS['configs']} trainings of the demo's model" in page
    best, chance = (RESULTS["regret"][way]["10"] for way in ("one-hot", "random"))
    assert chance["mean"] - best["mean"] > 2 * (chance["se"] ** 2 + best["se"] ** 2) ** 0.5


def test_a_search_is_replayed_whatever_order_names_are_listed_in() -> None:
    values = {row["index"]: -row["loss"] for row in program.read() if row["loss"] is not None}
    space = build_space(program.run_config().space)
    for way in program.WAYS:
        regrets = program.replay(values, space, way, seed=3)
        assert len(regrets) == 20
        assert min(regrets) >= 0
