"""`loracle compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of two or more finished runs.", metavar="RUN...")
    ],
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw them into a PNG file, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: models, data, variants, methods; paired tests on the test items they share."""
    from loracle.commands.terminal.console import console, say, say_json, say_table
    from loracle.errors import StudyError
    from loracle.report.comparison.shown import as_json as comparison_as_json
    from loracle.report.comparison.shown import pair_lines, table, write_figure
    from loracle.run.comparison import compare_runs

    found = compare_runs(runs)
    if plot is not None:
        try:
            write_figure(plot, found)
        except (OSError, ValueError) as error:  # ValueError: matplotlib knows no such suffix
            raise StudyError(f"{plot}: the figure cannot be written: {error}") from None
    if as_json:
        say_json(comparison_as_json(found))
        return
    say_table(console(), table(found), left=range(6))
    for line in pair_lines(found):
        say(console(), line)
    if plot is not None:
        say(console(), f"figure: {plot}")
