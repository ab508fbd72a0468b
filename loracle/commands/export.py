"""`loracle export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from loracle.commands.options import RunFolder


def export(
    run: RunFolder,
    to: Annotated[Literal["peft"], typer.Option("--to", help="Format.")] = "peft",
    destination: Annotated[Path, typer.Argument(help="Folder to write.")] = Path("adapter"),
) -> None:
    """Write the winning adapter and its settings for another tool."""
    from loracle.commands.console import console, say
    from loracle.errors import StudyError
    from loracle.export.peft import export_peft
    from loracle.run.folder import open_run

    settings, _ = open_run(run)
    if settings.objective is not None:
        raise StudyError(f"{settings.output}: the adapter is where your trainer saved it; see best.yaml")
    for written in export_peft(settings.output, destination):
        say(console(), str(written))
