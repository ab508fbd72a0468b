"""Scores of every size and kind arrive as the number they are; what is none costs its trial and is named."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loracle.config.loading import parse_config
from loracle.execution.messages import Finished, line_of, message_of
from loracle.own_trainer.call import numbers_beside
from loracle.own_trainer.command import Command
from loracle.own_trainer.objective import ExternalObjective
from loracle.records.codec import from_plain
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import read_outcome, write_outcome
from loracle.run.storage.opening import open_study, read_history
from loracle.text import escape
from loracle.text.numbers import NotANumber, as_count, as_number, shown

SPACE = SearchSpace((Knob("rank", (1, 2, 4)),))


class Rude:
    """Answers nothing."""

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (-0.0, -0.0),
        ("1.5", 1.5),
        (Decimal("0.1"), 0.1),
        (Fraction(1, 4), 0.25),
        (np.float32(1.5), 1.5),
        (np.float16(0.5), 0.5),
        (np.int8(-3), -3.0),
        (np.float64(1e308), 1e308),
        (np.array(2.5), 2.5),
        (np.array([2.5]), 2.5),
        (np.array([[2]]), 2.0),
        (torch.tensor(1.5, requires_grad=True), 1.5),
        (torch.tensor([1.5], dtype=torch.bfloat16), 1.5),
        (torch.tensor(7), 7.0),
        (math.inf, math.inf),
        (Decimal("-Infinity"), -math.inf),
    ],
)
def test_numbers_of_all_libraries_are_numbers(value: Any, number: float) -> None:
    found = as_number(value)
    assert type(found) is float
    assert found == number
    assert math.copysign(1, found) == math.copysign(1, number)


def test_what_is_no_number_is_named() -> None:
    assert math.isnan(as_number(np.float32("nan")))
    for value in (
        True,
        np.bool_(True),
        torch.tensor(True),
        None,
        "high",
        [1],
        {},
        1j,
        np.array([1, 2]),
        Rude(),
        b"",
    ):
        with pytest.raises(NotANumber, match="not a number"):
            as_number(value)
    for value in (10**400, -(10**400), 10**6000, Fraction(10**400, 3)):
        with pytest.raises(NotANumber, match="too large for a number"):
            as_number(value)
    assert shown(None) == "'None'"
    assert shown("x" * 1000) == repr("x" * 100)
    assert shown(Rude()) == "an object of type Rude"
    assert shown(list(range(10**6))) == "an object of type list"


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (3, 3),
        (3.0, 3),
        (np.int64(4), 4),
        (np.float32(5), 5),
        (torch.tensor(6), 6),
        (Decimal(7), 7),
        (Fraction(8), 8),
    ],
)
def test_whole_numbers_of_all_libraries_are_counts(value: Any, count: int) -> None:
    found = as_count(value)
    assert type(found) is int
    assert found == count


@pytest.mark.parametrize(
    "value",
    [1.5, math.nan, math.inf, "3", True, np.bool_(1), 2**63, 10**4000, None, [], Rude(), Decimal("sNaN")],
)
def test_other_things_are_no_counts(value: Any) -> None:
    with pytest.raises(NotANumber, match="not a whole number"):
        as_count(value)


# -- numbers beside a result ------------------------------------------------------------------------


def test_names_of_metrics_are_harmless_and_none_is_lost() -> None:
    long = "m" * 10_000
    found = numbers_beside(
        {
            "value": 9,
            "loss": 1,
            "result": 2,
            "attempts": 3,
            "\ud800": 4,
            "a\nb\x1b[31m": 5,
            long + "a": 6,
            long + "b": np.float32(7),
            1: 8,
            "text": "0.5",
            "flag": True,
            "nan": math.nan,
            "list": [1],
        },
        leave_out="value",
    )
    cut = "m" * 197 + "..."
    assert found == {
        "loss": 1.0,
        "result~2": 2.0,
        "attempts~2": 3.0,
        "\\ud800": 4.0,
        "a\\nb\\x1b[31m": 5.0,
        cut: 6.0,
        f"{cut}~2": 7.0,
        "1": 8.0,
    }
    with pytest.raises(ValueError, match="more than 1,000 numbers beside it"):
        numbers_beside({str(i): i for i in range(1001)}, leave_out="value")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63)
NAMES = st.text(max_size=6) | st.sampled_from(["loss", "\ud800", "value", "a.b", "-1", "\x1b[0m", "result"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def command(result: dict[str, str]) -> ExternalObjective:
    """One whose result is read alone; nothing is run."""
    text = yaml.safe_dump(
        {
            "objective": {"command": ["true", "{rank}"], "result": result, "direction": "minimize"},
            "space": {"base": "empty", "knobs": {"rank": {"values": [1, 2]}}},
        }
    )
    settings = parse_config(text).objective
    assert settings is not None
    reader = Command(settings)
    return ExternalObjective(settings, lambda call: reader.result_in(call.folder), asked=())


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(NAMES, JSON, max_size=5), NUMBERS, st.lists(st.integers(0, 2), max_size=2), st.booleans()
)
def test_a_score_in_a_file_is_the_score_of_the_trial(
    tmp_path: Path, beside: dict[str, Any], score: float, nested: list[int], mark: bool
) -> None:
    """Whatever stands around it: file, outcome and its JSON hold the same numbers."""
    key = "the score"
    content: Any = {**beside, key: score}
    for position in nested:
        content = [*[None] * position, content]
        key = f"{position}.{key}"
    encoding = "utf-8-sig" if mark else "utf-8"
    (tmp_path / "result.json").write_text(json.dumps(content), encoding=encoding)
    objective = command({"json": "result.json", "key": key})
    outcome = objective.run({"rank": 1}, seed=0, folder=tmp_path)
    assert outcome.failure is None
    assert outcome.value == -float(score)
    assert outcome.metrics["result"] == float(score)
    numbers = [float(v) for v in beside.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    assert sorted(outcome.metrics.values()) == sorted([*numbers, float(score)])
    assert all(escape.printable(name) == name for name in outcome.metrics)
    write_outcome(tmp_path, {"rank": 1}, outcome)
    assert read_outcome(tmp_path, {"rank": 1}) == outcome


@pytest.mark.parametrize(
    "score", [1e160, -1e160, 1.7976931348623157e308, 5e-324, -0.0, 2.0**53 + 2, 0.1 + 0.2]
)
def test_a_finite_score_of_any_size_is_kept_exactly(tmp_path: Path, score: float) -> None:
    names = {"\\ud800": 1.0, "x" * 10_000: 2.0, "a\nb": 3.0, "half \ud800": 4.0}
    outcome = Outcome(score, {"result": -score, **names}, 1.5)
    write_outcome(tmp_path / "0000", {"rank": 1}, outcome)
    assert read_outcome(tmp_path / "0000", {"rank": 1}) == outcome
    message = Finished((outcome,), 1)
    assert message_of(line_of(message)) == message
    with open_study(tmp_path, SPACE) as study:
        study.finish(study.start(0), outcome)
    (trial,) = read_history(tmp_path, SPACE).trials
    assert trial.outcome is not None
    assert repr(trial.outcome.value) == repr(score + 0.0)  # no zero has a sign
    assert trial.outcome == outcome


def test_a_failure_is_one_harmless_line_whatever_was_printed(tmp_path: Path) -> None:
    nasty = "Traceback:\r\n\x1b]0;owned\x07\x1b[2J\u202egnp\u2028\ud800\0 " + "x" * 10_000
    outcome = Outcome(None, {}, 1.0, Failure(FailureKind.CRASHED, nasty, nasty[-2000:]))
    assert outcome.failure is not None
    message = outcome.failure.message
    assert message.startswith("Traceback:\\r\\n\\x1b]0;owned\\x07\\x1b[2J\\u202egnp\\u2028\\ud800\\x00 xxx")
    assert message.isprintable()
    assert len(message) == 600
    write_outcome(tmp_path, {"rank": 1}, outcome)
    assert read_outcome(tmp_path, {"rank": 1}) == outcome
    with open_study(tmp_path, SPACE) as study:
        study.finish(study.start(0), outcome)
    assert read_history(tmp_path, SPACE).trials[0].outcome == outcome


@pytest.mark.parametrize(
    "content",
    [
        {"value": "high", "metrics": {}, "seconds": 1, "failure": None},
        {"value": True, "metrics": {}, "seconds": 1, "failure": None},
        {"value": 1, "metrics": {"a": None}, "seconds": 1, "failure": None},
        {"value": 1, "metrics": [], "seconds": 1, "failure": None},
        {"value": 1, "metrics": {}, "seconds": None, "failure": None},
        {"value": math.nan, "metrics": {}, "seconds": 1, "failure": None},
        {"value": None, "metrics": {}, "seconds": 1, "failure": None},
        {
            "value": None,
            "metrics": {},
            "seconds": 1,
            "failure": {"kind": "tired", "message": "", "traceback_tail": ""},
        },
        {
            "value": None,
            "metrics": {},
            "seconds": 1,
            "failure": {"kind": "lost", "message": 5, "traceback_tail": ""},
        },
    ],
)
def test_what_is_no_outcome_is_none(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        from_plain(Outcome, content)
    (tmp_path / "outcome.json").write_text(json.dumps({"config": {}, **content}))
    assert read_outcome(tmp_path, {}) is None  # damaged: it is trained again
