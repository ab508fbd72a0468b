"""Files of rows: JSON Lines, JSON, CSV and Parquet, read into examples."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from loracle.errors import DataError
from loracle.training.dataset.fields import meant, named, parse_json, shown
from loracle.training.dataset.shapes import Example, as_example

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_AS_COMMAS = "save it as CSV with commas, or as JSON Lines"

_ROWS_AT_ONCE = 1024  # of a Parquet file, as Python values

csv.field_size_limit(2**31 - 1)  # a long text is not an error


def read_examples(path: Path, file_format: str = "auto", key: str = "data") -> tuple[Example, ...]:
    """All rows of a file; `key` is the setting that named it, for errors. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{key}: {path} {'is not a file' if path.exists() else 'does not exist'}")
    if file_format == "auto":
        if path.suffix.lower() in (".tsv", ".tab"):
            raise DataError(f"{key}: {path}: is separated by tabs, which is not read; {_AS_COMMAS}")
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
    if file_format != "parquet":
        _refuse_wide_text(path)
    try:
        for source, row in readers[file_format](path):
            example = _example(row, source)
            if examples and example.form != examples[0].form:
                raise DataError(
                    f"{source}: a row of {example.form}, but {examples[0].source} has {examples[0].form}; "
                    "all rows need one form"
                )
            examples.append(example)
    except UnicodeDecodeError:
        raise DataError(_undecodable(path)) from None
    if not examples:
        raise DataError(f"{key}: {path} holds no examples")
    return tuple(examples)


def _example(row: Any, source: str) -> Example:
    try:
        return as_example(row, source)
    except RecursionError:
        raise DataError(f"{source}: a field is nested too deeply") from None


def _refuse_wide_text(path: Path) -> None:
    """Raises DataError for UTF-16 and UTF-32. Without a mark, one of the first two bytes is zero: both begin
    with a letter of ASCII here, a brace or a name of a column."""
    with path.open("rb") as file:
        start = file.read(4)
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
    if start.startswith(marks) or 0 in start[:2]:
        kind = "UTF-32" if b"\0\0" in (start[:2], start[2:]) else "UTF-16"
        raise DataError(
            f"{path}: is {kind}, not UTF-8 text; save it as UTF-8, for instance with iconv -f {kind} -t UTF-8"
        )


def _undecodable(path: Path) -> str:
    """Says where a file is not UTF-8, and what it most likely is."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return (
                    f"{path}:{number}: is not UTF-8 text: byte 0x{line[error.start]:02x} at "
                    f"{error.start + 1} of the line; if it is Latin-1 (Windows-1252), save it as UTF-8, for "
                    "instance with iconv -f WINDOWS-1252 -t UTF-8"
                )
    return f"{path}: is not UTF-8 text"


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix("\ufeff")  # of a file that was joined to another; no JSON begins with it
            if line.strip():
                yield f"{path}:{number}", parse_json(line, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON dataset is a list of objects; for one object a line, use .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        line = 1
        try:
            names = list(reader.fieldnames or ())
            _refuse_twice(names, path)
            _refuse_other_separators(names, path)
            line = reader.line_num + 1  # where the next row begins; it may have several lines
            while (row := next(reader, None)) is not None:
                source = f"{path}:{line}"
                if "" in row or None in row.values():
                    raise DataError(f"{source}: a row needs {len(names)} columns")
                nested = {k: parse_json(row[k], source) for k in ("messages", "choices") if row.get(k)}
                yield source, row | nested
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not valid CSV: {error}") from None


def _refuse_other_separators(names: list[str], path: Path) -> None:
    """Names of columns that are several with another separator than a comma, and not one of them a field."""
    for name in names:
        for character, word in _SEPARATORS.items():
            parts = name.split(character)
            if len(parts) > 1 and (len(names) == 1 or any(meant(part) for part in parts)):
                raise DataError(
                    f"{path}:1: columns are separated by {word}, which is not read: {shown(name)}; "
                    f"{_AS_COMMAS}"
                )


def _refuse_twice(names: list[str], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are named {named(twice)}; rename one of them")


# -- Parquet ----------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: not a Parquet file: {reason}") from None
    names = table.column_names
    _refuse_twice(names, path)
    batches = (batch for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE))
    number = 0
    for batch in batches:
        columns = [_values(batch.column(i)) for i in range(len(names))]
        for values in zip(*columns, strict=True):
            number += 1
            row = dict(zip(names, values, strict=True))
            # All rows of a column have the same fields: those that a row does not have are null.
            yield f"{path}: row {number}", {k: _without_nulls(v) for k, v in row.items()}


def _values(column: Any) -> list[Any]:
    """A column as Python values. Dates beyond those of Python and nanoseconds become text."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, TypeError, NotImplementedError, pyarrow.ArrowException):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, TypeError, NotImplementedError, pyarrow.ArrowException):
        if not scalar.is_valid:
            return None
        if isinstance(scalar, pyarrow.StructScalar):
            return {name: _value(inner) for name, inner in scalar.items()}
        if isinstance(scalar, pyarrow.ListScalar):
            return [_value(inner) for inner in scalar.values]
        return _spelt(scalar)


def _spelt(scalar: Any) -> str:
    try:
        return str(scalar.cast(pyarrow.string()).as_py())
    except pyarrow.ArrowException:
        return f"<{scalar.type}>"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
