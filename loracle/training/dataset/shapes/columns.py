"""Columns of other names than ours, as `data.columns` maps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loracle.errors import DataError
from loracle.training.dataset.fields import named, shown

Rows = Sequence[tuple[str, Any]]  # where each stands, and what it holds


def renamed(rows: Rows, columns: Mapping[str, str], place: str) -> list[tuple[str, Any]]:
    """Rows with our names for the columns that are mapped.

    A column that has one of our names and is not mapped, where another is mapped to it, stays aside.

    Raises:
        DataError: a column is in none of the rows; `place` says where they are from.
    """
    there = {str(name) for _, row in rows if isinstance(row, dict) for name in row}
    for ours, theirs in columns.items():
        if theirs not in there:
            some = ", ".join(named(name) for name in sorted(there)[:20]) or "none"
            raise DataError(f"data.columns: {ours}: {place} has no column {shown(theirs)}; it has {some}")
    return [(source, _renamed(row, columns) if isinstance(row, dict) else row) for source, row in rows]


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    mapped = set(columns.values())
    rest = {
        f"{name} (not mapped)" if name in columns else name: value
        for name, value in row.items()
        if name not in mapped
    }
    return {ours: row[theirs] for ours, theirs in columns.items() if theirs in row} | rest
