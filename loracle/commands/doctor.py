"""`loracle doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import typer

from loracle.commands.terminal.options import AsJson, ConfigFile

if TYPE_CHECKING:
    from loracle.run.checks import Check

_STYLES = {"ok": "green", "note": "yellow", "bad": "red"}


def doctor(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check device, memory, data, model, space and prompts before anything costs money."""
    from loracle.commands.terminal.console import console, say_json, say_parts
    from loracle.commands.terminal.display import quiet

    quiet(models=True)  # before what it silences is loaded
    from loracle.config.loading import load_config
    from loracle.records.codec import to_plain
    from loracle.records.notices import as_json as notices_as_json
    from loracle.run.checks import examine

    settings = load_config(config)
    checks = []
    for check in chain(examine(settings), _trackers(settings.report_to)):
        checks.append(check)
        if not as_json:
            state = (f"{check.state:<4}  ", _STYLES[check.state])
            say_parts(console(), state, (f"{check.name:<9} ", "bold"), (check.text, ""), indent=16)
    if as_json:
        found = [{"name": c.name, "state": c.state, "text": c.text} for c in checks]
        notices = notices_as_json(c.notice for c in checks if c.notice is not None)
        expected = [to_plain(c.expected) for c in checks if c.expected is not None]
        say_json({"checks": found, "time": expected[0] if expected else None, "notices": notices})
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(2)


def _trackers(names: Sequence[str]) -> Iterator[Check]:
    """Whether the trackers of the config are there: without one `tune` begins no search."""
    from loracle.errors import ConfigError
    from loracle.run.checks import Check
    from loracle.trackers import opener

    try:
        for name in names:
            opener(name)
    except ConfigError as error:
        yield Check("trackers", "bad", f"report_to: {error}")
        return
    if names:
        yield Check("trackers", "ok", ", ".join(names))
