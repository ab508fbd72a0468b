"""`loracle show`."""

from __future__ import annotations

from typing import Any

from loracle.commands.terminal.options import AsJson, RunFolder


def show(run: RunFolder, as_json: AsJson = False) -> None:
    """List the trials of a run as a table."""
    from loracle.commands.terminal.console import console, say, say_json, say_notices, say_table
    from loracle.records.notices import as_json as notices_as_json
    from loracle.records.notices import read_notices
    from loracle.report.objectives import PARETO, front_json, front_rows
    from loracle.report.tables import history_json, history_table
    from loracle.run.folder import open_run
    from loracle.run.storage.opening import read_history

    config, space = open_run(run)
    history = read_history(config.output, space, config.execution.storage)
    notices = read_notices(config.output)
    if as_json:
        content: dict[str, Any] = {"run": str(config.output), "metric": config.metric}
        trials = history_json(space, history, config.metric)
        if config.objectives:
            content["pareto_set"] = front_json(space, history, config.objectives)
        say_json(content | {"trials": trials, "notices": notices_as_json(notices)})
        return
    say_table(console(), history_table(space, history, config.metric, config.objectives))
    if config.objectives:
        say(console(), "")
        say(console(), f"Pareto set: {PARETO[:1].lower()}{PARETO[1:]}")
        say_table(console(), front_rows(space, history, config.objectives))
    say_notices(console(), notices)
