"""What the pages say of the cost of a search is what was measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from places import BENCHMARKS, ROOT

from loracle.search.prior import SHIPPED, load_prior


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BENCHMARKS / "results" / "cost.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "search-cost.md").read_text(encoding="utf-8")


def test_the_table_is_made_of_the_results(found: dict[str, Any], page: str) -> None:
    table = page.partition("# What a search costs")[2].partition("\n\nHow well")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]
    assert len(rows) > 10
    methods = found["methods"]
    measured = {
        tuple(
            f"{own[name]:.{digits}f}"
            for name, digits in (("median_cost", 2), ("worst_cost", 2), ("regret", 3))
        )
        for own in methods.values()
    }
    beside = json.loads((BENCHMARKS / "results" / "priorband.json").read_text(encoding="utf-8"))
    (own,) = (row for row in beside["summary"] if row["method"] == "priorband")
    worst = max(row["cost"] for row in beside["rows"])
    measured.add((f"{own['cost']:.2f}", f"{worst:.2f}", f"{own['regret']:.3f}"))
    for name, *numbers in rows:
        assert (*numbers[:2], numbers[3]) in measured, name
    known = {f"{own['regret']:.3f}" for own in methods.values()}
    assert all(numbers[2] in ("", *known) for _, *numbers in rows)


def test_a_part_that_is_not_taken_for_all_is_better_and_costs_nothing_where_it_could(
    found: dict[str, Any],
) -> None:
    methods = found["methods"]
    assert methods["taken for all data"]["difference_low"] > 0
    doubted, trusted = (
        methods[name]["regret"]
        for name in ("all data, taken for ten times as much, 10 trials", "all data, 10 trials")
    )
    gained = methods["taken for all data"]["regret"] - methods["thorough"]["regret"]
    assert doubted - trusted < 0.1 * gained
    for own in found["pretrained"].values():
        assert sum(own["deviation"][2:]) < sum(own["a part for all"][2:])


def test_one_training_buys_what_thirty_trials_do_and_on_no_task_less(found: dict[str, Any]) -> None:
    summary = found["summary"]
    assert summary["worst_cost"] <= 1.0
    assert summary["regret_difference"] <= 0.005
    assert all(low <= 0 for _, low, _ in summary["by_task_difference"].values())
    assert summary["samples_saved"] >= 2 / 3


def test_four_fifths_do_on_the_mean_and_the_page_says_where_not(found: dict[str, Any], page: str) -> None:
    less = found["methods"]["30 items, budget 0.8"]
    assert less["worst_cost"] <= 0.8 + 1e-9
    assert less["regret_difference"] <= 0.005
    assert less["samples_saved"] >= 0.7
    worse = {task: ends for task, ends in less["by_task_difference"].items() if ends[1] > 0}
    assert list(worse) == ["carrying"]
    mean, low, high = worse["carrying"]
    assert f"on `carrying` they are worse by {mean:.3f} ({low:.3f} to {high:.3f})" in page


def test_half_a_training_does_not_quite_and_the_page_says_so(found: dict[str, Any], page: str) -> None:
    half = found["half"]
    assert half["median_cost"] <= 0.5
    assert half["samples_saved"] >= 0.7
    assert f"{half['regret_difference']:.3f} worse ({half['difference_low']:.3f} to " in page


def test_a_second_look_on_all_data_is_better_than_thirty_trials(found: dict[str, Any]) -> None:
    best = found["methods"]["10%, 30 items, 10 trials, then 100% for the best 3"]
    assert best["difference_high"] < 0
    assert best["median_cost"] < found["methods"]["thorough"]["median_cost"]
    assert all(low <= 0 for _, low, _ in best["by_task_difference"].values())


def test_several_at_a_time_are_as_the_page_says(found: dict[str, Any], page: str) -> None:
    for own in found["at_a_time"]:
        lost = f"{own['lost']:+.3f} ({own['lost_low']:+.3f} to {own['lost_high']:+.3f})"
        numbers = f"{own['time']:.2f} | {own['of_one']:.2f} | {own['busy']:.2f} | {own['regret']:.3f}"
        assert f"| {own['trials']:.1f} | {numbers} | {'' if own['lost'] == 0 else lost + ' '}|" in page


def test_priors_had_learnt_from_the_tables_of_real_models(found: dict[str, Any]) -> None:
    assert found["about"]["prior_tasks"] == len(load_prior(SHIPPED).provenance["tasks"])


def test_costs_are_those_of_recorded_tokens(found: dict[str, Any]) -> None:
    everything = found["methods"]["all data, 3 trials"]
    assert everything["median_cost"] == pytest.approx(3)  # a full training is the unit
    ends = [found["methods"][name]["median_cost"] for name in ("30 items", "100 items", "thorough")]
    assert ends == sorted(ends)
    assert found["methods"]["suggest"]["worst_cost"] == 0


def test_the_demo_takes_a_quarter_of_the_tokens_and_finds_as_good_a_winner() -> None:
    found = json.loads((BENCHMARKS / "results" / "demo_cost.json").read_text(encoding="utf-8"))
    without, ships, thorough = found["runs"]
    assert found["share"] <= 0.25
    assert ships["winner"] >= 0.99
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    costs = [f"{row['cost']['trainings']:.1f}" for row in (ships, thorough, without)]
    assert f"more than one full training, in tokens, here after {costs[0]}." in readme
    assert f"30 trials, it costs {costs[1]}, and" in readme
    assert (
        f"each on a quarter of the data, {costs[2]}; both find {without['winner']:.1%}".replace("%", " %")
        in readme
    )
    assert without["winner"] == thorough["winner"]
