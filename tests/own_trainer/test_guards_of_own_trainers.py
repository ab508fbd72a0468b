"""What must not be lost, measured by trainers of the user's own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from loracle import hf
from loracle.config.loading import load_config
from loracle.errors import ConfigError, StudyError
from loracle.records.trial import FailureKind
from loracle.report.verdict import headline, verdict
from loracle.report.verdict.stored import verdict_json
from loracle.run.tune import Result, tune

SCRIPT = """
import json, math, sys
rate, folder, phase = float(sys.argv[1]), sys.argv[2], sys.argv[3]
score = 1 - 0.1 * (math.log10(rate) + 2) ** 2
general = 2.0 + (0.5 if rate >= 1e-3 else 0.01 if rate == 1e-4 else 0.0)
general += 0.5 if phase == "final" and rate == 1e-4 else 0.0
"""
JSON = "json.dump({'value': score, 'held': {'out': [general]}}, open(folder + '/result.json', 'w'))"
PRINTED = "print('score', score); print(f'loracle: general={general}')"
RATES = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
GUARD = {"base": 2.0, "direction": "minimize", "tolerance": "5 %"}


def searched(folder: Path, how: str, guard: dict[str, Any], *, phase: str = "x", **objective: Any) -> Result:
    (folder / "train.py").write_text(SCRIPT + how + "\n")
    command = [sys.executable, "train.py", "{learning_rate}", "{folder}", phase]
    content = {
        "objective": {"command": command, "direction": "maximize", **objective},
        "guard": {"general": GUARD | guard},
        "space": {"base": "empty", "knobs": {"learning_rate": {"values": RATES, "scale": "log10"}}},
        "standard": {"learning_rate": 1e-5},
        "search": {"trials": 5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return tune(load_config(folder / "config.yaml"))


@pytest.mark.parametrize(
    ("how", "guard", "objective"),
    [
        (JSON, {"key": "held.out.0"}, {}),
        (PRINTED, {}, {"result": {"regex": r"score (\S+)"}}),
    ],
)
def test_a_commands_guard_constrains_the_search(
    tmp_path: Path, how: str, guard: dict[str, Any], objective: dict[str, Any]
) -> None:
    result = searched(tmp_path, how, guard, **objective)
    comparison = result.comparison
    assert comparison.winner == {"learning_rate": 1e-4}  # 1e-3 and 1e-2 score more, and lose it
    reading = comparison.winner_outcome.guards["general"]
    assert (reading.metric, reading.base, reading.value, reading.kept) == ("cost", -2.0, -2.01, True)
    assert reading.allowed == pytest.approx(0.1)
    said = verdict(comparison, "value")
    assert "the winner keeps general: cost 2.01 against 2 of the base model, worse by 0.01" in said
    assert "where 0.1 may be lost (one number, so no interval)" in said
    assert "scored 1 in its trial, where the winner scored 0.6, and lost general: learning_rate 0.01" in said
    assert headline(comparison, "value").endswith(
        "; general is kept, against the base model worse by 0.01, where 0.1 may be lost."
    )
    assert "(loses general)" in (result.folder / "report.md").read_text()
    assert "loses a guard" in (result.folder / "report.html").read_text()
    config = load_config(tmp_path / "config.yaml")
    found = verdict_json(config, result.space, result.finished, result.history, ())
    assert found["guarded"]["given_up"]["broken"] == ["general"]
    assert found["winner"]["guards"]["general"]["kept"] is True
    tune(config)  # and again: nothing is refused, nothing changes
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace("5 %", "6 %"))
    with pytest.raises(StudyError, match=r"guard\.general\.tolerance"):
        tune(load_config(tmp_path / "config.yaml"))


def test_a_winner_that_loses_it_in_its_final_run_is_passed_over(tmp_path: Path) -> None:
    result = searched(tmp_path, JSON, {"key": "held.out.0"}, phase="{phase}")
    comparison = result.comparison
    assert [one.config for one in comparison.passed_over] == [{"learning_rate": 1e-4}]
    assert comparison.winner == {"learning_rate": 1e-5}
    assert (result.folder / "final" / "broken-1").is_dir()
    assert "Passed over: learning_rate 1e-4 scored 0.6 and, trained on all data, loses general" in verdict(
        comparison, "value"
    )


def test_the_base_model_may_be_measured_by_the_trainer(tmp_path: Path) -> None:
    how = JSON.replace("'held'", "'base': 2.45, 'held'")
    result = searched(tmp_path, how, {"key": "held.out.0", "base": "base", "tolerance": 0.0})
    assert result.comparison.winner == {"learning_rate": 1e-4}
    assert result.comparison.winner_outcome.guards["general"].base == -2.45


def test_a_guard_without_its_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match="guard general: the trainer gives no gone beside its result"
    ) as error:
        searched(tmp_path, PRINTED, {"key": "gone"}, result={"regex": r"score (\S+)"})
    assert "it gives general" in str(error.value)
    (tmp_path / "nan").mkdir()
    result = searched(
        tmp_path / "nan",
        JSON.replace("[general]", "[general if rate < 1e-3 else math.nan]"),
        {"key": "held.out.0"},
    )
    failures = [t.outcome.failure for t in result.history.finished if t.outcome and t.outcome.failure]
    assert {failure.kind for failure in failures} == {FailureKind.DIVERGED}
    assert failures[0].message == "guard general: held.out.0 is nan"


def test_a_functions_guard(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import math\n"
        "def train(config):\n"
        "    rate = config['learning_rate']\n"
        "    score = 1 - 0.1 * (math.log10(rate) + 2) ** 2\n"
        "    return {'value': score, 'kept': 0.9 if rate < 1e-3 else 0.5}\n"
    )
    content = {
        "objective": {"function": "own.py:train", "direction": "maximize"},
        "guard": {"known": {"key": "kept", "direction": "maximize", "base": 0.9, "tolerance": 0.02}},
        "space": {"base": "empty", "knobs": {"learning_rate": {"values": RATES, "scale": "log10"}}},
        "search": {"trials": 5},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    result = tune(load_config(tmp_path / "config.yaml"))
    assert result.comparison.winner == {"learning_rate": 1e-4}
    assert result.comparison.winner_outcome.guards["known"].value == 0.9
    (tmp_path / "own.py").write_text(
        (tmp_path / "own.py")
        .read_text()
        .replace(
            "'kept'", "'asked': [{'value': rate < 1e-3 or i % 2, 'base': i > 1} for i in range(50)], 'kept'"
        )
    )
    content["guard"] = {"known": {"items": "asked", "direction": "maximize", "tolerance": 0.02}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content | {"output": "items"}))
    result = tune(load_config(tmp_path / "config.yaml"))
    assert result.comparison.winner == {"learning_rate": 1e-4}
    reading = result.comparison.winner_outcome.guards["known"]
    assert (reading.value, reading.base, reading.items) == (1.0, 0.96, 50)
    lost = next(t.outcome for t in result.history.succeeded if t.outcome and t.outcome.broken)
    assert lost.guards["known"].high < -0.02


ITEMS = """
import random
chance = random.Random(5)
with open(folder + "/held.jsonl", "w") as file:
    for i in range(40):
        base = 2 + chance.gauss(0, 0.5)
        value = base + general - 2 + chance.gauss(0, 0.1)
        print(json.dumps({"index": f"q{i}", "value": value, "base": base}), file=file)
json.dump({'value': score}, open(folder + '/result.json', 'w'))
"""
OF_ITEMS = {"items": "held.jsonl", "base": None}


def test_a_guard_of_items_has_an_interval_and_is_broken_beyond_noise_alone(tmp_path: Path) -> None:
    result = searched(tmp_path, ITEMS, OF_ITEMS | {"tolerance": 0.0}, phase="{phase}")
    comparison = result.comparison
    assert comparison.winner == {"learning_rate": 1e-5}  # 1e-4 is within noise in its trial, not in the final
    slight = [t.outcome.guards["general"] for t in result.history.succeeded if t.index == 2 and t.outcome]
    assert slight[0].kept
    assert slight[0].low < slight[0].change < 0 < slight[0].high  # one number would have broken it
    reading = comparison.winner_outcome.guards["general"]
    assert reading.items == 40
    assert reading.base == pytest.approx(-2, abs=0.3)
    said = verdict(comparison, "value")
    assert "(95 % interval" in said.split("the winner keeps general")[1]
    assert "where 0 may be lost on 40 items" in said
    assert "loses general: cost" in said
    assert "no interval" not in said.split("keeps general")[1].split("Given up")[0]
    lines = (result.folder / "final" / "winner" / "items-guard-general.jsonl").read_text().splitlines()
    assert len(lines) == 40
    assert json.loads(lines[0]).keys() == {"index", "correct", "base"}
    found = verdict_json(
        load_config(tmp_path / "config.yaml"), result.space, result.finished, result.history, ()
    )
    told = found["winner"]["guards"]["general"]
    assert told["low"] < told["change"] < told["high"]


@pytest.mark.parametrize(
    ("how", "guard", "message"),
    [
        (ITEMS.replace("held.jsonl", "gone.jsonl"), {}, "the command wrote no held.jsonl into the trial's"),
        (ITEMS.replace(', "base": base', ""), {}, "guard general: held.jsonl: item 0 has no base, which is"),
        (ITEMS.replace('"base": base', '"base": "x"'), {}, "the base of item 0 is 'x', not a number"),
        (ITEMS, {"base": 3.5}, "the mean of the items is .* and the result 3.5"),
        (ITEMS, {"key": "gone"}, "guard general: the trainer gives no gone beside its result"),
    ],
)
def test_wrong_items_of_a_guard_are_told_in_one_line(
    tmp_path: Path, how: str, guard: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyError):
        searched(tmp_path, how, OF_ITEMS | guard)
    outcome = json.loads((tmp_path / "run" / "trials" / "0000" / "outcome.json").read_text())
    assert outcome["failure"]["kind"] == "crashed"
    assert re.search(message, outcome["failure"]["message"])


def test_items_of_a_guard_that_are_no_numbers_any_more_have_diverged(tmp_path: Path) -> None:
    how = ITEMS.replace('"value": value', '"value": value if rate < 1e-3 else math.nan')
    result = searched(tmp_path, how, OF_ITEMS)
    failures = [t.outcome.failure for t in result.history.finished if t.outcome and t.outcome.failure]
    assert {(one.kind, one.message) for one in failures} == {
        (FailureKind.DIVERGED, "guard general: held.jsonl: the value of item 0 is nan")
    }


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"base": None}, r"config.yaml:\d+: guard.general: needs base, what the base model has there"),
        ({"items": "../held.jsonl"}, "general.items is a file inside the trial's folder"),
        ({"items": "items-guard-general.jsonl"}, "Loracle itself writes items-guard-general.jsonl"),
    ],
)
def test_guards_that_cannot_be_are_refused(tmp_path: Path, guard: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        searched(tmp_path, ITEMS, guard)
    assert "\n" not in str(error.value)


class Forgetting:
    """Better with larger steps, which forget."""

    evaluated = 0

    def __init__(self, config: dict[str, Any]) -> None:
        self.rate, self.trained = config["lr"], False

    def train(self) -> None:
        self.trained = True

    def evaluate(self) -> dict[str, float]:
        Forgetting.evaluated += 1
        lost = 0.5 if self.trained and self.rate >= 1e-3 else 0.0
        return {"eval_loss": 1.0 - 100 * self.rate, "eval_general_loss": 2.0 + lost}


def test_a_guard_of_trainers_of_transformers(tmp_path: Path) -> None:
    space = {"lr": [1e-5, 1e-4, 1e-3, 5e-3]}
    free = hf.search(Forgetting, space, trials=4)
    assert free.params == {"lr": 5e-3}
    Forgetting.evaluated = 0
    guards = {"eval_general_loss": {"tolerance": "2 %"}}
    found = hf.search(Forgetting, space, trials=3, folder=tmp_path, guards=guards)
    found = hf.search(Forgetting, space, trials=4, folder=tmp_path, guards=guards)
    assert Forgetting.evaluated == 5  # the base model once
    assert found.params == {"lr": 1e-4}
    assert json.loads((tmp_path / "guards.json").read_text()) == {"eval_general_loss": 2.0}
    lost = {params["lr"] for params, outcome in found.trials if outcome.broken}
    assert lost == {1e-3, 5e-3}
    with pytest.raises(StudyError, match="guard eval_general_loss"):
        hf.search(
            Forgetting, space, trials=4, folder=tmp_path, guards={"eval_general_loss": {"tolerance": 1}}
        )
    told = hf.search(Forgetting, space, trials=4, guards={"eval_general_loss": {"base": 3, "tolerance": 0}})
    assert told.params == {"lr": 5e-3}


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        (
            {"gone": {"direction": "minimize"}},
            "evaluate\\(\\) gives no number 'gone'; it gives eval_general_loss, eval_loss",
        ),
        ({"eval_general_loss": 2.0}, "a mapping of tolerance, direction and base"),
        ({"eval_general_loss": {"tolerance": -1}}, "tolerance is a number of 0 or more"),
        ({"eval_general_loss": {"base": "2"}}, "base is a number; got '2'"),
        ({"eval_general_loss": {"direction": "up"}}, "direction is minimize or maximize"),
    ],
)
def test_wrong_guards_are_refused_in_one_line(guards: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        hf.search(Forgetting, {"lr": [1e-4, 1e-3]}, trials=1, guards=guards)
    assert "\n" not in str(error.value)
