"""The head of a file that people read: what it is, and what it cannot say, in lines of comment."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from loracle.text.escape import printable

_WIDTH = 100  # characters


def comment_head(said: Sequence[str], title: str, notes: Sequence[str]) -> str:
    """Lines that begin with `#`, for YAML, Python, shells and Modelfiles.

    Args:
        said: a paragraph each.
        title: of the notes; left out where there are none.
        notes: an item of a list each.
    """
    lines = [line for text in said for line in textwrap.wrap(printable(text), _WIDTH)]
    if notes:
        lines.append(title)
    for note in notes:
        lines += textwrap.wrap(
            printable(note), _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
