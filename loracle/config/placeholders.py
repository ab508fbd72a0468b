"""A command with placeholders, such as `python train.py --lr {learning_rate}`.

It is split into arguments once. A value goes into its own argument, which is never split or expanded again,
and there is no shell, so nothing in a value can become a command.
"""

from __future__ import annotations

import difflib
import shlex
import string
from collections.abc import Mapping, Sequence
from decimal import Decimal

from loracle.errors import ConfigError
from loracle.text.secrets import recorded_arguments, without_references

# What a command may name besides the knobs.
PLACES = ("folder", "seed", "number", "fraction", "phase")


def split_command(command: str | Sequence[str]) -> tuple[str, ...]:
    """The arguments of a command; text is split as a shell would, once.

    Raises:
        ConfigError: nothing is left, or a quote is not closed.
    """
    try:
        arguments = tuple(shlex.split(command) if isinstance(command, str) else command)
    except ValueError as error:
        raise ConfigError(f"cannot be split into arguments: {str(error).lower()}") from None
    if not arguments or not arguments[0]:
        raise ConfigError("names no program")
    for argument in arguments:
        check_text(argument)
    return arguments


def recorded_command(command: str | Sequence[str]) -> str | list[str]:
    """A command for a file: secrets in it are masked, else it is as it was written."""
    parts = split_command(command)
    kept = recorded_arguments(parts)
    if kept == list(parts):
        return command if isinstance(command, str) else list(command)
    return shlex.join(kept) if isinstance(command, str) else kept


def check_text(text: str) -> None:
    """Refuses what no process can be given, as a ConfigError."""
    if "\0" in text or text.encode(errors="ignore").decode() != text:
        raise ConfigError(f"{text!r} holds characters that no argument can hold")


def placeholders(argument: str) -> set[str]:
    """The names in braces.

    Raises:
        ConfigError: braces that hold something else, or do not match.
    """
    return {name for _, name in _parts(argument) if name is not None}


def fill(argument: str, values: Mapping[str, str | int | float]) -> str:
    """The argument with a value in the place of each name."""
    texts = ((text, "" if name is None else spell(values[name])) for text, name in _parts(argument))
    return "".join(text + value for text, value in texts)


def spell(value: str | int | float) -> str:
    """A value as every program reads it: plain decimals, as YAML takes `1e-05` for a word."""
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else str(value)


def check_names(knobs: Sequence[str]) -> None:
    """Refuses knobs with the name of something else that a command or function asks for, as a ConfigError."""
    for name in knobs:
        if name in PLACES:
            raise ConfigError(
                f"a knob cannot be called {name}: {', '.join(PLACES)} are what every run of your trainer is "
                f"given; call it my_{name}"
            )


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuses values of variables whose braces do not match, as a ConfigError. Values may be secrets."""
    for name, text in environment.items():
        try:
            placeholders(without_references(text))
        except ConfigError:
            raise ConfigError(
                f"environment: the value of {name} has braces that hold no name; write {{{{ and }}}} for them"
            ) from None


def check_placeholders(
    arguments: Sequence[str], knobs: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Checks that every name means something and that every knob is used.

    `alpha` and `alpha_ratio` stand in for each other where there is a rank.

    Args:
        arguments: of the command.
        knobs: names of the space's.
        environment: its variables, with values that may name knobs, too.

    Raises:
        ConfigError: an unknown name, or a knob that changes nothing.
    """
    used = {name for argument in arguments for name in placeholders(argument)}
    twins = {"alpha", "alpha_ratio"} if "rank" in knobs and {"alpha", "alpha_ratio"} & set(knobs) else set()
    known = sorted({*knobs, *twins, *PLACES})
    for variable, text in (environment or {}).items():
        found = placeholders(without_references(text))
        if not found <= set(known):  # what it says may be a secret
            raise ConfigError(
                f"environment: the value of {variable} has an unknown placeholder; there are "
                f"{', '.join(known)} (write {{{{ and }}}} for braces)"
            )
        used |= found
    for name in sorted(used - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {{{close[0]}}}?" if close else f"there are {', '.join(known)}"
        raise ConfigError(f"unknown placeholder {{{name}}}; {hint} (write {{{{ and }}}} for braces)")
    if twins & used:
        used |= twins
    for name in knobs:
        if name not in used:
            raise ConfigError(
                f"the knob {name} is never used; add {{{name}}}, or leave the knob out with "
                f"space: {{remove: [{name}]}}"
            )


def _parts(argument: str) -> list[tuple[str, str | None]]:
    """Text and the name after it, alternating; None at the end."""
    try:
        parts = list(string.Formatter().parse(argument))
    except ValueError as error:
        raise ConfigError(f"{argument!r}: {str(error).lower()}; write {{{{ and }}}} for braces") from None
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ConfigError(
                f"{argument!r}: a placeholder is a name in braces; write {{{{ and }}}} for braces"
            )
    return [(text, name) for text, name, _, _ in parts]
