"""Files of rows: JSON Lines, JSON, CSV and Parquet, read into examples."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from loracle.errors import DataError
from loracle.examples import Example, as_example

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

csv.field_size_limit(2**31 - 1)  # a long text is not an error


def read_examples(path: Path, file_format: str = "auto", key: str = "data") -> tuple[Example, ...]:
    """All rows of a file; `key` is the setting that named it, for errors. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{key}: {path} {'is not a file' if path.exists() else 'does not exist'}")
    if file_format == "auto":
        if path.suffix.lower() not in _SUFFIXES:
            raise DataError(
                f"{key}: {path}: a suffix {path.suffix!r} tells no format; rename the file to one of "
                f"{', '.join(_SUFFIXES)} or set data.format"
            )
        file_format = _SUFFIXES[path.suffix.lower()]
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        "jsonl": _read_jsonl,
        "json": _read_json,
        "csv": _read_csv,
        "parquet": _read_parquet,
    }
    examples: list[Example] = []
    try:
        for source, row in readers[file_format](path):
            example = as_example(row, source)
            if examples and example.form != examples[0].form:
                raise DataError(
                    f"{source}: a row of {example.form}, but {examples[0].source} has {examples[0].form}; "
                    "all rows need one form"
                )
            examples.append(example)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text") from None
    if not examples:
        raise DataError(f"{key}: {path} holds no examples")
    return tuple(examples)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse_json(line, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON dataset is a list of objects; for one object a line, use .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        line = 1
        try:
            columns = len(reader.fieldnames or ())
            line = reader.line_num + 1  # where the next row begins; it may have several lines
            while (row := next(reader, None)) is not None:
                source = f"{path}:{line}"
                if "" in row or None in row.values():
                    raise DataError(f"{source}: a row needs {columns} columns")
                nested = {k: _parse_json(row[k], source) for k in ("messages", "choices") if row.get(k)}
                yield source, row | nested
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not valid CSV: {error}") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{source}{line}: not valid JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON: {error}") from None
