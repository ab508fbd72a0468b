"""`loracle worker`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from loracle.commands.terminal.options import ConfigFile, Storage, Workers, changed_settings


def worker(
    config: ConfigFile,
    storage: Storage = None,
    workers: Workers = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total number of trials, of all machines together.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Run folder; its name is the run's in the database.")
    ] = None,
) -> None:
    """Search together with other machines on one database; then `loracle tune` trains the winner."""
    from loracle.commands.terminal.console import console, say
    from loracle.commands.terminal.tracking import shown_and_tracked
    from loracle.run.tune import work

    settings = changed_settings(config, trials, output, workers=workers, storage=storage)
    with shown_and_tracked(settings) as listen:
        stopped, history = work(settings, listen)
    n = len(history.counted)
    succeeded = f"{n} in all, of which {len(history.succeeded)} succeeded"
    following = ["loracle", "tune", str(config)]
    for name, value in (("--storage", storage), ("--output", output)):
        following += [] if value is None else [name, str(value)]
    say(console(), f"{stopped}; {succeeded}. Next: {shlex.join(following)}")
