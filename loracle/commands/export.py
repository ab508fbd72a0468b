"""`loracle export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loracle.commands.terminal.options import RunFolder
from loracle.export import dialects


def export(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", metavar="|".join(dialects()), help="Format.")] = "peft",
    destination: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("adapter"),
    devices: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="Devices that train together: the batch is split for them."),
    ] = 1,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences on each device at once; else what the run used.")
    ] = None,
) -> None:
    """Write the winner for another trainer or server."""
    from loracle.commands.terminal.console import console, say, say_parts
    from loracle.commands.terminal.display import quiet
    from loracle.errors import StudyError
    from loracle.export import export as export_run
    from loracle.export import loads_models
    from loracle.run.folder import open_run

    settings, _ = open_run(run)
    if settings.objective is not None:
        raise StudyError(f"{settings.output}: the adapter is where your trainer saved it; see best.yaml")
    if loads_models(to):
        quiet(models=True)
    made = export_run(settings.output, destination, to, devices=devices, micro_batch=micro_batch)
    for note in made.notes:
        say_parts(console(errors=True), ("note", "yellow"), (f" {note}", ""), indent=5)
    for written in made.files:
        say(console(), str(written))
