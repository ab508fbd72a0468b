"""`loracle explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson, RunFolder


def explain(
    run: RunFolder,
    trial: Annotated[int | None, typer.Argument(min=0, help="Number of a trial.", metavar="TRIAL")] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a trial was made, what may be concluded from a run, and what to try next."""
    from loracle.commands.terminal.console import console, say, say_json
    from loracle.errors import StudyError
    from loracle.records.codec import to_plain
    from loracle.report.explanation.reasons import Reasons
    from loracle.report.explanation.sentences import sentences
    from loracle.report.verdict.stored import read_finished
    from loracle.run.folder import open_run
    from loracle.run.search import run_preset
    from loracle.run.storage.opening import read_history

    config, space = open_run(run)
    history = read_history(config.output, space, config.execution.storage)
    try:
        comparison = read_finished(config.output, history).comparison
    except StudyError:  # the run is not finished: nothing was compared
        comparison = None
    numbers = () if trial is None else (trial,)
    found = Reasons(config, space, run_preset(config)).explain(history, numbers, comparison)
    if as_json:
        content = {"run": str(config.output), **to_plain(found), "sentences": list(sentences(found))}
        say_json(content)
        return
    for line in sentences(found):
        say(console(), line)
