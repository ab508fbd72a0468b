"""Everything a user can get wrong, as exceptions whose message says the rule, the values and the way out.

The command line prints the message of a `LoracleError` as one line and leaves with exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class LoracleError(Exception):
    """Bad input or an impossible request. The message is written for the user."""


class ConfigError(LoracleError):
    """A configuration file or value that breaks a rule."""


class SpaceError(LoracleError):
    """A knob, constraint or config that does not fit its search space."""


class OutcomeError(LoracleError, ValueError):
    """A value that is told of a trial and that no score can have."""


class PromptError(LoracleError):
    """A prompt text that is missing, malformed or longer than the language model reads."""


class DataError(LoracleError):
    """A dataset that cannot be read or split; the message names file and line where there is one."""


class ModelError(LoracleError):
    """A model or tokenizer that cannot be loaded or used."""


class StudyError(LoracleError):
    """A run folder or storage that cannot be opened, continued or written."""


def suggest(name: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown name, to follow a message: the nearest one, or all there are."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}"
