"""Files of columns: Parquet and Arrow. Imported where there are some: pyarrow takes 28 MB."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from loracle.errors import DataError
from loracle.training.dataset.fields import refuse_twice

_ROWS_AT_ONCE = 1024  # as Python values

# What Python raises where it cannot hold a value; an unknown time zone is a key to some.
_UNHELD = (
    *(ValueError, OverflowError, TypeError, KeyError, NotImplementedError),
    pyarrow.ArrowException,
)

Names = Mapping[str, list[str]]  # of the labels that numbers of a column stand for


def read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a Parquet file, and where each stands. Raises DataError."""
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {_reason(error)}") from None
    yield from rows_of(table, str(path), label_names(table.schema))


def read_arrow(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of an Arrow file, as a stream (`datasets` writes these) or with an index. Raises DataError."""
    try:
        with pyarrow.memory_map(str(path)) as source:
            try:
                table = pyarrow.ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                table = pyarrow.ipc.open_file(source).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not an Arrow file: {_reason(error)}") from None
    yield from rows_of(table, str(path), label_names(table.schema))


def label_names(schema: Any) -> dict[str, list[str]]:
    """Names of labels by column, which `datasets` writes beside the columns of its files."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        labels = {name: own for name, own in features.items() if own.get("_type") == "ClassLabel"}
        return {name: list(map(str, own["names"])) for name, own in labels.items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def rows_of(table: Any, place: str, labels: Names, start: int = 0) -> Iterator[tuple[str, Any]]:
    """Rows of a table. Numbers of labels become their names, and -1, which stands for none, nothing."""
    names = table.column_names
    refuse_twice(names, place)
    number = start
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        columns = [_labelled(names[i], _values(batch.column(i)), labels) for i in range(len(names))]
        for values in zip(*columns, strict=True):
            number += 1
            row = dict(zip(names, values, strict=True))
            # All rows of a column have the same fields: those that a row does not have are null.
            yield f"{place}: row {number}", {k: _without_nulls(v) for k, v in row.items()}


def _labelled(name: str, values: Iterable[Any], labels: Names) -> Iterable[Any]:
    if name not in labels:
        return values
    own = labels[name]
    return [own[v] if isinstance(v, int) and 0 <= v < len(own) else None if v == -1 else v for v in values]


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _values(column: Any) -> list[Any]:
    """A column as Python values. Dates beyond those of Python and nanoseconds become text."""
    try:
        return list(column.to_pylist())
    except _UNHELD:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except _UNHELD:
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
