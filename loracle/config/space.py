"""A search space as users write it: knobs in full, or as a value, a list, a range, names with sentences."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from loracle.config.knobs import KNOBS
from loracle.config.section import Number, Section, knob_value
from loracle.errors import SpaceError
from loracle.records.space import Scale, Statement, UserBeliefs
from loracle.records.standard_settings import SCALES

_WHOLE = ("rank", "batch_size")
_RANGE = {"low", "high", "n", "scale", "explanation"}
_LARGEST = 1e300
_MOST = 1000  # values of a range: beyond it is a slip
_LIKE = 0.8  # from this likeness to a key on, a name is a misspelt key and no knob


class KnobConfig(Section):
    """A knob as written in a file."""

    values: list[Number]
    scale: Scale = "linear"
    explanation: str = ""
    about: dict[str, str] = Field(default_factory=dict)  # a sentence on some names


class SpaceConfig(Section):
    """A search space as written in a file: knobs replace or extend those of `base`.

    A knob may be a number or a name, which fixes it, a list of values, a range `{low, high, n, scale}`, or a
    mapping of names to a sentence each; and stand beside the other keys in place of under `knobs`.
    """

    base: Literal["default", "paper", "empty"] = "default"
    knobs: dict[str, KnobConfig] = Field(default_factory=dict)
    remove: list[str] = Field(default_factory=list)
    constraints: list[str] | None = None  # None: those of `base`

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, content: Any) -> Any:
        knobs = content.get("knobs", {}) if isinstance(content, dict) else None
        if not isinstance(knobs, dict):
            return content
        beside = {name: value for name, value in content.items() if _is_knob(cls, name, value)}
        if twice := sorted(beside.keys() & knobs.keys()):
            raise ValueError(f"knob {twice[0]!r} is given twice, beside knobs and in them")
        rest = {name: value for name, value in content.items() if name not in beside}
        return {**rest, "knobs": {name: _full(name, value) for name, value in {**knobs, **beside}.items()}}


def _is_knob(section: type[Section], name: Any, value: Any) -> bool:
    """Whether a key beside those of a section is the name of a knob."""
    if not isinstance(name, str) or name in section.model_fields:
        return False
    if isinstance(value, Mapping):
        shaped = "values" in value or {"low", "high"} <= value.keys() or _are_sentences(value)
    else:
        values = value if isinstance(value, list) else [value]
        shaped = bool(values) and all(isinstance(one, int | float | str) for one in values)
        shaped = shaped and (name in KNOBS or not all(isinstance(one, bool) for one in values))
    return shaped and not difflib.get_close_matches(name, section.model_fields, n=1, cutoff=_LIKE)


def _are_sentences(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is one of names to sentences; a name without one has nothing behind it."""
    known = {*KnobConfig.model_fields, *_RANGE}
    said = all(sentence is None or isinstance(sentence, str) for sentence in value.values())
    return bool(value) and said and not known & value.keys()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _full(name: str, value: Any) -> Any:
    """A knob as `KnobConfig` has it; what is none stays, for pydantic to refuse."""
    if _is_number(value) or isinstance(value, str):
        return {"values": [value]}
    if isinstance(value, list):
        positive = all(_is_number(one) and one > 0 for one in value)
        return {"values": value, "scale": SCALES.get(name, "linear") if positive else "linear"}
    if isinstance(value, Mapping) and {"low", "high"} & value.keys() and "values" not in value:
        return _values_of_range(name, value)
    if isinstance(value, Mapping) and _are_sentences(value):
        return {"values": list(value), "about": {name: said for name, said in value.items() if said}}
    return value


def _values_of_range(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """`n` values from `low` to `high`, evenly on the scale, those between the ends to three digits."""
    if unknown := sorted(map(str, given.keys() - _RANGE)):
        raise ValueError(f"knob {name!r}: a range has low, high, n and scale; got {unknown[0]!r}")
    low: Any = given.get("low")
    high: Any = given.get("high")
    scale = given.get("scale", SCALES.get(name, "linear"))
    if not (_is_number(low) and _is_number(high) and -_LARGEST <= low < high <= _LARGEST):
        raise ValueError(f"knob {name!r}: low and high are numbers, low below high; got {low!r} and {high!r}")
    if scale not in ("linear", "log2", "log10"):
        raise ValueError(f"knob {name!r}: scale is linear, log2 or log10; got {scale!r}")
    if scale != "linear" and low <= 0:
        raise ValueError(f"knob {name!r}: scale {scale} needs values above 0; got {low!r}")
    n = given.get("n", round(math.log2(high) - math.log2(low)) + 1 if scale == "log2" else 5)
    if type(n) is not int or not 2 <= n <= _MOST:
        raise ValueError(f"knob {name!r}: n is a whole number from 2 to {_MOST:,}; got {n!r}")
    between = []
    for i in range(1, n - 1):
        part = i / (n - 1)
        if scale == "linear":
            value = low + (high - low) * part
        else:
            value = math.exp((1 - part) * math.log(low) + part * math.log(high))
        between.append(round(value) if name in _WHOLE else float(f"{value:.3g}"))
    values = [low, *sorted({value for value in between if low < value < high}), high]
    return {"values": values, "scale": scale, "explanation": given.get("explanation", "")}


# -- what is held likely of it ----------------------------------------------------------------------


def _statement(value: Any) -> Any:
    """A belief in its words; refuses what is none."""
    value = knob_value(value)
    if isinstance(value, list | dict):
        raise ValueError(f"input should be a value, or a belief in words; got {value!r}")
    try:
        return str(Statement.parse(value))  # the same belief reads the same, however it was written
    except SpaceError as error:
        raise ValueError(str(error)) from None


class BeliefsConfig(Section):
    """Statements on knobs, which stand beside the other keys or under `knobs`, and configs that are known."""

    knobs: dict[str, Annotated[str, BeforeValidator(_statement)]] = Field(default_factory=dict)
    good: list[dict[str, Number]] = Field(default_factory=list)
    bad: list[dict[str, Number]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("knobs", {}), dict):
            return content
        beside = {name: value for name, value in content.items() if name not in cls.model_fields}
        rest = {name: value for name, value in content.items() if name in cls.model_fields}
        return {**rest, "knobs": {**content.get("knobs", {}), **beside}}

    @field_validator("good", "bad", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @property
    def said(self) -> UserBeliefs:
        """As the search reads them."""
        return UserBeliefs.of(self.knobs, self.good, self.bad)
