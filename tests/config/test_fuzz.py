"""Whatever stands in a config, a dataset or a journal: it works, or one clear line says what is wrong.

The default run takes a few hundred mutations of each; `-m slow` takes 10,000.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from places import ROOT

from loracle.config.loading import dump_config, parse_config
from loracle.config.settings import DataConfig, build_space
from loracle.errors import LoracleError
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.run.storage.opening import open_study, read_history
from loracle.training.dataset.splits import load_splits

FEW, MANY = 300, 10_000
SECONDS = 300  # for one mutation: more is a hang, on any machine

SPACE = SearchSpace((Knob("rank", (2, 4, 8), "log2"), Knob("learning_rate", (1e-4, 1e-3), "log10")))
ODD = [
    *(
        b"\x00",
        b"\xff\xfe",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"'",
        b":",
        b",",
        b"#",
    ),
    *(
        b"-1",
        b"1e999",
        b"nan",
        b".inf",
        b"null",
        b"true",
        b"!!python/object/apply:os.system ['exit']",
        b"&a *a",
    ),
    *(
        b"- ",
        b"  ",
        b"999999999999999999999",
        b"\xe2\x80\xae",
        b"\\ud800",
        b"<script>",
        b"${HOME}",
        b"../../x",
    ),
]
counts = pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


def mutations(content: bytes, n: int, seed: int) -> Iterator[bytes]:
    """n variants of a file: bytes and lines changed, moved, doubled, cut off, and odd things put in."""
    chance = random.Random(seed)
    for _ in range(n):
        found = bytearray(content)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            at = chance.randrange(len(found) + 1)
            kind = chance.randrange(7)
            lines = bytes(found).split(b"\n")
            if kind == 0 and found:
                found[at % len(found)] = chance.randrange(256)
            elif kind == 1:
                del found[at : at + chance.choice((1, 3, 30))]
            elif kind == 2:
                found[at:at] = chance.choice(ODD)
            elif kind == 3:
                del found[at:]
            elif kind == 4:
                chance.shuffle(lines)
                found = bytearray(b"\n".join(lines))
            elif kind == 5:
                found = bytearray(b"\n".join([*lines, *lines[: chance.randrange(len(lines) + 1)]]))
            else:
                words = bytes(found).split(b" ")
                words[chance.randrange(len(words))] = chance.choice(ODD)
                found = bytearray(b" ".join(words))
        yield bytes(found)


@contextmanager
def no_hang(what: bytes) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"still busy after {SECONDS} s with {what!r}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_all(content: bytes, n: int, attempt: Callable[[bytes], object]) -> tuple[int, int]:
    """How many mutations were accepted, and how many refused with one line of a sensible length."""
    accepted = refused = 0
    for mutated in mutations(content, n, seed=n):
        with no_hang(mutated):
            try:
                attempt(mutated)
                accepted += 1
            except LoracleError as error:
                message = str(error)
                assert message.strip(), mutated
                assert "\n" not in message, (message, mutated)
                assert len(message) < 2000, (message, mutated)
                refused += 1
    return accepted, refused


@counts
def test_configs(n: int) -> None:
    example = (ROOT / "examples" / "sft.yaml").read_bytes()

    def read(content: bytes) -> None:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return  # `load_config` refuses it before it is parsed: tests/config/test_settings.py
        config = parse_config(text, "a.yaml")
        build_space(config.space, batch_limit=1000)
        assert parse_config(dump_config(config)) == config  # what is accepted is kept as it was meant
        everything = yaml.safe_load(dump_config(config))  # any reader takes it for the same
        assert everything["search"]["seed"] == config.search.seed

    accepted, refused = try_all(example, n, read)
    assert accepted > n // 20
    assert refused > n // 20


@counts
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_datasets(n: int, name: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"say {word}", "completion": f"{word}, \u00e9 \U0001f600"}
        for word in "abcdefghijklmnopqrst"
    ]
    content = {
        "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "a.json": json.dumps(rows, indent=1),
        "a.csv": "prompt,completion\n" + "".join(f'{r["prompt"]},"{r["completion"]}"\n' for r in rows),
    }[name].encode()
    path = tmp_path / name

    def read(mutated: bytes) -> None:
        path.write_bytes(mutated)
        try:
            splits = load_splits(DataConfig(train=path), seed=0)
            assert all(len(part) for part in (splits.train, splits.validation, splits.test))
        finally:
            assert path.read_bytes() == mutated

    accepted, refused = try_all(content, n, read)
    assert accepted > n // (50 if name == "a.json" else 20)  # one wrong byte spoils a whole JSON file
    assert refused > n // 20


@counts
def test_journals(n: int, tmp_path: Path) -> None:
    study = open_study(tmp_path, SPACE)
    for index in range(4):
        number = study.start(index)
        failure = Failure(FailureKind.DIVERGED, "diverged") if index == 2 else None
        study.finish(number, Outcome(None if failure else 0.1 * index, {"steps": 3.0}, 1.5, failure))
    study.start(4)
    path = tmp_path / "journal.log"
    content = path.read_bytes()
    lines = content.count(b"\n")

    def read(mutated: bytes) -> None:
        path.write_bytes(mutated)
        try:
            read_history(tmp_path, SPACE)
        finally:
            assert path.read_bytes() == mutated  # looking changes nothing
        try:
            open_study(tmp_path, SPACE)
        except LoracleError:
            assert path.read_bytes() == mutated  # what is refused is left as it was
            raise
        kept = path.read_bytes().count(b"\n")
        assert kept >= mutated.count(b"\n") - 1  # at most a damaged last line is gone

    assert lines > 10
    accepted, refused = try_all(content, n, read)
    assert accepted > n // 50
    assert refused > n // 20
