"""`loracle report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson, RunFolder


def report(
    run: RunFolder,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="File to write; else report.html of the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run, finished or not, as one HTML page."""
    from loracle.commands.terminal.console import console, say, say_json
    from loracle.errors import StudyError
    from loracle.export.winner.reading import Winner
    from loracle.loaded_run import load_run
    from loracle.records.codec import to_plain
    from loracle.report.page.page import FILE, write_page

    loaded = load_run(run)
    if loaded.finished and loaded.config.objective is None and not Winner(loaded.config.output).base_model:
        import torch  # noqa: F401  # settings of torchtune are of the base model's, which were not recorded
    found = loaded.findings
    if as_json:
        say_json(to_plain(found))
        return
    path = loaded.config.output / FILE if to is None else to
    try:
        write_page(found, path)
    except OSError as error:
        raise StudyError(f"{path}: the report cannot be written: {error.strerror}") from None
    say(console(), str(path))
