"""`loracle tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loracle.commands.terminal.options import AsJson, ConfigFile, Storage, Workers, changed_settings

if TYPE_CHECKING:
    from loracle.config.settings import RunConfig


def tune(
    config: ConfigFile,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total number of trials, earlier ones included.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    workers: Workers = None,
    executor: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Where workers run: this machine, or a Ray cluster."),
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Search, then train the winner. The same command continues a run that was interrupted."""
    settings = changed_settings(config, trials, output, workers=workers, executor=executor, storage=storage)
    tune_and_tell(settings, as_json)


def tune_and_tell(config: RunConfig, as_json: bool) -> None:
    """The whole job, and its result on stdout."""
    from loracle.commands.terminal.console import console, say, say_json, say_notices, say_parts, say_table
    from loracle.commands.terminal.display import live
    from loracle.records.notices import as_json as notices_as_json
    from loracle.report.tables import comparison_json, comparison_rows
    from loracle.report.verdict import verdict_lines
    from loracle.run.tune import tune as run

    with live(config) as listen:
        result = run(config, listen)
    metric, found = config.metric, result.comparison
    said = verdict_lines(found, metric, result.history)
    if as_json:
        content = {"run": str(result.folder), "stopped": result.stopped, "verdict": " ".join(said)}
        say_json(comparison_json(found, metric) | content | {"notices": notices_as_json(result.notices)})
        return
    out = console()
    say_table(out, comparison_rows(found, metric, config.scoring.all_metrics), left=[0])
    for line in said:
        say_parts(out, (line, ""))
    say_notices(out, result.notices)
    if result.best is not None:
        say(out, f"{'adapter' if result.best.is_dir() else 'settings'}: {result.best}")
    say(out, f"report:  {result.folder / 'report.md'}")
