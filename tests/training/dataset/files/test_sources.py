"""Files of every kind, folders, globs, lists and datasets of the hub: the same rows, whatever they are in."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from loracle.config.data.settings import DataConfig
from loracle.config.data.sources import HubDataset
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.training.dataset.files import read_examples
from loracle.training.dataset.splits import load_splits

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ROWS = [{"prompt": "Wo? é", "completion": "so, \nja"}, {"prompt": "a;b", "completion": "c|d"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def csv_text(separator: str) -> str:
    quoted = [[f'"{row[name]}"' for name in ("prompt", "completion")] for row in ROWS]
    return "\n".join(separator.join(line) for line in [["prompt", "completion"], *quoted]) + "\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zstd(content: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content.encode())
    return bytes(sink.getvalue())


def make(folder: Path, kind: str) -> Any:
    table = pyarrow.Table.from_pylist(ROWS)
    if kind == "arrow stream":
        with pyarrow.ipc.new_stream(str(folder / "a.arrow"), table.schema) as stream:
            stream.write_table(table)
        return folder / "a.arrow"
    if kind == "arrow file":
        with pyarrow.ipc.new_file(str(folder / "a.arrow"), table.schema) as file:
            file.write_table(table)
        return folder / "a.arrow"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, folder / "a.parquet")
        return folder / "a.parquet"
    if kind == "saved":
        Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
        return folder / "saved"
    if kind == "saved splits":
        every = Dataset.from_list(ROWS)
        DatasetDict(train=every, test=every).save_to_disk(str(folder / "saved"))
        return folder / "saved"
    if kind == "several":
        first, second = LINES.splitlines(keepends=True)
        return [write(folder / "b.jsonl", first), write(folder / "a.json", f"[{second}]")]
    if kind == "folder":
        write(folder / "all" / "README.md", "about")
        write(folder / "all" / "deep" / "train-0.jsonl", LINES)
        write(folder / "all" / "test.csv", csv_text(","))
        return folder / "all"
    if kind == "glob":
        write(folder / "x" / "a1.jsonl", LINES)
        write(folder / "x" / "b1.jsonl", "no")
        return folder / "*" / "a?.jsonl"
    name, content = {
        "lines": ("a.jsonl", LINES),
        "lines in .json": ("a.json", LINES),
        "list": ("a.json", json.dumps(ROWS)),
        "commas": ("a.csv", csv_text(",")),
        "semicolons": ("a.csv", csv_text(";")),
        "bars": ("a.csv", csv_text("|")),
        "tabs": ("a.tsv", csv_text("\t")),
        "tabs in .csv": ("a.csv", csv_text("\t")),
        "lines.gz": ("a.jsonl.gz", gzip.compress(LINES.encode())),
        "commas.gz": ("a.csv.gz", gzip.compress(csv_text(",").encode())),
        "lines.zst": ("a.jsonl.zst", zstd(LINES)),
        "mark": ("a.csv", csv_text(",").encode("utf-8-sig")),
        **{kind: ("a.jsonl", LINES.encode(kind)) for kind in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")},
        "latin-1": ("a.csv", csv_text(";").encode("latin-1")),
    }[kind]
    return write(folder / name, content)


KINDS = [
    *("lines", "lines in .json", "list", "commas", "semicolons", "bars", "tabs", "tabs in .csv", "lines.gz"),
    *("commas.gz", "lines.zst", "mark", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "parquet"),
    *("arrow stream", "arrow file", "saved", "saved splits", "several", "folder", "glob"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_same_whatever_they_are_in(kind: str, tmp_path: Path) -> None:
    source, told = make(tmp_path, kind), list[Notice]()
    examples = read_examples(source, told=told)
    assert [(e.prompt, e.completion) for e in examples] == [tuple(row.values()) for row in ROWS]
    broken = [notice.text for notice in told if notice.name == "line_breaks_in_cells"]
    in_cells = ("commas", "semicolons", "bars", "tabs", "tabs in .csv", "commas.gz", "mark", "latin-1")
    assert [text.partition(": ")[2] for text in broken] == [
        "cells of 1 row hold line breaks, the first in lines 2 to 3"
    ] * (kind in in_cells)
    told = [notice for notice in told if notice.name != "line_breaks_in_cells"]
    expected = {
        "latin-1": "a.csv is not UTF-8 and is read as cp1252, like this: ",
        "folder": "data.train has more that is not read as train: test.csv",
        "saved splits": "data.train has more that is not read as train: saved/test",
    }
    assert [expected[kind] in notice.text for notice in told] == [True] * (kind in expected)
    if kind == "latin-1":
        assert '"Wo? é"' in told[0].text


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        ("qu'est-ce que c'est?,C'est la vie, déjà vu à l'école, garçon", "cp1252", "cp1252"),
        ("één reünie", "latin-1", "cp1252"),
        ("Zażółć gęślą jaźń; proszę bardzo, dziękuję", "cp1250", "cp1250"),
        ("Где находится кафе?;На углу улицы, рядом с вокзалом", "cp1251", "cp1251"),
        ("これは何ですか,これは本です。東京は日本の首都です", "cp932", "cp932"),
    ],
)
def test_an_encoding_is_recognised_and_told(text: str, encoding: str, found: str, tmp_path: Path) -> None:
    told: list[Notice] = []
    path = write(tmp_path / "a.jsonl", (json.dumps({"text": text}, ensure_ascii=False)).encode(encoding))
    assert read_examples(path, told=told)[0].text == text
    assert f"is read as {found}, like this" in told[0].text
    named = DataConfig(train=path, encoding=encoding)
    told.clear()
    assert read_examples(path, named, told=told)[0].text == text
    assert not told
    with pytest.raises(DataError, match=r"a.jsonl: is not .* text: byte 0x.*see data.encoding"):
        read_examples(path, DataConfig(train=path, encoding="ascii"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz"])
def test_a_byte_that_is_no_utf8_does_not_make_another_encoding_of_a_file_in_utf8(
    name: str, tmp_path: Path
) -> None:
    """Of the file as cp932, which knows all of its bytes, every other letter would be wrong."""
    rows = [f"é café {i}" for i in range(30)]
    csv_head = f"text{chr(9) if name == 'a.tsv' else ','}id"
    lines = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
    if name == "a.json":
        lines = ["[", *(f"{line}," for line in lines[:-1]), lines[-1], "]"]
    elif ".json" not in name:
        lines = [csv_head, *(f"{row}{csv_head[4]}1" for row in rows)]
    broken = "\n".join(lines).encode().replace(b"9", b"\xff", 1)  # of the tenth row
    path = write(tmp_path / name, gzip.compress(broken) if name.endswith(".gz") else broken)
    line = 10 if ".jsonl" in name else 11
    message = (
        rf"{name}:{line}: byte 0xff is no UTF-8, .*\(60 letters beyond ASCII; a byte is not\): correct it"
    )
    with pytest.raises(DataError, match=message) as caught:
        read_examples(path)
    assert str(caught.value).endswith("or name the encoding of the whole file in data.encoding")
    assert "\n" not in str(caught.value)
    named = DataConfig(train=path, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}:{line}: is not utf-8-sig text: byte 0xff"):
        read_examples(path, named)
    assert len(read_examples(path, DataConfig(train=path, encoding="cp1252"))) == 30


TURNS = [{"role": "user", "content": "it's 1"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("spelt", [json.dumps, repr], ids=["JSON", "as pandas writes it"])
@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"messages": TURNS}, {}),
        ({"dialog": TURNS}, {"messages": "dialog"}),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, {}),
        ({"asked": TURNS[:1], "said": TURNS[1:]}, {"prompt": "asked", "completion": "said"}),
    ],
    ids=lambda value: "-".join(value) or "as it is",
)
def test_chats_in_cells_are_chats(
    row: dict[str, Any], columns: dict[str, str], spelt: Callable[[Any], str], tmp_path: Path
) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([row.keys(), *[[spelt(value) for value in row.values()]] * 3])
    told: list[Notice] = []
    examples = read_examples(tmp_path / "a.csv", DataConfig(train=Path("t"), columns=columns), told=told)
    assert [[turn.as_turn for turn in example.messages] for example in examples] == [TURNS] * 3
    pair = "prompt" in columns or "prompt" in row
    assert [(notice.name, notice.count) for notice in told] == [("chats_in_cells", 3)] * pair


def test_cells_that_only_look_like_chats_are_told_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\nas json,"[{""role"": ""user"", ""content"": ""a""}]"\n')
    told: list[Notice] = []
    (example,) = read_examples(path, told=told)
    assert example.completion == '[{"role": "user", "content": "a"}]'
    assert told[0].text == "a.csv: cells of 1 rows hold answers like lists of turns, and are learnt as texts"
    path.write_text('prompt,completion\n"[{""role"": ""user"", ",b\n')
    with pytest.raises(DataError, match=r"a.csv:2: not valid JSON: .*, in prompt"):
        read_examples(path)


def test_a_separator_that_is_named_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "prompt#completion\na#b\n")
    settings = DataConfig(train=path, separator="#")
    assert read_examples(path, settings)[0].completion == "b"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("line", "separator"), [("sep=;", ";"), ('"sep=|"', "|"), ("SEP=,", ","), ("sep=~", "~")]
)
def test_excels_line_that_names_the_separator_is_no_row(
    line: str, separator: str, encoding: str, tmp_path: Path
) -> None:
    content = f"{line}\r\n" + csv_text(separator).replace("\n", "\r\n")
    path = write(tmp_path / "a.csv", content.encode(encoding))
    told: list[Notice] = []
    examples = read_examples(path, told=told)
    assert [example.prompt for example in examples] == [row["prompt"] for row in ROWS]
    assert [notice.name for notice in told] == ["separator_named", "line_breaks_in_cells"]
    assert told[1].text == "a.csv: cells of 1 row hold line breaks, the first in lines 3 to 4"
    assert f"columns are separated by '{separator}'" in told[0].text
    with path.open("ab") as file:
        file.write("one\r\n".encode("utf-16-le" if encoding == "utf-16" else "utf-8"))
    with pytest.raises(DataError, match=r"a\.csv:6: a row needs 2 columns; this one has 1"):
        read_examples(path)


def test_numbers_that_stand_for_labels_become_their_names(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": "a", "label": 1}, {"text": "b", "label": 0}])
    rows = rows.cast_column("label", ClassLabel(names=["bad", "good"]))
    rows.to_parquet(str(tmp_path / "a.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    for source in (tmp_path / "a.parquet", tmp_path / "saved"):
        assert [e.completion for e in read_examples(source)] == ["good", "bad"]


def test_a_dataset_of_the_hub_is_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` takes a folder of the name for the dataset, so nothing is asked for."""
    write(tmp_path / "me" / "rows" / "train.jsonl", LINES * 3)
    write(tmp_path / "me" / "rows" / "test.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    told: list[Notice] = []
    assert len(read_examples(HubDataset(hub="me/rows"), told=told)) == 6
    assert "not read as train: test" in told[0].text
    assert len(read_examples(HubDataset(hub="me/rows"), role="test")) == 2
    assert len(read_examples(HubDataset(hub="me/rows", split="train[:5]"))) == 5
    with pytest.raises(DataError, match="has no split 'validation'; name one of "):
        read_examples(HubDataset(hub="me/rows"), role="validation")
    with pytest.raises(DataError, match="me/rows, split no cannot be read from the hub: "):
        read_examples(HubDataset(hub="me/rows", split="no"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"read from the hub: .*The hub was not asked: HF_HUB_OFFLINE"):
        read_examples(HubDataset(hub="me/none"))


def test_what_is_not_there_or_not_clear_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "train.jsonl", LINES)
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Any, str]] = [
        (tmp_path / "empty", "the folder .*empty holds no files of .jsonl"),
        (tmp_path / "a" / "*.csv", "no file matches .*csv"),
        (tmp_path / "me" / "rows", "does not exist; for a dataset of the hub, write {hub: me/rows}"),
        ([path, path], "train.jsonl is named twice"),
    ]
    for source, message in cases:
        with pytest.raises(DataError, match=f"data.train: .*{message}|data.train: {message}"):
            read_examples(source)
    with pytest.raises(DataError, match=r"data.test: no file in .* has the name of a test split: train"):
        read_examples(tmp_path / "a", role="test")
    write(tmp_path / "a" / "more.jsonl", LINES)
    with pytest.raises(DataError, match=r"have names of splits, but more.jsonl has none"):
        read_examples(tmp_path / "a")
    with pytest.raises(DataError, match=r"data.test and data.train are one file .*a/train.jsonl"):
        load_splits(DataConfig(train=path, test=tmp_path / "a" / "train*"), 0)
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    write(tmp_path / "saved" / "state.json", "{}")
    with pytest.raises(DataError, match="saved: not a folder that datasets saved"):
        read_examples(tmp_path / "saved")


def test_a_folder_of_splits_gives_each_role_its_own(tmp_path: Path) -> None:
    for name, n in (("train", 4), ("validation", 2), ("test", 3)):
        lines = [json.dumps({"text": f"{name} {i}"}) for i in range(n)]
        write(tmp_path / name / "0.jsonl", "\n".join(lines))
    splits = load_splits(DataConfig(train=tmp_path, validation=tmp_path, test=tmp_path), 0)
    assert [len(part) for part in splits.parts.values()] == [4, 2, 3]
