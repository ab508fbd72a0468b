"""`loracle explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson, RunFolder


def explain(
    run: RunFolder,
    trial: Annotated[int | None, typer.Argument(min=0, help="Number of a trial.", metavar="TRIAL")] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a trial was made, what may be concluded from a run, and what to try next."""
    from loracle.commands.terminal.console import console, say, say_json
    from loracle.loaded_run import load_run
    from loracle.records.codec import to_plain
    from loracle.report.explanation.reasons import Reasons
    from loracle.report.explanation.sentences import sentences

    loaded = load_run(run)
    comparison = None if loaded.finished is None else loaded.finished.comparison
    numbers = () if trial is None else (trial,)
    reasons = Reasons(loaded.config, loaded.space, loaded.preset)
    found = reasons.explain(loaded.history, numbers, comparison)
    if as_json:
        content = {"run": str(loaded.config.output), **to_plain(found), "sentences": list(sentences(found))}
        say_json(content)
        return
    for line in sentences(found):
        say(console(), line)
