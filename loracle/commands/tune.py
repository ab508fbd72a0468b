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
    from loracle.commands.terminal.tracking import shown_and_tracked
    from loracle.report.findings.search_cost import search_cost, show_trainings
    from loracle.report.objectives import PARETO, front_rows
    from loracle.report.tables import comparison_rows
    from loracle.report.verdict import headline, verdict_lines
    from loracle.report.verdict.stored import verdict_json
    from loracle.run.tune import tune as run

    with shown_and_tracked(config) as listen:
        result = run(config, listen)
    metric, found = config.metric, result.comparison
    if as_json:
        say_json(verdict_json(config, result.space, result.finished, result.history, result.notices))
        return
    out = console()
    if config.objectives:
        say(out, f"Pareto set: {PARETO[:1].lower()}{PARETO[1:]}")
        winner = result.space.index(found.winner)
        say_table(out, front_rows(result.space, result.history, config.objectives, winner))
        say(out, "")
    say_table(out, comparison_rows(found, metric, config.scoring.all_metrics), left=[0])
    for line in verdict_lines(found, metric, result.history):
        say_parts(out, (line, ""))
    say_notices(out, result.notices)
    cost = search_cost(trial.outcome for trial in result.history.finished if trial.outcome)
    if cost is not None:
        say(out, f"search:  {show_trainings(cost.trainings)} in tokens trained, read and written")
    if result.best is not None:
        say(out, f"{'adapter' if result.best.is_dir() else 'settings'}: {result.best}")
    say(out, f"report:  {result.folder / 'report.md'}")
    if result.page is not None:
        say(out, f"page:    {result.page}")
    say(out, f"verdict: {headline(found, metric, result.history)}")
