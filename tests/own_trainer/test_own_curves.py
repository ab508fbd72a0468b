"""Learning curves of the user's own trainers: told by a function or a line, or read from what is printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import Loracle, write_config

from loracle.config.settings import ObjectiveConfig
from loracle.own_trainer.command import Command
from loracle.own_trainer.function import Function
from loracle.own_trainer.objective import ExternalObjective
from loracle.records.curves.curve import Curve
from loracle.records.trial import Outcome

TOLD = """
for step in (1, 2, 3):
    print(f"loracle: step={step} loss={3 / step} tokens={100 * step} learning_rate=1e-4 gradient_norm=2")
    print("noise with loss 77 in it")
print("loracle: step=3 validation_loss=1.5")
"""
PRINTED = """
for step in (10, 20):
    print(f"\\r {step}/20 [00:0{step}]", end="")
    print({"loss": 30 / step, "grad_norm": 1.0, "learning_rate": 1e-4, "epoch": step / 20})
print("1/5 of an evaluation")
print({"eval_loss": 1.25})
"""
EVALUATION_BAR = """
for epoch in (1, 2):
    print({"loss": 4.0 / epoch})
    print({"loss": 3.0 / epoch})
    for part in (1, 2, 3, 4):
        print(f"\\r {part}/4 [00:0{part}]", end="")
    print({"eval_loss": 2.0 / epoch})
"""
ANEW = """
for epoch in (1, 2):
    for step in (1, 2, 3):
        print(f"loracle: step={step} loss={6 / step / epoch}")
"""
LATE_BAR = """
for step in range(1, 4):
    print({"loss": 6.0 / step})
print("\\r 3/30 [00:01]", end="")
print({"loss": 1.0})
"""


def run(tmp_path: Path, program: str) -> Outcome:
    (tmp_path / "train.py").write_text(program + "\nprint('score: 0.5')\n")
    settings = ObjectiveConfig.model_validate(
        {
            "command": f"{sys.executable} train.py",
            "direction": "maximize",
            "result": {"regex": r"score: (\S+)"},
            "working_folder": tmp_path,
        }
    )
    objective = ExternalObjective(settings, Command(settings), asked=())
    return objective.run({"rank": 8}, seed=0, folder=tmp_path / "trial")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (TOLD, Curve((1, 2, 3), (3.0, 1.5, 1.0), (100, 200, 300), (1e-4,) * 3, (2.0,) * 3, (3,), (1.5,))),
        (PRINTED, Curve((10, 20), (3.0, 1.5), (), (1e-4,) * 2, (1.0,) * 2, (20,), (1.25,))),
        (EVALUATION_BAR, Curve((1, 2, 3, 4), (4.0, 3.0, 2.0, 1.5), (), (), (), (2, 4), (2.0, 1.0))),
        (ANEW, Curve((1, 2, 3), (6.0, 3.0, 2.0), left_out=3)),
        (LATE_BAR, Curve((1, 2, 3, 4), (6.0, 3.0, 2.0, 1.0))),
        ("print('loss: 2.0')\nprint('loss: 1.0')", Curve((1, 2), (2.0, 1.0))),
        ("print('nothing of the kind')", None),
    ],
)
def test_the_curve_of_a_command(tmp_path: Path, program: str, expected: Curve | None) -> None:
    outcome = run(tmp_path, program)
    assert outcome.value == 0.5
    assert outcome.curve == expected
    assert (tmp_path / "trial" / "curve.tsv").exists() == (expected is not None)


def test_the_curve_of_a_function(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def train(config, progress):\n"
        "    progress(1, 2, 3.0, tokens=10, learning_rate=1e-3, gradient_norm=0.5)\n"
        "    progress(2, 2, 2.0, tokens=20, learning_rate=1e-4, gradient_norm=0.5, validation_loss=2.5)\n"
        "    print('loss 9')\n"
        "    if config['rank'] == 9:\n"
        "        progress(3, 3, 1.0, speed=1)\n"
        "    return 0.5\n"
    )
    settings = ObjectiveConfig.model_validate(
        {"function": "own.py:train", "direction": "maximize", "working_folder": tmp_path}
    )
    objective = ExternalObjective(settings, Function(settings), asked=())
    outcome = objective.run({"rank": 8}, seed=0, folder=tmp_path / "a")
    assert outcome.curve == Curve((1, 2), (3.0, 2.0), (10, 20), (1e-3, 1e-4), (0.5, 0.5), (2,), (2.5,))
    assert (tmp_path / "a" / "curve.tsv").read_text().startswith("step\tloss\t")
    failed = objective.run({"rank": 9}, seed=0, folder=tmp_path / "b")
    assert failed.failure is not None
    assert "takes gradient_norm, learning_rate, tokens, validation_loss beside" in failed.failure.message
    assert failed.curve is not None


def test_steps_that_begin_anew_are_told_of_once_and_at_the_end(tmp_path: Path, loracle: Loracle) -> None:
    (tmp_path / "own.py").write_text(
        "def train(config, progress):\n"
        "    for step in (1, 2, 1, 2):\n"
        "        progress(step, 2, 1.0)\n"
        "    return config['rank']\n"
    )
    content = {
        "objective": {"function": "own.py:train", "direction": "maximize"},
        "space": {"rank": [4, 8, 16]},
        "search": {"trials": 3},
        "execution": {"workers": 0},
        "output": "run",
    }
    code, shown, told = loracle("tune", write_config(tmp_path / "config.yaml", content, {}), "--json")
    assert code == 0, told
    assert told.count("2 losses are left out of learning curves") == 1
    notices = {notice["name"]: notice["count"] for notice in json.loads(shown)["notices"]}
    assert notices["losses_left_out"] == 6
