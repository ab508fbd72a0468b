from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from loracle.config.settings import DataConfig
from loracle.errors import DataError
from loracle.training.dataset.files import read_examples
from loracle.training.dataset.shapes import SHAPES, Example, Message, as_example, shape
from loracle.training.dataset.splits import load_splits

Write = Callable[[str, list[dict[str, Any]]], Path]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


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


def test_a_data_shape_is_one_function(write_rows: Write) -> None:
    @shape("riddle", "riddle", "solution")
    def read(row: Mapping[str, Any], choices: tuple[str, ...], source: str) -> Example:
        return Example(source, prompt=row["riddle"], completion=row["solution"], choices=choices)

    try:
        path = write_rows("r.jsonl", [{"riddle": "a", "solution": "b"}, {"prompt": "c", "completion": "d"}])
        assert [(e.prompt, e.completion) for e in read_examples(path)] == [("a", "b"), ("c", "d")]
        with pytest.raises(
            DataError, match=r"x: .*give messages, or .*, or riddle, or say with data.columns .* Its fields"
        ):
            as_example({"zzz": 1}, "x")
    finally:
        del SHAPES["riddle"]


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
        ("a.jsonl", '{"prompt": "a", "completion": 4.5}\n', r"a.jsonl:1: completion must be text; got 4.5"),
        ("a.jsonl", '{"prompt": "a", "response": null}\n', r"a.jsonl:1: response must be text; got None"),
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
        ("a.csv", "prompt,completion\na,b\na\n", r"a.csv:3: a row needs 2 columns; this one has 1"),
        ("a.csv", "prompt,completion\na,b,c\n", r"a.csv:2: a row needs 2 columns; this one has 3"),
        ("a.csv", ",prompt,completion\n0,a\n", r"a.csv:2: a row needs 3 columns; this one has 2"),
        ("a.csv", ",prompt,completion\n0,a,b,c\n", r"a.csv:2: a row needs 3 columns; this one has 4"),
        ("a.csv", 'prompt,completion\n"a"b,c\n', r"a.csv:2: not valid CSV"),
        (
            "a.csv",
            "prompt, completion\na, b\n",
            r"a.csv:2: .*rename ' completion' to completion \(exactly so",
        ),
        (
            "a.csv",
            " prompt , completion \na, b\n",
            r"a.csv:2: .*rename ' prompt ' to prompt, ' completion ' t",
        ),
        ("a.csv", 'prompt, "completion"\na, b\n', r"a.csv:2: .*rename ' \"completion\"' to completion"),
        ("a.csv", "prompt;completion|so\na;c|d\n", r"a.csv: columns may be separated by ';' or by '|'"),
        ("a.json", '{"data": [1]}', r"a.json: .*; save the list in 'data' as the file"),
        ("a.arrow", "no", r"a.arrow: not an Arrow file"),
        ("a.jsonl.gz", "no", r"a.jsonl.gz: not a .gz file, or damaged"),
        ("a.jsonl.zst", "no", r"a.jsonl.zst: not a .zst file, or damaged"),
        ("a.parquet", "no", r"a.parquet: not a Parquet file"),
        ("a.txt", "x", r"a suffix '.txt' tells no format"),
    ],
)
def test_bad_files_are_refused_by_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_examples(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_columns_without_a_name_are_left_aside_and_told(tmp_path: Path) -> None:
    """Those of a data frame's index, and those behind separators at the end of a line."""
    (tmp_path / "a.csv").write_text(";prompt;completion;\n0;a;b;\n1;c;d;\n")
    examples = read_examples(tmp_path / "a.csv")
    assert [(e.prompt, e.completion) for e in examples] == [("a", "b"), ("c", "d")]
    assert examples[0].unread == ("column 1",)


def test_missing_file_folder_and_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.train: .*none.jsonl does not exist"):
        load_splits(DataConfig(train=tmp_path / "none.jsonl"), 0)
    with pytest.raises(DataError, match=r"the folder .* holds no files of .jsonl"):
        read_examples(tmp_path)


def test_a_mark_at_the_beginning_of_a_file_or_of_one_joined_to_it_is_no_text(tmp_path: Path) -> None:
    row = {"jsonl": '{"text": "a"}\n', "json": '[{"text": "a"}]', "csv": "text\na\n"}
    for suffix, text in row.items():
        path = tmp_path / f"a.{suffix}"
        path.write_text(text, encoding="utf-8-sig")
        assert [example.text for example in read_examples(path)] == ["a"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    assert [example.text for example in read_examples(path)] == ["a", "a"]


# -- fields -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "great film", "label": 1.5}, "label must be text; got 1.5"),
        (
            {"text": "great film", "labels": 1},
            "field labels would not be learnt: rows of text are learnt as they",
        ),
        ({"text": "film 1", "labels": 1}, "field labels would not be learnt"),
        ({"text": "great film", "labels": False}, "field labels would not be learnt"),
        (
            {"text": "a", "Answer": "b"},
            "Name what the model reads prompt and what it shall write completion .data.columns",
        ),
        ({"text": "a", "output": "b"}, "field output would not be learnt"),
        ({"text": "a", "target text": "b"}, "field target text would not be learnt"),
        ({"text": "a", "instruction": "b"}, "field instruction would not be learnt"),
        (
            {"prompt": "a", "completion": "b", "label": False},
            "field label holds an answer that stands in none",
        ),
        (
            {"prompt": "a", "completion": "b", "response": "c"},
            "response holds an answer that stands in none of",
        ),
        ({"prompt": "a", "completion": "b", "rejected": "c"}, "put it there, or remove or rename the field"),
        (
            {"prompt": "a", "completion": "b", "system": "c"},
            "system holds a part of the question that stands",
        ),
        ({"prompt": "a", "completion": "b", "context": "c"}, "in none of prompt and completion, so it would"),
        ({"messages": CHAT, "system": "be brief"}, "system holds a part of the question"),
        ({"messages": CHAT, "chosen": "hey"}, "chosen holds an answer that stands in none of messages"),
        ({"messages": CHAT, "images": ["a.png"]}, "field images is not read .*only text can be learnt"),
        (
            {"prompt": "a", "completion": "b", "tools": [{}]},
            "field tools is not read .*needs rows of messages",
        ),
        (
            {"prompt": "a", "completion": "b", "weight": 0.5},
            "field weight is 0.5, but every row counts alike",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "a row holds preference data .as for DPO.*chosen and rejected are an answer that was .* "
            "the answer it shall write completion .data.columns.* and remove the other",
        ),
        (
            {"prompt": "a", "completion": "b", "completion_rejected": "c"},
            "field completion_rejected holds an answer that stands in none of prompt and completion",
        ),
        ({"prompt": "a", "completion": "b", "rejected-response": "c"}, "rejected-response holds an answer"),
        ({"text": "a", "prompt_chosen": "b"}, "field prompt_chosen would not be learnt"),
        (
            {"prompt_chosen": "a", "completion_chosen": "b", "completion_rejected": "c"},
            "preference data .*prompt_chosen and completion_chosen and completion_rejected are ",
        ),
        ({"prompt": "a", "completion": "b", " Text": "c"}, r"field  Text holds a part of the question"),
        (
            {"prompt": "a", "Completion": "b"},
            "completion must be text; got None; rename 'Completion' to comp",
        ),
        ({"messages": CHAT, "tools": "{"}, "a.jsonl:1: tools: not valid JSON"),
        ({"messages": CHAT, "tools": ["f"]}, "tools is a list of objects"),
        ({"messages": CHAT, "chat_template_kwargs": [1]}, "chat_template_kwargs is an object"),
        ({"messages": CHAT, "tools": [{"a": "\ud800"}]}, "tools holds half a character"),
    ],
)
def test_fields_that_would_be_passed_over_are_refused(
    row: dict[str, Any], message: str, write_rows: Write
) -> None:
    with pytest.raises(DataError, match=f"a.jsonl:1: .*{message}|{message}") as caught:
        read_examples(write_rows("a.jsonl", [row]))
    assert "a.jsonl:1: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {
            "text": "Q: a\nA: b",
            "instruction": "a",
            "input": "",
            "output": "b",
        },  # Alpaca's rows hold all of it
        {"prompt": "a", "completion": "so it is 42", "answer": 42},
        {"prompt": "ctx: a", "completion": "b", "context": "a", "answers": {"text": ["b"]}},
        {"messages": CHAT, "response": "yo"},
        {"text": "a", "label": None},
        {"text": "a", "id": 7, "source": "web", "weight": 1},
    ],
)
def test_fields_that_stand_in_the_row_anyway_are_left_aside(row: dict[str, Any], write_rows: Write) -> None:
    (example,) = read_examples(write_rows("a.jsonl", [row]))
    known = ("prompt", "completion", "messages", "text")
    assert set(example.unread) == {name for name, value in row.items() if name not in known and value}


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"content": None}, "a turn is a role and a content, both text"),
        ({"content": 3}, "a turn is a role and a content, both text; got content 3"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "a turn has a part of type image_url; only text",
        ),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "image", "image": "x"}]},
            "a turn has a part of type image; only text",
        ),
        ({"weight": 0.5}, "the weight of a turn is 0 or 1; got 0.5"),
        ({"weight": "0"}, "the weight of a turn is 0 or 1; got '0'"),
        ({"weight": 0}, "the last turn has a weight of 0"),
        ({"train": False}, "field train of a turn is not read; .*a weight of 0"),
        ({"name": "\ud83d"}, "a turn holds half a character"),
        ({"tool_calls": [json.loads("[" * 60 + "]" * 60)]}, "a turn is nested more than 50 levels deep"),
    ],
)
def test_turns_that_cannot_be_learnt_as_they_are_are_refused(
    turn: dict[str, Any], message: str, write_rows: Write
) -> None:
    path = write_rows("a.jsonl", [{"messages": [CHAT[0], {**CHAT[1], **turn}]}])
    with pytest.raises(DataError, match=f"a.jsonl:1: {message}") as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)


def test_a_weight_on_a_turn_of_the_user_is_refused(write_rows: Write) -> None:
    asked = {**CHAT[0], "weight": 1}
    with pytest.raises(DataError, match="a turn of user has a weight of 1, but only turns of the assistant"):
        read_examples(write_rows("a.jsonl", [{"messages": [asked, CHAT[1]]}]))
    (example,) = read_examples(write_rows("a.jsonl", [{"messages": [{**asked, "weight": 0}, CHAT[1]]}]))
    assert not example.messages[0].learnt


def test_a_field_named_twice_is_refused(tmp_path: Path) -> None:
    """Most readers keep the last one, in silence."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "a", "text": "b"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: not valid JSON: an object has the field text twice"):
        read_examples(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_text("prompt,completion,completion\na,b,c\n")
    with pytest.raises(DataError, match=r"a.csv: two columns are named completion"):
        read_examples(tmp_path / "a.csv")


def test_odd_characters_in_fields_that_are_not_read_do_no_harm(write_rows: Write) -> None:
    rows = [{"text": f"a{i}", "id": "\ud800", "\ud800\n": 1, "\x1b[31m": "\x00"} for i in range(30)]
    splits = load_splits(DataConfig(train=write_rows("a.jsonl", rows)), 0)
    (found,) = [notice for notice in splits.notices if notice.name == "fields_not_read"]
    assert found.text.isprintable()
    assert "\\x1b[31m (30 rows)" in found.text
    found.text.encode()  # can be written


# -- Parquet ----------------------------------------------------------------------------------------


def test_columns_that_python_cannot_hold_are_no_obstacle(tmp_path: Path) -> None:
    """Nanoseconds, dates beyond the year 9999 and unknown time zones, in columns and in turns."""
    nanoseconds = pyarrow.timestamp("ns")
    table = pyarrow.table(
        {
            "prompt": ["a", "b"],
            "completion": ["c", "d"],
            "at": pyarrow.array([1, None], nanoseconds),
            "zone": pyarrow.array([1, 2], pyarrow.timestamp("ns", "Nowhere/Else")),
            "took": pyarrow.array([1, 2], pyarrow.duration("ns")),
            "clock": pyarrow.array([1, 2], pyarrow.time64("ns")),
            "late": pyarrow.array([2**50, 1], pyarrow.timestamp("ms")),
            "day": pyarrow.array([10**8, 1], pyarrow.date32()),
            "log": pyarrow.array([[{"at": 1}], []], pyarrow.list_(pyarrow.struct([("at", nanoseconds)]))),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    examples = read_examples(tmp_path / "a.parquet")
    assert [example.content[:2] for example in examples] == [("a", "c"), ("b", "d")]
    assert "log" not in examples[1].unread
    assert set(examples[0].unread) == {"at", "zone", "took", "clock", "late", "day", "log"}
    fields = [("role", pyarrow.string()), ("content", pyarrow.string()), ("at", nanoseconds)]
    turns = pyarrow.array(
        [[{**CHAT[0], "at": 1}, {**CHAT[1], "at": None}]], pyarrow.list_(pyarrow.struct(fields))
    )
    pyarrow.parquet.write_table(pyarrow.table({"messages": turns}), tmp_path / "c.parquet")
    (example,) = read_examples(tmp_path / "c.parquet")
    assert [turn.content for turn in example.messages] == ["hi", "yo"]
    assert [list(turn.more) for turn in example.messages] == [["at"], []]


def test_what_a_parquet_row_does_not_have_is_not_given_to_the_template(tmp_path: Path) -> None:
    """All rows of a column have the same fields: what one lacks is null in the file."""
    calls = [{"function": {"name": "f", "arguments": {"city": "Rome"}}}]
    other = [{"function": {"name": "g", "arguments": {"currency": "lira"}}}]
    rows = [
        {"messages": [CHAT[0], {"role": "assistant", "content": None, "tool_calls": some}]}
        for some in (calls, other)
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([*rows, {"messages": CHAT}]), tmp_path / "a.parquet"
    )
    examples = read_examples(tmp_path / "a.parquet")
    assert [example.messages[1].more.get("tool_calls") for example in examples] == [calls, other, None]
    assert examples[2].content == as_example({"messages": CHAT}, "x").content


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": f"a{i}"} for i in range(99)]), path)
    content = path.read_bytes()
    for damaged in (content[: int(kept * len(content))], b"PAR1" + b"x" * 50 + b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.parquet: not a Parquet file: ") as caught:
            read_examples(path)
        assert "\n" not in str(caught.value)
