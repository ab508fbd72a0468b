"""`loracle cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from loracle.commands.terminal.options import AsJson


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what features are kept between runs, or remove them."""
    from datetime import datetime

    from loracle.commands.terminal.console import console, say, say_json
    from loracle.config.cache_folder import cache_folder
    from loracle.language.feature_cache import cache_entries, clear_cache

    folder = cache_folder()
    freed = clear_cache(folder) if clear else 0
    entries = cache_entries(folder)
    held = sum(entry.size for entry in entries)
    if as_json:
        say_json({"folder": str(folder), "entries": len(entries), "bytes": held, "freed": freed})
        return
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        say(console(), f"{used}  {entry.size / 1e6:8.1f} MB  {entry.path.name}")
    cleared = f", {freed / 1e6:.1f} MB freed" if clear else ""
    say(console(), f"{folder}: {len(entries)} entries, {held / 1e6:.1f} MB{cleared}")
