"""What is kept in a trial's folder: written, read, and read where another version wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from loracle.records.codec import from_plain, to_plain
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import read_outcome, stored_outcomes, write_attempt, write_outcome

CONFIG = {"rank": 8, "learning_rate": 1e-5, "method": "rslora"}
FAILURE = Failure(FailureKind.LOST, "the worker was killed", "Traceback")
OUTCOMES = [
    Outcome(0.5, {"validation_loss": 1.25, "odd": math.inf}, 3.5, seconds_by_part={"training": 3.0}),
    Outcome(None, {"attempts": 2.0}, 1.0, FAILURE),
]

# As version 0.1 wrote them.
SUCCEEDED = {
    "config": CONFIG,
    "value": 0.5,
    "metrics": {"validation_loss": 1.25, "steps": 25.0},
    "seconds": 3.5,
    "failure": None,
    "seconds_by_part": {"training": 3.0, "scoring": 0.25, "other": 0.25},
}
FAILED = {
    "config": CONFIG,
    "value": None,
    "metrics": {},
    "seconds": 1,
    "failure": {"kind": "lost", "message": "the worker was killed", "traceback_tail": "Traceback"},
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_is_written_is_read(tmp_path: Path, outcome: Outcome) -> None:
    write_outcome(tmp_path / "0000", CONFIG, outcome)
    write_attempt(tmp_path / "0000", 1, CONFIG, outcome)
    assert read_outcome(tmp_path / "0000", CONFIG) == outcome
    assert read_outcome(tmp_path / "0000", CONFIG | {"rank": 4}) is None
    assert stored_outcomes(tmp_path) == [outcome]
    assert from_plain(Outcome, to_plain(outcome)) == outcome
    content = json.loads((tmp_path / "0000" / "attempt-1.json").read_text())
    assert content == {"config": CONFIG, **to_plain(outcome)}


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    parts = {"training": 3.0, "scoring": 0.25, "other": 0.25}
    succeeded = Outcome(0.5, {"validation_loss": 1.25, "steps": 25.0}, 3.5, seconds_by_part=parts)
    for content, outcome in ((SUCCEEDED, succeeded), (FAILED, Outcome(None, {}, 1.0, FAILURE))):
        (tmp_path / "outcome.json").write_text(json.dumps(content | {"of a later version": {"x": 1}}))
        assert read_outcome(tmp_path, CONFIG) == outcome


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", json.dumps(SUCCEEDED)[:-20]),
        *(json.dumps(SUCCEEDED | {name: "x"}) for name in ("value", "metrics", "seconds", "failure")),
        json.dumps(SUCCEEDED | FAILED | {"value": 1}),
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "0000").mkdir()
    (tmp_path / "0000" / "outcome.json").write_text(text)
    assert read_outcome(tmp_path / "0000", CONFIG) is None
    assert stored_outcomes(tmp_path) == []
