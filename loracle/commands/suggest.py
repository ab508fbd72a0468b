"""`loracle suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson


def suggest(
    model: Annotated[
        Path | None,
        typer.Argument(help="Folder of the base model; its config.json is enough.", metavar="MODEL"),
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(help="How many parameters it has, such as 7e9, in place of a folder.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Training examples.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over them.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Say which config to start from, without any training."""
    from loracle.commands.terminal.console import console, say, say_json
    from loracle.records.codec import to_plain
    from loracle.report.explanation.suggestion import sentences
    from loracle.search.suggestion import suggest as answer

    found = answer(model, parameters=parameters, examples=examples, epochs=epochs)
    if as_json:
        say_json({**to_plain(found), "sentences": list(sentences(found))})
        return
    for line in sentences(found):
        say(console(), line)
