"""Sources of rows, read into examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loracle.config.data.settings import NO_DATA, DataConfig
from loracle.config.data.sources import HubDataset, described
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.text.escape import printable
from loracle.training.dataset.fields import named, shown
from loracle.training.dataset.files.cells import with_lists
from loracle.training.dataset.files.encoding import encoding_of
from loracle.training.dataset.files.hub import read_hub
from loracle.training.dataset.files.places import SUFFIXES, files_of, format_of
from loracle.training.dataset.files.quoting import encloses
from loracle.training.dataset.files.text import named_separator, read_csv, read_json, read_jsonl, separator_of
from loracle.training.dataset.shapes.columns import Rows, renamed
from loracle.training.dataset.shapes.example import Example
from loracle.training.dataset.shapes.registry import LABELLED, SHAPES, as_example, shape_of


def read_examples(
    source: Path | Sequence[Path] | HubDataset,
    settings: DataConfig = NO_DATA,
    role: str = "train",
    told: list[Notice] | None = None,
) -> tuple[Example, ...]:
    """All rows of a source.

    Args:
        source: a file, a folder, a glob, several of them, or a dataset of the hub.
        settings: how files and rows are read.
        role: the split that they are for; errors name its setting.
        told: gets what a user must see of how they were read.

    Raises:
        DataError: nothing is there, a file cannot be read, or a row cannot be learnt whole.
    """
    told = [] if told is None else told
    place = described(source if isinstance(source, Path | HubDataset) else tuple(source))
    rows = list(_rows(source, settings, role, told))
    if not rows:
        raise DataError(f"data.{role}: {place} holds no examples")
    if settings.columns:
        rows = renamed(rows, settings.columns, place)
    name = _shape_of_all(rows, settings)
    examples: list[Example] = []
    for where, row in rows:
        example = _example(row, where, settings, name)
        if examples and example.form != examples[0].form:
            raise DataError(
                f"{where}: a row of {example.form}, but {examples[0].source} has {examples[0].form}; "
                "all rows need one form"
            )
        examples.append(example)
    told += _about_layout(examples, settings, role)
    return tuple(examples)


def _example(row: Any, source: str, settings: DataConfig, name: str | None) -> Example:
    try:
        return as_example(row, source, settings, name)
    except RecursionError:
        raise DataError(f"{source}: a field is nested too deeply") from None


def _rows(
    source: Path | Sequence[Path] | HubDataset, settings: DataConfig, role: str, told: list[Notice]
) -> Iterator[tuple[str, Any]]:
    if isinstance(source, HubDataset):
        splits: list[str] = []
        yield from read_hub(source, role, splits)
        unread = tuple(splits)
    else:
        files = files_of(source, role)
        unread = files.unread
        for path in files.paths:
            yield from _rows_of(path, settings, told)
    if unread:
        some = ", ".join(printable(name, 60) for name in unread[:5])
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        text = f"data.{role} has more that is not read as {role}: {some}{more}; name what else is meant"
        told.append(Notice("data", "files_not_read", text, len(unread)))


def _rows_of(path: Path, settings: DataConfig, told: list[Notice]) -> Iterator[tuple[str, Any]]:
    """Rows of one file."""
    kind = settings.format if settings.format != "auto" else format_of(path)
    if kind is None:
        raise DataError(
            f"data: {path}: a suffix {path.suffix!r} tells no format; rename the file to one of "
            f"{', '.join(SUFFIXES)} or set data.format"
        )
    if kind in ("parquet", "arrow"):
        from loracle.training.dataset.files.tables import read_arrow, read_parquet  # pyarrow, 28 MB

        return (read_parquet if kind == "parquet" else read_arrow)(path)
    encoding, guessed = encoding_of(path, settings.encoding)
    if guessed is not None:
        text = f"{printable(path.name, 60)} is not UTF-8 and is read as {encoding}, like this: "
        text += f"{printable(guessed)}; data.encoding names another"
        told.append(Notice("data", "encoding_guessed", text))
    if kind in ("jsonl", "json"):
        return (read_jsonl if kind == "jsonl" else read_json)(path, encoding)
    excel, columns = named_separator(path, encoding), settings.columns or {}
    if excel is not None:
        text = (
            f"{printable(path.name, 60)} begins with the line sep={printable(excel)}, which names Excel the "
        )
        text += f"separator and is no row; columns are separated by {settings.separator or excel!r}"
        told.append(Notice("data", "separator_named", text))
    separator = settings.separator or excel or ("\t" if kind == "tsv" else None)
    tried = {"auto": (True, False), "rfc4180": (True,), "none": (False,)}[settings.quoting]
    separator = separator or separator_of(path, encoding, list(columns.values()), tried)
    quoted = encloses(path, encoding, separator, int(excel is not None), settings.quoting, told)
    return with_lists(read_csv(path, encoding, separator, quoted, told), columns, path.name, told)


# -- the shape of all rows --------------------------------------------------------------------------


def _shape_of_all(rows: Rows, settings: DataConfig) -> str | None:
    """The shape of all rows, where not every row says it for itself.

    Rows of a text and a label whose label is a part of the text, in all of them, are rows of text.

    Raises:
        DataError: labels of several kinds, such as 1 and true.
    """
    name: str | None = settings.shape
    if name is None:
        if not all(isinstance(row, dict) and {"text", "label"} <= row.keys() for _, row in rows):
            return None
        if any(shape_of(row, source) != LABELLED for source, row in rows):
            return None
        if all(isinstance(row["label"], str) and row["label"].strip() in str(row["text"]) for _, row in rows):
            return "text"
        name = LABELLED
    if name == LABELLED:
        _require_one_kind(rows)
    return name


def _require_one_kind(rows: Rows) -> None:
    kinds: dict[type, str] = {}
    for source, row in rows:
        if isinstance(row, dict) and row.get("label") is not None:
            kinds.setdefault(type(row["label"]), f"{shown(row['label'])} ({source})")
    if len(kinds) > 1:
        raise DataError(f"labels are of several kinds: {' and '.join(kinds.values())}; spell them alike")


def _about_layout(examples: Sequence[Example], settings: DataConfig, role: str) -> Iterator[Notice]:
    """How rows are put together, where they do not say so themselves, and which of two forms is learnt."""
    if settings.as_chat:
        return
    if settings.shape is None:
        yield from _about_whole_texts(examples, role)
    shapes = Counter(example.shape for example in examples if not example.messages)
    layouts = {
        "alpaca": "in the layout of Stanford Alpaca",
        "question/answer": "as the question, a line break and the answer",
        "prompt/response": "as the prompt and the response, with nothing in between",
        LABELLED: "as the text, a line break and the label",
    }
    for name, how in layouts.items():
        if n := shapes[name]:
            text = f"{n:,} {role} rows of {named(name)} are learnt {how}"
            yield Notice(
                "data",
                "rows_laid_out",
                f"{text}; data.as_chat: true puts them into the model's chat template",
                n,
            )


def _about_whole_texts(examples: Sequence[Example], role: str) -> Iterator[Notice]:
    """Rows of text that hold a pair as well, as Stanford Alpaca's do: their prompts are learnt, too."""
    pairs = {name: {*own.fields} for name, own in SHAPES.items() if len(own.fields) > 1}
    whole = Counter[str]()
    for unread in ({*example.unread} for example in examples if example.text is not None):
        whole.update(next(([name] for name, fields in pairs.items() if fields <= unread), ()))
    for name, n in whole.items():
        text = (
            f"{n:,} {role} rows have a text and the fields of {named(name)}; the text is learnt whole, prompt"
        )
        text += f" included, and with data.shape: {name} the {SHAPES[name].fields[1]} alone"
        yield Notice("data", "texts_learnt_whole", text, n)
