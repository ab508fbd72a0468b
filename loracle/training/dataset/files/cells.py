"""Cells of CSV and TSV that hold more than a text: lists, as JSON or as Python prints them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.text.escape import printable
from loracle.training.dataset.fields import named, parse_json
from loracle.training.dataset.shapes.pairs import BETWEEN

_NESTED = ("messages", "conversations", "history", "choices")  # columns that hold lists and nothing else
_TURNS = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")  # how a list of turns begins


def with_lists(
    rows: Iterable[tuple[str, Any]], columns: Mapping[str, str], name: str, told: list[Notice]
) -> Iterator[tuple[str, Any]]:
    """Rows of a file of columns with the lists that stand in their cells.

    A prompt that spells a list of turns is one, and so is then the completion. A completion alone that does
    is what the model shall write, and stays a text.

    Args:
        rows: each with the place where it stands.
        columns: ours to theirs, as `data.columns` has it.
        name: of the file.
        told: gets what a user must see of chats that were found.

    Raises:
        DataError: a cell begins like a list of turns and is none.
    """
    nested = [columns.get(ours, ours) for ours in _NESTED]
    pairs = [(columns.get(asked, asked), columns.get(answer, answer)) for asked, answer in BETWEEN]
    chats = texts = 0
    for source, row in rows:
        read = {column: _parsed(row[column], column, source) for column in nested if row.get(column)}
        found = {column: row[column] for pair in pairs for column in pair if _is_chat(row.get(column))}
        asked = [pair for pair in pairs if pair[0] in found]
        for column in {column for pair in asked for column in pair if column in found}:
            read[column] = _parsed(found[column], column, source)
        chats += bool(asked)
        texts += bool(found) and not asked
        yield source, row | read
    for n, how in ((chats, "chats, written as lists of turns"), (texts, "answers like lists of turns")):
        if n:
            read_as = "are read so" if how.startswith("chats") else "are learnt as texts"
            text = f"{printable(name, 60)}: cells of {n:,} rows hold {how}, and {read_as}"
            told.append(Notice("data", "chats_in_cells", text, n))


def _is_chat(value: Any) -> bool:
    return isinstance(value, str) and _TURNS.match(value) is not None


def _parsed(text: str, column: str, source: str) -> Any:
    """What a cell spells, as JSON or as Python prints it (`DataFrame.to_csv` does)."""
    try:
        return parse_json(text, source)
    except DataError as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError(f"{error}, in {named(column)}") from None
