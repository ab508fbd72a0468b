"""A function of the user's own as the metric, beside the built-in trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = """
import random
import numpy as np

def per_item(predictions, references, items):
    random.seed(1)
    print("from the metric")
    assert len(predictions) == len(references) == len(items)
    assert all(item["prompt"] == f"copy:{item['reference']}=" for item in items)
    return np.array([len(set(p) & set(r)) / len(set(r)) for p, r in zip(predictions, references)])

def in_all(predictions, references, items):
    return sum(p == r for p, r in zip(predictions, references)) / len(items)

def edits(predictions, references, items):
    return [abs(len(p) - len(r)) for p, r in zip(predictions, references)]

def short(predictions, references, items):
    return [1.0]

def no_number(predictions, references, items):
    return [float("nan")] * len(predictions)

def raises(predictions, references, items):
    return [1 / 0]

def other_arguments(predictions):
    return 1.0

def later(predictions, references, items):
    return [1.0] * len(predictions) if predictions == references else float("nan")
"""


@pytest.fixture
def with_metric(run_config: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A config whose metric is one of these functions."""

    def write(name: str, **scoring: object) -> Path:
        (tmp_path / "mine.py").write_text(GOOD)
        return run_config(
            scoring={"metric": name, "max_new_tokens": 6, **scoring}, search={"trials": 3, "seed": 3}
        )

    return write


def test_what_it_gives_an_item_has_an_interval_and_a_name(
    with_metric: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    config = with_metric(
        "mine.py:per_item", metrics=["minimize mine.py:edits", "mine.py:in_all", "exact_match"]
    )
    found = json.loads(said("tune", config, "--json"))
    metrics = found["winner"]["metrics"]
    assert metrics["low"] <= found["winner"]["score"] == metrics["mine.py:per_item"] <= metrics["high"]
    assert metrics["mine.py:in_all"] == metrics["exact_match"]
    assert "mine.py:in_all_low" not in metrics
    edits = "minimize mine.py:edits"
    assert 0 <= metrics[f"{edits}_low"] <= metrics[edits] <= metrics[f"{edits}_high"]
    assert found["difference"]["items"] > 0
    item = json.loads((tmp_path / "run/final/winner/items.jsonl").read_text().splitlines()[0])
    assert set(item["scores"]) == {edits, "exact_match"}
    report = (tmp_path / "run/report.md").read_text()
    assert "a test per item of 0." in report
    assert "| test edits (less is better) |" in report


def test_one_number_in_all_is_compared_without_an_interval_and_says_so(
    with_metric: Callable[..., Path], said: Callable[..., str]
) -> None:
    found = json.loads(said("tune", with_metric("minimize mine.py:in_all"), "--json"))
    assert "low" not in found["winner"]["metrics"]
    assert found["difference"]["mean"] is None
    assert found["winner"]["score"] == -found["winner"]["test_value"]
    if found["standing"] not in ("same", "not_compared"):
        assert "one run each and no interval, so chance plays a part" in found["verdict"]


def test_what_cannot_be_called_is_refused_before_anything_is_trained(
    with_metric: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    for name, reason in (
        ("mine.py:short", "ValueError: mine.py:short returned 1 numbers for 3 predictions"),
        ("mine.py:no_number", "mine.py:no_number returned nan for item 0; a score is a finite number"),
        ("mine.py:raises", "ZeroDivisionError: .*mine.py, line 25"),
        ("mine.py:other_arguments", "is called with predictions, references and items: too many"),
        ("mine.py:not_there", "has no attribute 'not_there'"),
        ("nowhere.py:f", "cannot be loaded: FileNotFoundError"),
    ):
        errors = said("tune", with_metric(name), refused=True)
        (line,) = [line for line in errors.splitlines() if line != "reading data and model"]
        assert line.startswith("loracle: scoring.metric: ")
        assert re.search(reason, line), line
    assert not (tmp_path / "run" / "trials").exists()


def test_a_metric_that_breaks_later_ends_the_run_and_not_in_silence(
    with_metric: Callable[..., Path], loracle: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, errors = loracle("tune", with_metric("mine.py:later"))
    assert code == 2
    assert "mine.py:later returned nan" in errors
    outcome = json.loads((tmp_path / "run/trials/0000/outcome.json").read_text())
    assert outcome["failure"]["kind"] == "crashed"


def test_a_changed_function_is_another_run(
    with_metric: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    config = with_metric("mine.py:edits")
    said("tune", config, "--trials", 2)
    (tmp_path / "mine.py").write_text(GOOD.replace("abs(", "2 * abs("))
    errors = said("tune", config, "--trials", 3, refused=True)
    assert "changed since this run began: source of mine.py:edits" in errors
