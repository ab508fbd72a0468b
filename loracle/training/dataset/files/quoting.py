"""Whether quotation marks in a file of columns enclose cells, as RFC 4180 has it, or are text.

CSV is defined by RFC 4180, where they enclose; TSV by IANA (text/tab-separated-values), where there is no
quoting; but spreadsheets and data frames write TSV with it. So a file is read in both ways where that makes a
difference: a mark that begins a cell. What holds for the whole file is taken, and what cannot be decided is
refused, as a mark that is taken for one that encloses joins lines.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from loracle.config.data.settings import Quoting
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.text.escape import printable
from loracle.training.dataset.files.encoding import open_text
from loracle.training.dataset.files.text import columns_differ, reader_of

_MARK = '"'
_OTHERS = ",;"  # separators of lists: Excel encloses what has one, whatever separates the columns
_SETTING = "data.quoting: none reads quotation marks as text, and rfc4180 has them enclose cells"


@dataclass
class _Enclosed:
    """A file read by RFC 4180. Lines are counted from 1.

    Attributes:
        error: the first line that cannot be read so, and why.
        stray: the first line with a mark inside a cell that none enclose, which RFC 4180 forbids.
        joined: first and last line of the first row with a cell of several lines.
        header: whether a name of a column is enclosed.
        n, enclosed: rows, and how many of them enclose a cell, by column.
        joins: columns with cells of several lines.
        needless: columns with a cell that has nothing for which it had to be enclosed but, maybe, separators
            of lists, and these.
        free: separators of lists in cells that none enclose.
    """

    error: tuple[int, str] | None = None
    stray: int | None = None
    joined: tuple[int, int] | None = None
    header: bool = False
    n: int = 0
    enclosed: Counter[int] = field(default_factory=Counter)
    joins: set[int] = field(default_factory=set)
    needless: set[tuple[int, str]] = field(default_factory=set)
    free: set[str] = field(default_factory=set)

    def whole(self, column: int) -> bool:
        """Whether all cells of a column are enclosed, of two rows at least."""
        return 1 < self.n == self.enclosed[column]

    @property
    def usual(self) -> bool:
        """Whether it is as writers have it, who enclose what needs it, or a column, and all names or none."""
        return self.header or all(
            self.whole(column) or set(separators) - self.free for column, separators in self.needless
        )


def encloses(
    path: Path, encoding: str, separator: str, before: int, setting: Quoting, told: list[Notice]
) -> bool:
    """Whether quotation marks of a file enclose cells.

    Args:
        path, encoding, separator: of the file.
        before: lines before the names of the columns.
        setting: what `data.quoting` says.
        told: gets what becomes of the marks of a TSV.

    Raises:
        DataError: it cannot be decided, or none of the two readings holds for all lines.
    """
    if setting != "auto":
        return setting == "rfc4180"
    if not _matters(path, encoding, separator):
        return True
    tabs, columns, odd = separator == "\t", *_lines(path, encoding, separator, before)
    found = _read(path, encoding, separator, before)
    error = found.error
    if error is None and tabs and found.stray:
        error = (found.stray, "a quotation mark stands inside a cell that none enclose")
    if error is None and odd is None and not _may_join(found, tabs, columns):
        first, last = found.joined or (0, 0)
        raise DataError(
            f"{path}:{first}: a quotation mark would make one row of the lines {first} to {last}, each of "
            f"which is a row as well; {_SETTING}"
        )
    if error is None:
        kept = not tabs or odd is not None or found.usual
    elif not tabs:
        remedy = "" if odd else "; where quotation marks are text, say data.quoting: none"
        raise DataError(f"{path}:{error[0]}: {error[1]}{remedy}")
    elif odd is not None:
        raise DataError(
            f"{path}:{error[0]}: {error[1]}; and with quotation marks as text line {odd[0]} has {odd[1]} "
            f"columns where the first has {columns}; {_SETTING}"
        )
    else:
        kept = False
    if tabs and (odd is None or not kept):
        _tell(path, encoding, separator, before, kept, told)
    return kept


def _may_join(found: _Enclosed, tabs: bool, columns: int) -> bool:
    """Whether cells of several lines are such beyond doubt, where each line might be a row as well: all of
    their column are enclosed, or it is a CSV of one column, of which any line is a row."""
    return found.header or all(map(found.whole, found.joins)) or (columns == 1 and not tabs)


def _matters(path: Path, encoding: str, separator: str) -> bool:
    """Whether a quotation mark may begin a cell."""
    with open_text(path, encoding, newline="") as file:
        return any(line.lstrip("\ufeff")[:1] == _MARK or separator + _MARK in line for line in file)


def _lines(path: Path, encoding: str, separator: str, before: int) -> tuple[int, tuple[int, int] | None]:
    """Columns of the first line, and the number and columns of the first line that has others."""
    columns = 0
    with open_text(path, encoding, newline="") as file:
        for number, line in enumerate(islice(file, before, None), start=before + 1):
            if text := line.rstrip("\r\n"):
                n = text.count(separator) + 1
                columns = columns or n
                if n != columns:
                    return columns, (number, n)
    return columns, None


def _read(path: Path, encoding: str, separator: str, before: int) -> _Enclosed:
    """A file by RFC 4180, up to the first line that cannot be read so."""
    found, columns = _Enclosed(), 0
    with open_text(path, encoding, newline="") as file:
        raw: list[str] = []
        reader = reader_of(_kept(islice(file, before, None), raw), separator)
        line = 1 + before
        try:
            for cells in reader:
                text, last = "".join(raw), reader.line_num + before
                raw.clear()
                if cells:
                    columns = columns or len(cells)
                    if len(cells) != columns:
                        found.error = line, columns_differ(columns, len(cells))
                        break
                    _add(found, cells, _marked(cells, text), line, last, line == 1 + before)
                line = last + 1
        except csv.Error as error:
            found.error = line, f"not valid {'TSV' if separator == chr(9) else 'CSV'}: {error}"
    return found


def _kept(lines: Iterator[str], into: list[str]) -> Iterator[str]:
    for line in lines:
        into.append(line)
        yield line


def _marked(cells: list[str], raw: str) -> list[bool]:
    """Which of a row's cells are enclosed; `raw`: its lines."""
    marked, at = [], 0
    for cell in cells:
        marked.append(raw.startswith(_MARK, at))
        at += len(cell) + 1 + (2 + cell.count(_MARK) if marked[-1] else 0)
    return marked


def _add(found: _Enclosed, cells: list[str], marked: list[bool], line: int, last: int, header: bool) -> None:
    for column, (cell, is_marked) in enumerate(zip(cells, marked, strict=True)):
        if not is_marked:
            found.free.update(set(cell) & set(_OTHERS))
            if _MARK in cell and found.stray is None:
                found.stray = line
            continue
        found.header |= header
        found.enclosed[column] += not header
        if "\n" in cell or "\r" in cell:
            found.joins.add(column)
            found.joined = found.joined or (line, last)
        elif not header and _MARK not in cell and "\t" not in cell and cell == cell.strip() != "":
            found.needless.add((column, "".join(sorted(set(cell) & set(_OTHERS)))))
    found.n += not header


def _tell(path: Path, encoding: str, separator: str, before: int, kept: bool, told: list[Notice]) -> None:
    """Of a TSV, what its marks are taken for."""
    n = first = 0
    with open_text(path, encoding, newline="") as file:
        for number, line in enumerate(islice(file, before, None), start=before + 1):
            if line.startswith(_MARK) or separator + _MARK in line:
                n, first = n + 1, first or number
    where = f"{printable(path.name, 60)}: quotation marks that begin cells, in {n:,} lines, the first line "
    how = "enclose the cells and are no text" if kept else "are text"
    other = "none reads them as text" if kept else "rfc4180 has them enclose cells"
    told.append(Notice("data", "quotation_marks", f"{where}{first}, {how}; data.quoting: {other}", n))
