"""`loracle init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("loracle.yaml"),
    model: Annotated[str, typer.Option(help="Hub id or folder of the base model.")] = "Qwen/Qwen3-0.6B",
    train: Annotated[
        str | None,
        typer.Option(help="Training data (JSONL, JSON, CSV or Parquet); else train.jsonl beside the config."),
    ] = None,
) -> None:
    """Write a commented config to start from."""
    from loracle.commands.terminal.console import console, say
    from loracle.config.new_file import write_config

    for name in write_config(path, model, train):
        say(console(), f"not there yet: {name}")
    named = shlex.quote(str(path))
    say(console(), f"wrote {path}; next: loracle doctor {named}, then loracle tune {named}")
