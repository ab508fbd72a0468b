"""`loracle data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loracle.commands.terminal.options import AsJson, ConfigFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from loracle.run.data.view import DataView, Shown


def data(
    config: ConfigFile,
    rows: Annotated[int, typer.Option(min=0, max=1000, help="Rows of each split that are shown.")] = 2,
    html: Annotated[
        Path | None, typer.Option(help="Write a page to this file, in place of the rows here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the rows as they will be learnt, with the tokens that carry loss, and what is wrong with them."""
    from loracle.commands.terminal.console import console, say, say_json
    from loracle.commands.terminal.display import quiet

    quiet(models=True)  # before what it silences is loaded
    from loracle.config.loading import load_config
    from loracle.run.data.page import page
    from loracle.run.data.view import view_data
    from loracle.text.files import write_atomically

    settings = load_config(config)
    view = view_data(settings, rows)
    if html is not None:
        _write(html, page(view, config.name), write_atomically)
    if as_json:
        say_json(view.as_json())
    else:
        show_view(console(), view, with_rows=html is None)
        if html is not None:
            say(console(), f"page: {html}")
    if view.refused is not None:
        raise typer.Exit(2)


def _write(path: Path, text: str, write: Callable[[Path, str], None]) -> None:
    from loracle.errors import ConfigError

    try:
        write(path, text)
    except OSError as error:
        raise ConfigError(f"--html: {path} cannot be written: {error.strerror}") from None


def show_view(out: Console, view: DataView, *, with_rows: bool) -> None:
    """Rows, numbers and notices; what would stop a run comes last."""
    from loracle.commands.terminal.console import say, say_notices, say_parts, say_table
    from loracle.run.data.page import differences, guard_lines, label_table, summary, table

    if with_rows and view.rows:
        marks = "in green" if _coloured(out) else "between [[ and ]]"
        say_parts(out, (f"Rows as they are learnt; tokens that carry loss are {marks}.", "dim"))
        for row in view.rows:
            _say_row(out, row)
    say(out, f"\n{view.source}", "bold")
    for line in (summary(view), *guard_lines(view)):
        say_parts(out, (line, ""))
    say_table(out, table(view), left=[0])
    for line in differences(view):
        say_parts(out, (line, ""))
    if labels := label_table(view):
        say(out, "")
        say_table(out, labels, left=[0])
    if view.notices:
        say(out, "")
        say_notices(out, view.notices)
    if view.refused is not None:
        say(out, "")
        say_parts(out, ("bad", "red"), (f"  a run would not begin: {view.refused}", ""), indent=5)


def _say_row(out: Console, row: Shown) -> None:
    from rich.text import Text

    from loracle.commands.terminal.console import say_parts
    from loracle.run.data.page import heading
    from loracle.text import escape

    out.print()
    say_parts(out, (row.split, "bold"), (f"  {heading(row)}", "dim"))
    text = Text()
    for piece, counted in row.pieces:
        shown = "\n".join(escape.printable(line) for line in piece.split("\n"))
        if not counted:
            text.append(shown)
        elif _coloured(out):
            text.append(shown.replace("\n", "\u21b5\n"), "black on green")
        else:
            text.append(f"[[{shown}]]")
    out.print(text, soft_wrap=not out.is_terminal)


def _coloured(out: Console) -> bool:
    return out.is_terminal and out.color_system is not None and not out.no_color
