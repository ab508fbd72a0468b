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
) -> None:
    """Write the winning adapter and its settings for another tool."""
    from loracle.commands.terminal.console import console, say
    from loracle.errors import StudyError
    from loracle.export import export as export_run
    from loracle.run.folder import open_run

    settings, _ = open_run(run)
    if settings.objective is not None:
        raise StudyError(f"{settings.output}: the adapter is where your trainer saved it; see best.yaml")
    for written in export_run(settings.output, destination, to):
        say(console(), str(written))
