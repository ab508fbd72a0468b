"""Puts what `--help` says of every command into docs/commands.md while the site is built."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

PLACE = "<!-- the commands, as `--help` shows them -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    if PLACE not in markdown:
        return markdown
    command = [sys.executable, "-m", "typer", "loracle.cli", "utils", "docs", "--name", "loracle"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, _, commands = written.partition("\n## ")  # each has a heading of its own; the list of them is the menu
    return markdown.replace(PLACE, f"## {commands}")
