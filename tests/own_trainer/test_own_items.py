"""Results of items that a trainer of the user's own gives: intervals in the verdict, or why there is none."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from loracle.config.loading import load_config
from loracle.errors import ConfigError, StudyError
from loracle.report.comparison.shown import pair_lines
from loracle.report.verdict import headline, verdict
from loracle.report.verdict.stored import verdict_json
from loracle.run.comparison import compare_runs
from loracle.run.tune import Result, tune

SCRIPT = """
import json, random, sys
rate, folder = float(sys.argv[1]), sys.argv[2]
share = {1e-5: 0.5, 1e-4: 0.55, 1e-3: 0.9}[rate]
chance = random.Random(3)
got = [int(chance.random() < share) for _ in range(200)]
with open(folder + "/got.jsonl", "w") as file:
    for i, one in enumerate(got):
        print(json.dumps({"index": f"q{i}", "value": one}), file=file)
json.dump({"value": round(sum(got) / 200, 2)}, open(folder + "/result.json", "w"))
"""


def searched(
    folder: Path, script: str = SCRIPT, last: str = "x", name: str = "run", **settings: Any
) -> Result:
    (folder / "train.py").write_text(script)
    command = [sys.executable, "train.py", "{learning_rate}", "{folder}", last]
    knobs = {"learning_rate": {"values": [1e-5, 1e-4, 1e-3], "scale": "log10"}}
    content = {
        "objective": {"command": command, "direction": "maximize", **settings},
        "space": {"base": "empty", "knobs": knobs},
        "standard": {"learning_rate": 1e-4},
        "search": {"trials": 3},
        "output": name,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return tune(load_config(folder / "config.yaml"))


def difference(folder: Path, result: Result) -> Any:
    config = load_config(folder / "config.yaml")
    return verdict_json(config, result.space, result.finished, result.history, ())["difference"]


def test_the_interval_is_of_final_runs_or_allows_for_the_choice(tmp_path: Path) -> None:
    trials = searched(tmp_path, items="got.jsonl")
    finals = searched(tmp_path, last="{phase}", name="again", items="got.jsonl")
    of_trials, of_finals = (difference(tmp_path, result) for result in (trials, finals))
    assert trials.comparison.standing == finals.comparison.standing == "better"
    assert of_trials["items"] == of_finals["items"] == 200
    assert (of_trials["among"], of_finals["among"]) == (3, 1)
    assert of_trials["mean"] == of_finals["mean"]
    assert of_trials["low"] < of_finals["low"] < of_finals["mean"] < of_finals["high"] < of_trials["high"]
    assert 0.2 < of_finals["low"] < 0.35 < of_finals["high"] < 0.5
    said = verdict(trials.comparison, "value")
    assert "On the same 200 items the winner is better by" in said
    assert "The winner was chosen among 3 configs by these items and not run again, so the interval" in said
    assert "chance plays a part" not in said
    assert "chosen among" not in verdict(finals.comparison, "value")
    metrics = finals.comparison.winner_outcome.metrics
    assert metrics["low"] < 0.9 < metrics["high"]
    assert metrics["items"] == 200
    # Two such runs are paired by the indices of their items.
    other = searched(tmp_path, last="{phase}", name="other", items="got.jsonl")
    (pair,) = compare_runs([finals.folder, other.folder]).pairs
    assert (pair.items, pair.difference, pair.among) == (200, 0.0, 1)


def test_runs_without_final_runs_are_paired_by_the_items_of_their_trials(tmp_path: Path) -> None:
    high = searched(tmp_path, items="got.jsonl")
    again = searched(tmp_path, last="{phase}", name="again", items="got.jsonl")
    low = searched(tmp_path, SCRIPT.replace("0.9}", "0.6}"), name="low", items="got.jsonl")
    found = compare_runs([high.folder, low.folder])
    (pair,) = found.pairs
    assert (pair.items, pair.among, pair.told) == (200, 9, True)
    assert pair.difference == pytest.approx(0.9 - 0.6, abs=0.1)
    last = list(pair_lines(found))[-1]
    assert last.startswith("run is better by")
    assert "than low on the same 200 items: told apart" in last
    assert last.endswith(
        "Both winners were chosen by these items and not run again, so interval and p hold for all 9 pairs "
        "of their configs."
    )
    (mixed,) = compare_runs([again.folder, low.folder]).pairs
    assert (mixed.difference, mixed.among, mixed.chosen) == (pair.difference, 3, ("low",))
    ends = [pair.low, mixed.low, pair.difference, mixed.high, pair.high]
    assert ends == sorted(ends, key=float)  # type: ignore[arg-type]
    assert "known by their places" not in last
    unnamed = [
        searched(tmp_path, script.replace('"index": f"q{i}", ', ""), name=name, items="got.jsonl").folder
        for name, script in {"these": SCRIPT, "those": SCRIPT.replace("0.9}", "0.6}")}.items()
    ]
    found = compare_runs(unnamed)
    assert found.pairs[0].by_place
    assert (
        "on the same 200 items (known by their places alone, without an `index`: are they the same?)"
        in (list(pair_lines(found))[-1])
    )
    silent = searched(tmp_path, name="silent")
    (none,) = compare_runs([high.folder, silent.folder]).pairs
    assert none.why_not == "a trainer of one's own without results of items leaves nothing to pair"


@pytest.mark.parametrize("last", ["x", "{phase}"])
def test_the_report_shows_items_on_which_the_two_differ_by_their_own_names(
    tmp_path: Path, last: str, said: Callable[..., str]
) -> None:
    found = searched(tmp_path, last=last, items="got.jsonl")
    content = json.loads(said("report", found.folder, "--json"))["examples"]
    assert (content["items"], content["n_won"] > 20, content["n_lost"]) == (200, True, 0)
    first = content["won"][0]
    assert first["index"].startswith("q")
    assert (first["winner"], first["standard"], first["gain"]) == ("1", "0", 1.0)
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "Of 200 items the winner does better on" in page


def test_a_gain_within_noise_is_none(tmp_path: Path) -> None:
    found = searched(tmp_path, SCRIPT.replace("0.9}", "0.56}"), items="got.jsonl")
    assert found.comparison.standing == "no_difference"
    assert found.comparison.exit_code == 3


def test_why_there_is_no_interval_is_said(tmp_path: Path) -> None:
    found = searched(tmp_path)
    said = verdict(found.comparison, "value")
    assert (found.comparison.standing, found.comparison.exit_code, found.comparison.best) == (
        "untested",
        3,
        "winner",
    )
    assert said.startswith("The winner scores higher than the standard settings: a value of ")
    assert "Whether it is better cannot be told from one number each" in said
    assert headline(found.comparison, "value").startswith("Higher, but not shown to be better: a value of ")
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "higher, but not shown to be better" in page
    assert "(one run each and no interval, so chance plays a part)" in said
    assert "There is no interval of the difference: the trainer gives no results of its items" in said
    assert "gives no results of its items" in difference(tmp_path, found)["why_none"]
    assert "There is no interval of the difference" in (found.folder / "report.md").read_text()
    drawn = SCRIPT.replace('f"q{i}"', 'f"{rate}-{i}"')
    others = searched(tmp_path, drawn, name="others", items="got.jsonl")
    assert "interval of the difference: the two were not scored on the same items." in verdict(
        others.comparison, "value"
    )


def test_items_of_a_function_that_is_minimised(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def train(config):\n"
        "    items = [config['learning_rate'] * 1000 + i % 7 for i in range(70)]\n"
        "    return {'value': sum(items) / 70, 'items': items, 'more': 3}\n"
    )
    content = {
        "objective": {"function": "own.py:train", "direction": "minimize"},
        "space": {"base": "empty", "knobs": {"learning_rate": {"values": [1e-5, 1e-3]}}},
        "standard": {"learning_rate": 1e-3},
        "search": {"trials": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    found = tune(load_config(tmp_path / "config.yaml")).comparison
    assert found.winner == {"learning_rate": 1e-5}
    assert found.difference == pytest.approx(0.99)
    assert found.standing == "better"
    assert found.winner_outcome.metrics["more"] == 3


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (SCRIPT.replace("got.jsonl", "gone.jsonl"), "the command wrote no got.jsonl"),
        (SCRIPT.replace('f"q{i}"', "7"), "two items have the index 7"),
        (SCRIPT.replace("/ 200, 2", "/ 100, 2"), "the mean of the items is .* and the result"),
        (SCRIPT.replace('"value": one}', '"value": "x"}'), "the value of item 0 is 'x', not a number"),
        (SCRIPT.replace("print(json.dumps(", "print(str("), "got.jsonl, line 1 is not JSON"),
    ],
)
def test_wrong_items_are_told_in_one_line(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(StudyError):
        searched(tmp_path, script, items="got.jsonl")
    outcome = json.loads((tmp_path / "run" / "trials" / "0000" / "outcome.json").read_text())
    assert outcome["failure"]["message"].startswith("no result: ")
    assert re.search(message, outcome["failure"]["message"])


@pytest.mark.parametrize("name", ["../x.jsonl", "/x.jsonl", "outcome.json", "items-own.jsonl"])
def test_files_that_cannot_be_items_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="items"):
        searched(tmp_path, items=name)
