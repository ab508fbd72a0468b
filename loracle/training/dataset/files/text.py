"""Text files of rows: JSON Lines, JSON and CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.text.escape import printable
from loracle.training.dataset.fields import meant, parse_json, refuse_twice
from loracle.training.dataset.files.encoding import open_text

_SEPARATORS = ",;\t|"
_EXCEL = re.compile(r"""\ufeff?["']?sep=(.)["']?[,;\t|]*\s*""", re.IGNORECASE)  # its line before the columns
_LINES_TOLD = 3  # rows with line breaks whose place is named
_ROWS_TRIED = 100  # of which each has to have as many columns as the first, where a separator is looked for

csv.field_size_limit(2**31 - 1)  # a long text is not an error


def read_jsonl(path: Path, encoding: str) -> Iterator[tuple[str, Any]]:
    """Rows of a file of JSON Lines, and where each stands. Raises DataError."""
    with open_text(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix("\ufeff")  # of a file that was joined to another; no JSON begins with it
            if line.strip():
                yield f"{path}:{number}", parse_json(line, f"{path}:{number}")


def read_json(path: Path, encoding: str) -> Iterator[tuple[str, Any]]:
    """Rows of a JSON file: a list of objects, or objects one a line. Raises DataError."""
    with open_text(path, encoding) as file:
        if _is_lines(file):
            yield from read_jsonl(path, encoding)
            return
    with open_text(path, encoding) as file:
        rows = parse_json(file.read().removeprefix("\ufeff"), str(path))
    if not isinstance(rows, list):
        fields = rows.items() if isinstance(rows, dict) else ()
        lists = [name for name, value in fields if isinstance(value, list)]
        hint = f"; save the list in {lists[0]!r} as the file" if len(lists) == 1 else ""
        raise DataError(
            f"{path}: a JSON dataset is a list of objects; for one object a line, use .jsonl{hint}"
        )
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def _is_lines(file: IO[str]) -> bool:
    """Whether the first two lines with something in them are objects of their own."""
    lines = list(islice((line.removeprefix("\ufeff").strip() for line in file if line.strip()), 2))
    return len(lines) == 2 and all(line.startswith("{") and line.endswith("}") for line in lines)


def read_csv(
    path: Path, encoding: str, separator: str, quoted: bool = True, told: list[Notice] | None = None
) -> Iterator[tuple[str, Any]]:
    """Rows of a file of columns that a character separates, and where each stands. Raises DataError.

    A first line that names the separator, as Excel has it (`sep=;`), is no row. `quoted`: quotation marks
    enclose cells; else they are text. `told` gets how many cells hold line breaks.
    """
    before = named_separator(path, encoding) is not None
    names: list[str] | None = None
    broken: list[str] = []
    with open_text(path, encoding, newline="") as file:
        reader = reader_of(islice(file, int(before), None), separator, quoted)
        line = 1 + before  # where the next row begins; it may have several lines
        try:
            for cells in reader:
                source, last = f"{path}:{line}", reader.line_num + before
                if cells and names is None:
                    # The index of a data frame has a column without a name, and so has what ends in
                    # separators.
                    names = [name or f"column {number}" for number, name in enumerate(cells, start=1)]
                    refuse_twice(names, path)
                elif cells and names is not None:
                    if len(cells) != len(names):
                        raise DataError(f"{source}: {columns_differ(len(names), len(cells))}")
                    if any("\n" in cell or "\r" in cell for cell in cells):
                        broken.append(f"{line} to {last}")
                    yield source, dict(zip(names, cells, strict=True))
                line = last + 1
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not valid CSV: {error}") from None
    if broken and told is not None:
        n, some = len(broken), ", ".join(broken[:_LINES_TOLD])
        rows = f"{n:,} row{'s' * (n > 1)}"
        text = f"{printable(path.name, 60)}: cells of {rows} hold line breaks, the first in lines {some}"
        told.append(Notice("data", "line_breaks_in_cells", text, n))


def reader_of(lines: Iterable[str], separator: str, quoted: bool = True) -> Any:
    """Rows of cells, as csv reads them; `quoted`: quotation marks enclose cells, else they are text."""
    return csv.reader(
        lines, strict=True, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    )


def columns_differ(wanted: int, n: int) -> str:
    """What is wrong with a row of `n` columns, in words."""
    return f"a row needs {wanted} columns; this one has {n}"


def named_separator(path: Path, encoding: str) -> str | None:
    """The separator that the first line of a file names for Excel, such as `sep=;`; None: it names none."""
    with open_text(path, encoding, newline="") as file:
        found = _EXCEL.fullmatch(file.readline(20))
    return None if found is None else found[1]


def separator_of(path: Path, encoding: str, columns: Sequence[str], quoted: Sequence[bool] = (True,)) -> str:
    """The character that separates the columns of a file.

    One with which all rows have as many columns as the first; of several, the one that gives columns of
    known names (ours, or `columns`), else the most. `quoted`: whether quotation marks enclose cells, and
    what else is tried where none separates the rows so.

    Raises:
        DataError: two of them do equally well.
    """
    for encloses in quoted:
        found = {}
        for character in _SEPARATORS:
            if (names := _names(path, encoding, character, encloses)) and len(names) > 1:
                found[character] = (sum(bool(meant(name)) or name in columns for name in names), len(names))
        best = [character for character, how in found.items() if how == max(found.values())]
        if len(best) > 1:
            raise DataError(
                f"{path}: columns may be separated by {' or by '.join(map(repr, best))}; say which in "
                "data.separator"
            )
        if best:
            return best[0]
    return ","


def _names(path: Path, encoding: str, separator: str, quoted: bool) -> list[str] | None:
    """Names of the columns, with a separator; None: it does not separate the rows."""
    with open_text(path, encoding, newline="") as file:
        try:
            rows = list(islice(reader_of(file, separator, quoted), _ROWS_TRIED))
        except csv.Error:
            return None
    rows = [row for row in rows if row]
    return rows[0] if rows and all(len(row) == len(rows[0]) for row in rows) else None
