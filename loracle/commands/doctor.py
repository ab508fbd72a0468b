"""`loracle doctor`."""

from __future__ import annotations

import typer

from loracle.commands.terminal.options import AsJson, ConfigFile

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
    for check in examine(settings):
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
