"""Journals with records that are JSON, but not what was written: whole runs go on, or one line says which.

What is accepted means what it says: no trial is dropped, and those whose records were not touched stay as
they were. `-m slow` takes ten thousand mutations.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loracle.errors import LoracleError
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, History, Outcome
from loracle.report.tables import history_json, history_table
from loracle.run.storage.opening import open_study, read_history

SPACE = SearchSpace((Knob("rank", (2, 4, 8), "log2"), Knob("learning_rate", (1e-4, 1e-3), "log10")))
CREATE, FINISH = 4, 6
JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 5, 7, 1e308, -1e308, float("nan"), float("inf"), 10**30, 0.5, "", "a"),
    *("nan", "1", "\x00", "\ud800", "2026-13-45T99:99", [], [1], [None], {}, {"a": 1}, [[]], [1, 2]),
    *({"loracle:index": "3"}, {"loracle:outcome": 7}, {"loracle:outcome": None}, {"loracle:failure": {}}),
    *({"loracle:outcome": {"failure": None}}, {"loracle:space": []}, "x" * 1000, [0] * 1000),
]
for depth in (50, 5000):
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    JUNK.append(nested)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a record; in strings that are JSON themselves, too, as one place."""
    if path:
        yield path
    items = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(records: list[dict[str, Any]], chance: random.Random) -> tuple[list[Any], set[int]]:
    """Records with something changed, and the positions that were."""
    found: list[Any] = copy.deepcopy(records)
    at = chance.randrange(len(found))
    kind = chance.randrange(8)
    where = chance.choice(list(places(found[at])))
    around = found[at]
    for key in where[:-1]:
        around = around[key]
    if kind <= 3:
        around[where[-1]] = chance.choice(JUNK)
        return found, {at}
    if kind == 4:
        del around[where[-1]]
        return found, {at}
    if kind == 5 and isinstance(around, dict):
        around[chance.choice(["op_code", "trial_id", "study_id", "user_attr", "values", "extra"])] = (
            chance.choice(JUNK)
        )
        return found, {at}
    if kind == 6:
        found.insert(at, chance.choice([*JUNK, *records, {"op_code": chance.randrange(-1, 13)}]))
    else:
        other = chance.randrange(len(found))
        found[at], found[other] = found[other], found[at]
    return found, set(range(len(found)))


def text(records: list[Any]) -> bytes:
    lines = []
    for record in records:
        try:
            lines.append(json.dumps(record, separators=(",", ":")))
        except RecursionError:
            lines.append("[" * 100_000)
    return "".join(line + "\n" for line in lines).encode()


@pytest.fixture
def written(tmp_path: Path) -> tuple[list[dict[str, Any]], History]:
    """A journal's records, and what they say: values, a failure, one interrupted, one that still runs."""
    study = open_study(tmp_path, SPACE)
    for index in range(4):
        failure = Failure(FailureKind.DIVERGED, "diverged", "Traceback") if index == 2 else None
        study.finish(
            study.start(index), Outcome(None if failure else 0.1 * index, {"steps": 3.0}, 1.5, failure)
        )
    study.start(4)
    study.take_over()
    study.start(5)
    lines = (tmp_path / "journal.log").read_bytes().splitlines()
    return [json.loads(line) for line in lines], study.history()


def touched(records: list[dict[str, Any]], positions: set[int]) -> set[int]:
    """Trials that the records at these positions are about."""
    created = [i for i, record in enumerate(records) if record["op_code"] == CREATE]
    return {
        created.index(i) if i in created else record.get("trial_id", -1)
        for i, record in enumerate(records)
        if i in positions
    }


@pytest.mark.parametrize("n", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_records_that_are_not_what_was_written(
    n: int, written: tuple[list[dict[str, Any]], History], tmp_path: Path
) -> None:
    records, history = written
    journal, chance = tmp_path / "journal.log", random.Random(n)
    accepted = refused = 0
    for _ in range(n):
        found, positions = mutated(records, chance)
        content = text(found)
        journal.write_bytes(content)
        try:
            now = use(tmp_path)
            accepted += 1
        except LoracleError as error:
            message = str(error)
            assert message.strip(), content
            assert len(message) < 2000, content
            assert "\n" not in message, content
            refused += 1
            continue
        # A last line that is no record was being written when the machine went down.
        assert len(now.trials) >= len(history.trials) - (len(records) - 1 in positions), content
        if len(positions) == 1:
            for trial in history.trials[:4]:
                if trial.number not in touched(records, positions):
                    assert now.trials[trial.number] == trial, content
    assert accepted > n // 20
    assert refused > n // 10


def use(folder: Path) -> History:
    """What commands do with a journal; the history as it is read first."""
    journal = folder / "journal.log"
    before = journal.read_bytes()
    history = read_history(folder, SPACE)
    history_table(SPACE, history, "loss")
    json.dumps(history_json(SPACE, history, "loss"))
    assert journal.read_bytes() == before  # looking changes nothing
    with open_study(folder, SPACE) as study:
        study.take_over()
        study.finish(study.start(0), Outcome(0.5))
        assert len(study.history().counted) >= 1
    assert read_history(folder, SPACE).trials[-1].outcome == Outcome(0.5)
    return history


BINARY = [
    *(
        b"\x00" * 4096,
        bytes(range(256)) * 8,
        b"\xff\xfe" + "{}\n".encode("utf-16-le"),
        b"\x1f\x8b\x08\x00" * 100,
    ),
    *(b"SQLite format 3\x00" + bytes(100), b"null\n", b"[]\n", b'"text"\n', b"1\n", b"{}\n{}\n", b"\n\n\n"),
    *(b"\r\n", b" ", b"{" * 200_000 + b"\n", b'{"a":' * 5000 + b"\n", b"1" * 10_000 + b"\n", b"NaN\n"),
    b'{"op_code":0,"worker_id":"a","study_name":"another","directions":[2]}\n',
    b'{"op_code":0,"worker_id":"a","study_name":"loracle","directions":[1]}\n',
    b'{"op_code":0,"worker_id":"a","study_name":"loracle","directions":[2,2]}\n',
    b'{"op_code":0,"worker_id":"a","study_name":"loracle","directions":[]}\n',
]


@pytest.mark.parametrize("content", BINARY, ids=lambda value: repr(value[:24]))
@pytest.mark.parametrize("where", ["alone", "behind"])
def test_a_file_that_is_no_journal_and_one_with_a_tail_of_something_else(
    content: bytes, where: str, written: tuple[list[dict[str, Any]], History], tmp_path: Path
) -> None:
    journal = tmp_path / "journal.log"
    whole = content if where == "alone" else journal.read_bytes() + content
    journal.write_bytes(whole)
    if (message := refusal(tmp_path)) is not None:
        assert "\n" not in message
        assert len(message) < 2000
        assert journal.read_bytes() == whole  # what is refused is left as it was


def refusal(folder: Path) -> str | None:
    """Why a journal cannot be used; None: it can."""
    try:
        use(folder)
    except LoracleError as error:
        return str(error)
    return None
