"""`loracle verdict`."""

from __future__ import annotations

import typer

from loracle.commands.terminal.options import AsJson, RunFolder


def verdict(run: RunFolder, as_json: AsJson = False) -> None:
    """Repeat the verdict of a finished run; exit code 0: better, 3: no difference, 4: worse."""
    from loracle.commands.terminal.console import console, say, say_json
    from loracle.records.notices import read_notices
    from loracle.report.verdict import headline
    from loracle.report.verdict.stored import read_finished, verdict_json
    from loracle.run.folder import open_run
    from loracle.run.storage.opening import read_history

    config, space = open_run(run)
    history = read_history(config.output, space, config.execution.storage)
    finished = read_finished(config.output, history, config.execution.storage)
    if as_json:
        notices = read_notices(config.output)
        say_json(verdict_json(config, space, finished, history, notices))
    else:
        say(console(), headline(finished.comparison, config.metric, history))
    raise typer.Exit(finished.comparison.exit_code)
