"""`loracle watch`."""

from __future__ import annotations

import typer

from loracle.commands.terminal.options import RunFolder


def watch(run: RunFolder) -> None:
    """Follow a run that goes on in another terminal, until it ends; Ctrl-C ends the watching alone.

    Exit code 2 where the run ended with an error, as `loracle tune` has it.
    """
    import time

    from loracle.commands.terminal.console import console, say
    from loracle.commands.terminal.display import Display
    from loracle.records.events import RunEnded
    from loracle.run.folder import open_run
    from loracle.run.storage.event_file import follow, wait_until_told

    said = False

    def wait(seconds: float) -> None:
        nonlocal said
        if not said:
            say(console(errors=True), "the run begins; it has told nothing yet", "dim")
        said = True
        time.sleep(seconds)

    try:
        if run.is_dir():
            wait_until_told(run, wait)
        config, _ = open_run(run)
        wait_until_told(config.output, wait)
        with Display(config.metric, objectives=config.objectives) as display:
            for told in follow(config.output):
                display.show(told.event, told.at)
                if isinstance(told.event, RunEnded):
                    ended = told.event
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    say(console(), ended.text)
    if ended.failed:
        raise typer.Exit(2)
