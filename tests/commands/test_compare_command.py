"""`loracle compare`: runs side by side, paired on the test items that they share."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Loracle, copy_rows
from finished_runs import finish

from loracle.records.contents import ANSWERS
from loracle.records.trial import GuardReading
from loracle.records.trial_files import read_items
from loracle.report.comparison.records import Pair, RunRow, RunsCompared
from loracle.report.comparison.shown import as_json, pair_line, table
from loracle.report.verdict import GivenUp
from loracle.training.intervals import paired_difference, paired_p_value


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Runs that are really finished: a short one, one of DoRA with larger steps, one of other rows."""
    folder = tmp_path_factory.mktemp("compared")
    knobs = {"rank": 8, "alpha_ratio": 4, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-2}
    space = {"base": "empty", "knobs": {name: {"values": [value]} for name, value in knobs.items()}}
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "dora": {"training": {"variant": "dora", "epochs": 4}, "space": space},
        "rows": {"rows": copy_rows(50, seed=3)},
        "answers": {"scoring": {"metric": "exact_match", "max_new_tokens": 8}},
    }
    found = {}
    for name, own in changes.items():
        (folder / name).mkdir()
        found[name] = finish(folder / name, tiny_model, output=name, **own).with_name(name)
    return found


def test_two_runs_of_the_same_rows_are_paired_and_others_say_why_not(
    loracle: Loracle, runs: dict[str, Path], tmp_path: Path
) -> None:
    plot = tmp_path / "compared.png"
    code, out, err = loracle("compare", *runs.values(), "--plot", plot)
    assert (code, err) == (0, "")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "dora is better by" in out
    assert "their test rows differ" in out
    assert "one is scored by exact_match, the other by loss" in out
    content = json.loads(loracle("compare", runs["plain"], runs["dora"], "--json")[1])
    assert [row["run"] for row in content["runs"]] == ["dora", "plain"]  # the better one first
    assert [row["variant"] for row in content["runs"]] == ["dora", "lora"]
    (pair,) = content["pairs"]
    items = [read_items(runs[name] / "final" / "winner") for name in ("dora", "plain")]
    assert [pair["difference"], pair["low"], pair["high"]] == pytest.approx(paired_difference(*items, "loss"))
    assert pair["p"] == pair["holm"] == paired_p_value(*items, "loss")
    assert pair["items"] == len(items[0])
    scores = {row["run"]: row["value"] for row in content["runs"]}
    assert pair["difference"] == pytest.approx(scores["dora"] - scores["plain"])


def test_answers_of_an_earlier_version_are_not_paired_with_those_of_this_one(
    loracle: Loracle, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Where a chat template writes around answers what was once a part of them, which contents then say."""
    other = Path(shutil.copytree(runs["answers"], tmp_path / "other"))
    journal = (other / "journal.log").read_text()
    recorded = journal.replace('"test rows"', f'"{ANSWERS}": "0", "test rows"')
    assert recorded != journal
    (other / "journal.log").write_text(recorded)
    assert "one is of an earlier version" in loracle("compare", runs["answers"], other)[1]


def test_of_many_pairs_each_has_to_be_told_more_clearly(
    loracle: Loracle, runs: dict[str, Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(runs["plain"], tmp_path / name / "run")) for name in ("a", "b")]
    content = json.loads(loracle("compare", runs["dora"], *copies, "--json")[1])
    assert len({row["run"] for row in content["runs"]}) == 3  # folders of one name have more of their paths
    by_p = sorted(content["pairs"], key=lambda pair: pair["p"])
    assert by_p[-1]["p"] == 1.0  # two copies of one run
    assert [pair["holm"] for pair in by_p] == pytest.approx(
        [min(1.0, 3 * by_p[0]["p"]), max(min(1.0, 3 * by_p[0]["p"]), min(1.0, 2 * by_p[1]["p"])), 1.0]
    )


def test_what_cannot_be_compared_is_one_line_and_code_2(loracle: Loracle, runs: dict[str, Path]) -> None:
    for arguments, why in (
        ([runs["plain"]], "name two or more runs"),
        ([runs["plain"], runs["plain"]], "is named twice"),
        ([runs["plain"], runs["plain"].parents[1]], "is not a run folder"),
    ):
        code, out, err = loracle("compare", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert why in err


def test_a_permutation_test_is_a_sign_test_where_answers_are_right_or_wrong() -> None:
    right = [{"index": i, "correct": True} for i in range(40)]
    ten = [{"index": i, "correct": i >= 10} for i in range(40)]
    found = paired_p_value(right, ten, "exact_match")
    assert found == pytest.approx(2 * 0.5**10, abs=0.002)
    assert paired_p_value(right, right, "exact_match") == 1.0
    # Of the best of many pairs it is so many times as large, and still small where they are far apart.
    assert paired_p_value(right, ten, "exact_match", among=5) == pytest.approx(5 * 2 * 0.5**10, abs=0.004)
    far = [{"index": i, "correct": i >= 30} for i in range(40)]
    assert (paired_p_value(right, far, "exact_match", among=900) or 1) < 0.05


def test_guards_are_shown_with_what_was_given_up() -> None:
    kept = GuardReading("loss", -1.2, -1.21, -0.01, -0.02, 0.0, 0.03, 80)
    lost = GuardReading("cost", -2.0, -3.0, -1.0, -1.0, -1.0, 0.1, 0)
    given = GivenUp(4, {"rank": 8}, -0.9, -1.1, ("text",))
    row = RunRow(
        *("a", "/a", "m", "d", "lora", "default", "loss"), {}, -1.0, None, None, 1.0, None, "better", 3, 1.0
    )
    watched = replace(row, run="b", guards={"text": kept, "own": lost}, given_up=given, guarded=("Said.",))
    assert "guards" not in table(RunsCompared((row,), ()))[0]
    titles, *rows = table(RunsCompared((row, watched), ()))
    assert titles[-1] == "guards"
    assert [cells[-1] for cells in rows] == [
        "none",
        "text 1.2100 (base 1.2000): kept; own 3 (base 2): lost; given up: 0.9000",
    ]
    verdict = titles.index("verdict")
    assert [cells[verdict] for cells in rows] == ["better", "better, loses own"]
    content = as_json(RunsCompared((row, watched), ()))
    assert content["runs"][1]["guards"]["own"]["kept"] is False
    assert content["runs"][1]["given_up"]["number"] == 4
    assert content["sentences"] == ["b: Said."]


def test_a_sentence_has_the_numbers_of_its_pair() -> None:
    pair = Pair("a", "b", 0.05, 0.02, 0.08, 0.004, 0.012, 300)
    assert pair_line(pair, "exact_match", 3) == (
        "a is better by 5 points (95 % interval 2 to 8) than b on the same 300 test items: told apart "
        "(p = 0.012, adjusted for 3 pairs)."
    )
    assert "not told apart (p = 0.2)" in pair_line(Pair("a", "b", 0.05, -0.02, 0.08, 0.2, 0.2, 9), "loss", 1)
