"""`loracle import`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def import_settings(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="YAML of axolotl, LLaMA-Factory, oumi tune or TRL, and sweeps over it.", metavar="FILE"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Config to write.")] = Path("loracle.yaml"),
) -> None:
    """Write a config from the settings of another trainer."""
    from loracle.commands.terminal.console import console, say, say_parts
    from loracle.export.incoming.config import import_config

    for note in import_config(files, output):
        say_parts(console(errors=True), ("note", "yellow"), (f" {note}", ""), indent=5)
    named = shlex.quote(str(output))
    say(console(), f"wrote {output}; next: loracle doctor {named}, then loracle tune {named}")
