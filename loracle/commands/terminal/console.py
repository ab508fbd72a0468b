"""What commands print: lines and tables for people, one JSON object for programs, one line for an error.

Paths, names and messages are foreign text: nothing in them is markup, and what would move the cursor is spelt
out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loracle.records.codec import finite
from loracle.records.notices import Notice
from loracle.text import escape

results: TextIO | None = None  # where JSON goes; None: stdout
_GAP = 2  # columns between two of a table
_WIDE = 10_000  # columns where no terminal cuts lines off: a file, a pipe


def console(*, errors: bool = False, file: TextIO | None = None) -> Console:
    """A console that takes no markup: stdout, stderr, or a file."""
    made = Console(stderr=errors, file=file, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def say(to: Console, text: str, style: str = "") -> None:
    """A line as it is, whatever is in it, for paths and commands: a terminal breaks it where it ends."""
    to.print(Text(escape.lines(text), style), soft_wrap=True)


def say_parts(to: Console, *parts: tuple[str, str], indent: int = 0) -> None:
    """A sentence of several texts, each with its style.

    A terminal gets whole words in a line, the further ones after `indent` columns.
    """
    text = Text.assemble(*((escape.printable(text), style) for text, style in parts))
    if not to.is_terminal:
        to.print(text, soft_wrap=True)
        return
    first, *rest = text.wrap(to, max(20, to.width - indent))
    to.print(Text("\n").join([first, *(Text(" " * indent).append_text(line) for line in rest)]))


def say_notices(to: Console, notices: Iterable[Notice]) -> None:
    """What the user must see, a sentence each."""
    for notice in notices:
        say_parts(to, ("note", "yellow"), (f" {notice.about}: {notice.text}", ""), indent=5)


def say_table(to: Console, rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> None:
    """A table whose first row are the titles; columns are to the right, but for those named in `left`.

    Titles are broken at their underscores where a terminal is too narrow for whole ones, and where that is
    not enough the table comes in parts, one below the other, each with the first column.
    """
    shown = [[escape.printable(cell) for cell in row] for row in rows]
    if sum(max(len(row[i]) for row in shown) + _GAP for i in range(len(shown[0]))) > to.width:
        shown[0] = [title.replace("_", "_\n") for title in shown[0]]
    for number, part in enumerate(_parts(shown, to.width)):
        if number:
            to.print()
        table = Table(box=None, header_style="bold", pad_edge=False)
        for i in part:
            justify: Literal["left", "right"] = "left" if i in left else "right"
            table.add_column(Text(shown[0][i]), justify=justify, overflow="fold")
        for row in shown[1:]:
            table.add_row(*(Text(row[i]) for i in part))
        to.print(table)


def _parts(rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Columns that fit into a width together, the first in every part; too wide a column stands alone."""
    widths = [
        max(len(line) for row in rows for line in row[i].split("\n")) + _GAP for i in range(len(rows[0]))
    ]
    parts = [[0]]
    for i in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[k] for k in parts[-1]) + widths[i] > width:
            parts.append([0])
        parts[-1].append(i)
    return parts


def say_json(content: Mapping[str, Any]) -> None:
    """One JSON object on stdout; what JSON has no number for is null."""
    (results or sys.stdout).write(json.dumps(finite(content), allow_nan=False) + "\n")


def error_line(error: BaseException | str) -> str:
    """One line for stderr."""
    return f"loracle: {escape.printable(' '.join(str(error).split()))}\n"
