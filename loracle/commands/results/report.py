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
    from loracle.records.codec import to_plain
    from loracle.records.notices import read_notices
    from loracle.report.findings.finding import Subject
    from loracle.report.page.page import FILE, write_page
    from loracle.report.verdict.stored import read_finished
    from loracle.run.folder import open_run
    from loracle.run.search import run_preset
    from loracle.run.storage.opening import read_history

    config, space = open_run(run)
    history = read_history(config.output, space, config.execution.storage)
    notices, subject = read_notices(config.output), Subject(config, space, run_preset(config))
    try:
        finished = read_finished(config.output, history)
    except StudyError:  # then the report is one of a search that is not over
        found = subject.find(history, notices=notices)
    else:
        found = subject.find(history, finished.comparison, finished.stopped, notices=notices)
    if as_json:
        say_json(to_plain(found))
        return
    path = config.output / FILE if to is None else to
    try:
        write_page(found, path)
    except OSError as error:
        raise StudyError(f"{path}: the report cannot be written: {error.strerror}") from None
    say(console(), str(path))
