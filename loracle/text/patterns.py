"""A user's regular expression: compiled and searched with a limit on time.

Python's `re` cannot be stopped, and some expressions take time exponential in the length of a text. So `re`
checks the expression, and the package `regex` searches with it, in the version whose meaning is that of `re`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import regex

from loracle.errors import ConfigError

_SECONDS = 5.0  # CPU time for one text; usual expressions take microseconds

# What `re` reads whole (escapes, named characters, sets, quantifiers), or a brace that stands for itself.
_PARTS = re.compile(
    r"(?P<whole>\\N\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?:\d+(?:,\d*)?|,\d*)\})|(?P<brace>\{)",
    re.DOTALL,
)


class Pattern:
    """A compiled expression. What it finds is its first group or, where it has none, the whole match.

    Attributes:
        text: the expression as the user wrote it.
        setting: where the user wrote it, for errors.
        seconds: CPU time allowed for one text.
    """

    def __init__(self, text: str, setting: str, *, seconds: float = _SECONDS) -> None:
        """Compiles.

        Raises:
            ConfigError: the expression is malformed.
        """
        self.text, self.setting, self.seconds = text, setting, seconds
        try:
            with warnings.catch_warnings():  # about sets that a later Python may read otherwise
                warnings.simplefilter("ignore", FutureWarning)
                self._groups = re.compile(text).groups
                self._compiled = regex.compile(_without_fuzziness(text), regex.V0)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise ConfigError(f"{setting}: {text!r}: {error}") from None

    def matches(self, text: str) -> bool:
        """Whether it matches anywhere in a text. Raises ConfigError out of time."""
        return self._limited(self._first, text) is not None

    def first(self, text: str) -> str | None:
        """What the first match in a text found; None without a match, or without its group in it.

        Raises ConfigError out of time.
        """
        return self._found(self._limited(self._first, text))

    def last(self, text: str) -> str | None:
        """What the last match in a text found; None without a match, or without its group in it.

        Raises ConfigError out of time.
        """
        return self._found(self._limited(self._last, text))

    def _first(self, text: str) -> Any:
        return self._compiled.search(text, timeout=self.seconds)

    def _last(self, text: str) -> Any:
        last = None
        for match in self._compiled.finditer(text, timeout=self.seconds):
            last = match
        return last

    def _found(self, match: Any) -> str | None:
        found: str | None = None if match is None else match.group(1 if self._groups else 0)
        return found

    def _limited(self, search: Callable[[str], Any], text: str) -> Any:
        try:
            return search(text)
        except TimeoutError:
            raise ConfigError(
                f"{self.setting}: {self.text!r} took more than {self.seconds:g} s on a text of {len(text):,} "
                "characters; write it without a repeat inside a repeat, such as (a+)+"
            ) from None


def _without_fuzziness(text: str) -> str:
    """`regex` reads `a{e}` as "a, with errors"; `re` reads a brace that is no quantifier as itself."""
    return _PARTS.sub(lambda part: part["whole"] or "\\{", text)
