from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import copy_rows, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from loracle.config import DataConfig
from loracle.data import load_splits, proxy_positions, proxy_size
from loracle.errors import DataError, ModelError
from loracle.examples import Example, Message
from loracle.rows import read_examples
from loracle.tokens import Encoded, encode

Write = Callable[[str, list[dict[str, Any]]], Path]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def counted_text(encoded: Encoded, tokenizer: Any, i: int = 0) -> str:
    tokens = encoded.tokens[encoded.starts[i] : encoded.ends[i]]
    return str(tokenizer.decode(tokens[encoded.counted[encoded.starts[i] : encoded.ends[i]]]))


def whole_text(encoded: Encoded, tokenizer: Any, i: int = 0) -> str:
    return str(tokenizer.decode(encoded.tokens[encoded.starts[i] : encoded.ends[i]]))


# -- reading ----------------------------------------------------------------------------------------


def test_every_format_gives_the_same_examples(tmp_path: Path, write_rows: Write) -> None:
    rows = [
        {"prompt": "a, b", "completion": 'say "x"\nnow', "choices": ["p", "q"]},
        {"prompt": "é", "completion": "2", "choices": ["p", "q"]},
    ]
    paths = [write_rows("a.jsonl", rows), tmp_path / "a.json", tmp_path / "a.csv", tmp_path / "a.parquet"]
    paths[1].write_text(json.dumps(rows, indent=1), encoding="utf-8")
    lines = ["prompt,completion,choices", '"a, b","say ""x""\nnow","[""p"", ""q""]"', 'é,2,"[""p"", ""q""]"']
    paths[2].write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), paths[3])
    contents = [[example.content for example in read_examples(path)] for path in paths]
    assert contents[0][0][:2] == ("a, b", 'say "x"\nnow')
    assert contents[1:] == contents[:1] * 3


def test_chats_are_read_from_parquet_and_csv(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": CHAT}]), tmp_path / "c.parquet")
    quoted = json.dumps(CHAT).replace('"', '""')
    (tmp_path / "c.csv").write_text(f'messages\n"{quoted}"\n', encoding="utf-8")
    for name in ("c.parquet", "c.csv"):
        (example,) = read_examples(tmp_path / name)
        assert example.messages == (Message("user", "hi"), Message("assistant", "yo"))
        assert example.reference == "yo"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"a.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"text": "x"}\n\n[1]\n', r"a.jsonl:3: a row is an object"),
        ("a.jsonl", '{"text": "x"}\n{"prompt": "a", "completion": "b"}\n', r"a.jsonl:2: .*one form"),
        ("a.jsonl", '{"question": "x"}\n', r"a.jsonl:1: .*has no form.*Its fields: question"),
        ("a.csv", 'so,"two\nlines"\n1,2\n', r"a.csv:3: .*Its fields: so, 'two\\nlines'$"),
        ("a.jsonl", '{"text": "x", "prompt": "a", "completion": "b"}\n', r"a.jsonl:1: .*two forms"),
        ("a.jsonl", '{"prompt": "a"}\n', r"a.jsonl:1: completion must be text; got None"),
        ("a.jsonl", '{"prompt": "a", "completion": 4}\n', r"a.jsonl:1: completion must be text; got 4"),
        ("a.jsonl", '{"prompt": "a", "completion": " "}\n', r"a.jsonl:1: completion is empty"),
        ("a.jsonl", '{"text": "\\ud83d"}\n', r"a.jsonl:1: text must be text"),
        ("a.jsonl", '{"text": "a", "choices": "b"}\n', r"a.jsonl:1: choices is a list"),
        ("a.jsonl", '{"messages": "hi"}\n', r"a.jsonl:1: messages is a list of turns"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}\n', r"a.jsonl:1: a turn is a role and a content"),
        ("a.jsonl", json.dumps({"messages": CHAT[:1]}), r"a.jsonl:1: the last turn must be the assistant's"),
        ("a.jsonl", json.dumps({"messages": CHAT[1:]}), r"a.jsonl:1: a chat needs a turn before"),
        ("a.jsonl", "\n", r"a.jsonl holds no examples"),
        ("a.json", '[\n{"text": "x"},\n{"text" "y"}]', r"a.json:3: not valid JSON"),
        ("a.json", '{"text": "x"}', r"a.json: a JSON dataset is a list"),
        ("a.json", '[{"text": "x"}, {"text": ""}]', r"a.json: row 2: text is empty"),
        ("a.csv", "prompt,completion\na,b\na\n", r"a.csv:3: a row needs 2 columns"),
        ("a.csv", "prompt,completion\na,b,c\n", r"a.csv:2: a row needs 2 columns"),
        ("a.csv", 'prompt,completion\n"a"b,c\n', r"a.csv:2: not valid CSV"),
        ("a.parquet", "no", r"a.parquet: not a Parquet file"),
        ("a.txt", "x", r"a suffix '.txt' tells no format"),
    ],
)
def test_bad_files_are_refused_by_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_examples(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.train: .*none.jsonl does not exist"):
        load_splits(DataConfig(train=tmp_path / "none.jsonl"), 0)
    with pytest.raises(DataError, match="is not a file"):
        read_examples(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_examples(tmp_path / "latin.jsonl")


# -- splits -----------------------------------------------------------------------------------------


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


# -- tokens -----------------------------------------------------------------------------------------


def test_loss_counts_the_completion_and_its_end(tokenizer: Any) -> None:
    examples = [Example("a:1", prompt="1+2=", completion="3"), Example("a:2", prompt="x", completion="yz")]
    encoded = encode(examples, tokenizer, 20)
    assert whole_text(encoded, tokenizer) == "1+2=3<eos>"
    assert counted_text(encoded, tokenizer) == "3<eos>"
    assert counted_text(encoded, tokenizer, 1) == "yz<eos>"
    assert encoded.prompt_lengths.tolist() == [4, 1]
    assert encoded.counts.tolist() == [2, 3]
    second = encoded.select([1])
    assert counted_text(second, tokenizer) == "yz<eos>"
    assert second.lengths.tolist() == [4]


def test_text_is_learnt_whole_but_for_its_first_token(tokenizer: Any) -> None:
    encoded = encode([Example("a:1", text="abc")], tokenizer, 20)
    assert counted_text(encoded, tokenizer) == "bc<eos>"


def test_an_end_in_the_data_is_not_doubled(tokenizer: Any) -> None:
    encoded = encode([Example("a:1", prompt="a", completion="b<eos>")], tokenizer, 20)
    assert whole_text(encoded, tokenizer) == "ab<eos>"


def test_begin_of_sequence_comes_first(tokenizer: Any) -> None:
    dressed = make_tokenizer()
    dressed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<user> $A <eos>", special_tokens=[("<user>", 3), ("<eos>", 1)]
    )
    encoded = encode([Example("a:1", prompt="a", completion="b")], dressed, 20)
    assert whole_text(encoded, tokenizer) == "<user>ab<eos>"
    assert counted_text(encode([Example("a:1", text="ab")], dressed, 20), tokenizer) == "ab<eos>"


def test_every_assistant_turn_counts(tokenizer: Any) -> None:
    turns = [("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e")]
    example = Example("a:1", messages=tuple(Message(*turn) for turn in turns))
    encoded = encode([example], tokenizer, 40)
    assert whole_text(encoded, tokenizer) == "<user>a\n<assistant>bc<eos>\n<user>d\n<assistant>e<eos>"
    assert counted_text(encoded, tokenizer) == "bc<eos>e<eos>"
    prompt = encoded.tokens[: encoded.prompt_lengths[0]]
    chat = [{"role": role, "content": content} for role, content in turns[:-1]]
    seen = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert prompt.tolist() == seen


def test_a_turn_that_the_template_rewrites_is_not_learnt() -> None:
    forgetful = make_tokenizer()
    forgetful.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
        "{% else %}<assistant>{% if loop.last %}?{% endif %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    example = Example("a:1", messages=tuple(Message(*turn) for turn in turns))
    encoded = encode([example], forgetful, 40)
    assert counted_text(encoded, forgetful) == "?d<eos>"


def test_chat_template_problems_are_explained(tokenizer: Any) -> None:
    example = Example("a:7", messages=(Message("user", "a"), Message("assistant", "b")))
    none = make_tokenizer()
    none.chat_template = None
    with pytest.raises(DataError, match=r"a:7: rows are messages, but the tokenizer has no chat template"):
        encode([example], none, 40)
    none.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"a:7: the chat template refuses these messages: roles must alter"):
        encode([example], none, 40)
    none.chat_template = "{{ messages[-1]['content'] }}{% if add_generation_prompt %}<assistant>{% endif %}"
    with pytest.raises(DataError, match=r"a:7: the chat template does not render the last turn"):
        encode([example], none, 40)


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """BPE that merges `=` and `4` into one token."""
    vocabulary = {"<eos>": 0, "2": 1, "=": 2, "4": 3, "=4": 4, "5": 5}
    backend = Tokenizer(models.BPE(vocabulary, [("=", "4")]))
    backend.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def test_a_merge_across_the_boundary_does_not_change_the_prompt() -> None:
    tokenizer = merging_tokenizer()
    assert tokenizer("2=4")["input_ids"] == [1, 4]
    rows = [Example("a:1", prompt="2=", completion="4"), Example("a:2", prompt="2=4", completion="5")]
    encoded = encode(rows, tokenizer, 20)
    assert encoded.tokens.tolist() == [1, 2, 3, 0, 1, 4, 5, 0]
    assert encoded.counted.tolist() == [False, False, True, True, False, False, True, True]


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match=r"a:1: the tokenizer finds no token in the prompt"):
        encode([Example("a:1", prompt="|", completion="4")], merging_tokenizer(), 20)


def test_long_examples_are_dropped_or_refused(tokenizer: Any) -> None:
    examples = [Example(f"a:{i}", prompt="p" * i, completion="c") for i in (1, 2, 3, 9)]
    encoded = encode(examples, tokenizer, 5)
    assert encoded.dropped == 1
    assert encoded.positions.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"a:9: 11 tokens, but 5 are allowed; .*data.max_length"):
        encode(examples, tokenizer, 5, "error")
    with pytest.raises(DataError, match=r"3 of 4 examples have more than 3 tokens \(the first: a:2\)"):
        encode(examples, tokenizer, 3)
    with pytest.raises(DataError, match="4 of 4 examples"):
        encode(examples, tokenizer, 1)


def test_a_tokenizer_without_end_is_refused() -> None:
    endless = make_tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encode([Example("a:1", text="abc")], endless, 20)
