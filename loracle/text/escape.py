"""Text of foreign origin, made harmless where it is shown: in a terminal, in Markdown, in HTML.

Foreign is whatever the user did not type into this command: rows, file names, names in a model, what a
program printed, messages of other libraries. `printable` comes first and keeps every letter of every script;
what would move the cursor, change colours, hide or reverse text is spelt out.
"""

from __future__ import annotations

import html as _html
import re
import unicodedata

# Controls, lone surrogates, and format characters that reorder or hide what follows (bidi, zero width).
_HARMFUL = {"Cc", "Cs", "Cf", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # letters of many scripts and emoji need them
# What begins a list, a title or a line stands at the beginning alone. An underscore within a word formats
# nothing, and names with it stay readable, as do numbers.
_MARKDOWN = re.compile(
    r"[\\`*\[\]<>|~$&]|(?<![^\W_])_|_(?![^\W_])"
    r"|^[-+](?=[\s-]|$)|^#(?=[#\s]|$)|^=(?==*\s*$)"
)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")


def printable(text: str, limit: int | None = None) -> str:
    """One line without harmful characters: those become `\\x1b`, `\\u202e`; `limit` is in characters."""
    shown = "".join(c if _is_harmless(c) else _spelt(c) for c in text)
    if limit is not None and len(shown) > limit:
        return f"{shown[: max(0, limit - 3)]}..."
    return shown


def lines(text: str) -> str:
    """Several lines without harmful characters: line breaks and tabs stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.splitlines())


def markdown(text: str) -> str:
    """For a Markdown sentence or table cell: printable, and nothing in it formats, links or ends a cell."""
    return _NUMBERED.sub(r"\1\\\2", _MARKDOWN.sub(r"\\\g<0>", printable(text)))


def html(text: str) -> str:
    """For HTML text and attributes."""
    return _html.escape(printable(text), quote=True)


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in _HARMFUL or character in _JOINERS


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
