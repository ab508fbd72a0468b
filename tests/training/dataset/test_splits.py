from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import copy_rows
from hypothesis import given
from hypothesis import strategies as st

from loracle.config.settings import DataConfig
from loracle.errors import DataError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import load_splits, proxy_positions, proxy_size

Write = Callable[[str, list[dict[str, Any]]], Path]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def test_automatic_split_is_seeded_and_disjoint(write_rows: Write) -> None:
    config = DataConfig(train=write_rows("t.jsonl", copy_rows(100, 5)), validation_fraction=0.2)
    splits = load_splits(config, 0)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [70, 20, 10]
    sources = {e.source for s in (splits.train, splits.validation, splits.test) for e in s}
    assert len(sources) == 100
    assert load_splits(config, 0) == splits
    other = load_splits(config, 1)
    assert other.validation != splits.validation
    assert other.fingerprint != splits.fingerprint


def test_identical_rows_stay_on_one_side(write_rows: Write) -> None:
    rows = [row for row in copy_rows(20, 5) for _ in range(3)]
    splits = load_splits(DataConfig(train=write_rows("t.jsonl", rows)), 0)
    sides = [{e.content for e in s} for s in (splits.train, splits.validation, splits.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


def lines(examples: Sequence[Example]) -> list[int]:
    return [int(example.source.rpartition(":")[2]) for example in examples]


def test_splits_without_repeated_prompts_stay_what_they_were(write_rows: Write) -> None:
    """Taken from version 0.1.0, so that its runs keep their meaning."""
    rows = copy_rows(30, 5)
    config = DataConfig(train=write_rows("t.jsonl", rows), validation_fraction=0.2)
    first, second = load_splits(config, 0), load_splits(config, 7)
    assert lines(first.validation) == [2, 4, 12, 16, 26, 29]
    assert lines(first.test) == [8, 17, 22]
    assert first.fingerprint == "b863b1965415d5835b077698b79691026eafffe280365e9c9684549dbd7980cc"
    assert lines(second.validation) == [3, 4, 5, 6, 23, 24]
    assert lines(second.test) == [2, 7, 22]
    others = [{"prompt": f"other{i}", "completion": "x"} for i in range(5)]
    given = load_splits(DataConfig(train=config.train, validation=write_rows("v.jsonl", others)), 0)
    assert lines(given.test) == [8, 17, 22]
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]
    chat = load_splits(DataConfig(train=write_rows("c.jsonl", chats)), 3)
    assert (lines(chat.validation), lines(chat.test)) == ([3, 5, 20], [21, 25, 26])
    assert chat.fingerprint == "9f8b2d8245eb66fced18cba8d239982e0a3507084e8b8edf27fb645a1000b617"


def questions(examples: Sequence[Example]) -> set[Any]:
    return {example.question for example in examples}


@pytest.mark.parametrize("form", ["prompt", "messages", "text"])
def test_rows_of_one_prompt_stay_on_one_side(form: str, write_rows: Write) -> None:
    """Four answers to each of forty prompts; a text is a prompt of its own."""
    rows: list[dict[str, Any]] = []
    for i in range(160):
        ask, say = f"q{i // 4}", f"a{i}" if form != "text" else f"a{i // 4}"
        turns = [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]
        prompted = {"prompt": ask, "completion": say}
        rows.append(
            {"messages": turns} if form == "messages" else prompted if form == "prompt" else {"text": say}
        )
    config = DataConfig(train=write_rows("t.jsonl", rows))
    for seed in range(3):
        splits = load_splits(config, seed)
        assert [len(part) for part in splits.parts.values()] == [128, 16, 16]
        train, validation, test = (questions(part) for part in splits.parts.values())
        assert not train & validation
        assert not train & test
        assert not validation & test


def test_chats_that_grow_stay_on_one_side(write_rows: Write) -> None:
    """As exports have them: after one turn, after two, and after three."""
    turns = ["user", "assistant"] * 3
    rows = [
        {"messages": [{"role": role, "content": f"{role} {k} of {i}"} for k, role in enumerate(turns[:n])]}
        for n in (2, 4, 6)
        for i in range(40)
    ]
    for seed in range(3):
        splits = load_splits(DataConfig(train=write_rows("t.jsonl", rows)), seed)
        assert [len(part) for part in splits.parts.values()] == [96, 12, 12]
        sides = [{e.messages[0].content for e in part} for part in splits.parts.values()]
        assert [len(side) for side in sides] == [32, 4, 4]
        assert splits.notices == ()


def test_an_automatic_split_shares_no_prompt_with_a_given_file(write_rows: Write) -> None:
    rows = copy_rows(40, 5)
    train = write_rows("t.jsonl", rows)
    given = write_rows("v.jsonl", [{**row, "completion": "other"} for row in rows[:20]])
    for seed in range(5):
        for config in (DataConfig(train=train, validation=given), DataConfig(train=train, test=given)):
            splits = load_splits(config, seed)
            assert not questions(splits.validation) & questions(splits.test)
            assert len(splits.train) == 36
    every = write_rows("w.jsonl", [{**row, "completion": "other"} for row in rows])
    with pytest.raises(
        DataError, match=r"test split is empty: .*too few distinct prompts that no other file"
    ):
        load_splits(DataConfig(train=train, validation=every), 0)


def test_a_prompt_of_many_rows_makes_no_large_split(write_rows: Write) -> None:
    rows = [{"prompt": "say", "completion": f"a{i}"} for i in range(60)]
    rows += [{"prompt": f"q{i}", "completion": "b"} for i in range(40)]
    config = DataConfig(train=write_rows("t.jsonl", rows))
    for seed in range(10):
        splits = load_splits(config, seed)
        assert [len(part) for part in splits.parts.values()] == [80, 10, 10]
    alone = write_rows("u.jsonl", rows[:60])
    with pytest.raises(
        DataError, match=r"too few distinct prompts for data.test_fraction=0.1 and data.valid"
    ):
        load_splits(DataConfig(train=alone), 0)


def test_white_space_makes_another_prompt(write_rows: Write) -> None:
    """Nothing is normalised: a model reads other tokens."""
    rows = [{"prompt": f"q{i // 2}{' ' * (i % 2)}", "completion": "b"} for i in range(40)]
    splits = load_splits(DataConfig(train=write_rows("t.jsonl", rows)), 0)
    assert len({q for part in splits.parts.values() for q in questions(part)}) == 40


def test_everything_that_training_uses_is_in_the_fingerprint(write_rows: Write) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    call = {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    tools = [{"type": "function", "function": {"name": "f"}}]
    changed: list[dict[str, Any]] = [
        {"messages": turns},
        {"messages": [*turns[:3], {**turns[3], "reasoning_content": "e"}]},
        {"messages": [*turns[:3], {**turns[3], **call}]},
        {"messages": [*turns[:3], {**turns[3], **call, "content": None}]},
        {"messages": [turns[0], {**turns[1], "weight": 0}, *turns[2:]]},
        {"messages": [{**turns[0], "name": "eve"}, *turns[1:]]},
        {"messages": turns, "tools": tools},
        {"messages": turns, "documents": tools},
        {"messages": turns, "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": turns, "choices": ["d", "e"]},
    ]
    others = write_rows(
        "o.jsonl", [{"messages": [{**turns[0], "content": str(i)}, turns[1]]} for i in range(4)]
    )
    fingerprints = set()
    for row in changed:
        path = write_rows("t.jsonl", [row, {"messages": turns[:2]}])
        config = DataConfig(
            train=path, validation=others, test=write_rows("p.jsonl", [{"messages": turns}] * 2)
        )
        fingerprints.add(load_splits(config, 0).fingerprint)
    assert len(fingerprints) == len(changed)
    unread = write_rows("t.jsonl", [{**changed[0], "id": 7}, {"messages": turns[:2]}])
    assert load_splits(config.model_copy(update={"train": unread}), 0).fingerprint in fingerprints


def test_explicit_files_are_used_whole(write_rows: Write) -> None:
    rows = copy_rows(40, 5)
    config = DataConfig(
        train=write_rows("t.jsonl", rows[:30]),
        validation=write_rows("v.jsonl", rows[30:35]),
        test=write_rows("s.jsonl", rows[35:]),
    )
    splits = load_splits(config, 0)
    assert [len(s) for s in (splits.train, splits.validation, splits.test)] == [30, 5, 5]


def test_impossible_splits_are_refused(write_rows: Write) -> None:
    train = write_rows("t.jsonl", copy_rows(4, 5))
    with pytest.raises(DataError, match=r"validation split is empty: 0.1 of 4 examples"):
        load_splits(DataConfig(train=train, test_fraction=0.5), 0)
    with pytest.raises(DataError, match=r"test split is empty: 0 of 4"):
        load_splits(DataConfig(train=train, test_fraction=0), 0)
    with pytest.raises(DataError, match="train split is empty"):
        load_splits(DataConfig(train=train, test_fraction=0.6, validation_fraction=0.6), 0)
    with pytest.raises(DataError, match=r"data.validation and data.train are one file"):
        load_splits(DataConfig(train=train, validation=train.parent / "." / train.name), 0)
    chats = write_rows("c.jsonl", [{"messages": CHAT}])
    with pytest.raises(DataError, match="all files need one form"):
        load_splits(DataConfig(train=train, validation=chats), 0)


@given(
    n=st.integers(1, 3000),
    fractions=st.lists(st.floats(0.001, 1), min_size=2, max_size=2).map(sorted),
    minimum=st.integers(1, 400),
    seed=st.integers(0, 2**31),
)
def test_proxies_are_nested_and_large_enough(n: int, fractions: list[float], minimum: int, seed: int) -> None:
    small, large = (proxy_positions(n, fraction, minimum, seed) for fraction in fractions)
    assert set(small) <= set(large) <= set(range(n))
    for positions, fraction in ((small, fractions[0]), (large, fractions[1])):
        assert len(set(positions)) == len(positions) == proxy_size(n, fraction, minimum)
        assert len(positions) >= min(minimum, n)
        assert len(positions) >= fraction * n - 1e-6
        assert (np.diff(positions) > 0).all()
    assert np.array_equal(small, proxy_positions(n, fractions[0], minimum, seed))


def test_proxy_size_has_no_rounding_surprise() -> None:
    assert proxy_size(1000, 0.1, 1) == 100
    assert proxy_size(1000, 0.1, 200) == 200
    assert proxy_size(50, 0.1, 200) == 50
    assert proxy_size(7, 1.0, 1) == 7
