"""What every section of the settings is: frozen, and strict about what stands in it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from loracle.records.space import Value
from loracle.records.trial_files import is_reserved


def no_truth(value: Any) -> Any:
    """Refuses `true` and `false`, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("input should be a number, not true or false")
    return value


def knob_value(value: Any) -> Any:
    """Refuses truth; a text that reads as a number is one: YAML takes some of them for words."""
    if isinstance(value, bool):
        raise ValueError("input should be a number or a name, not true or false; put a name in quotes")
    if isinstance(value, str):
        for read in (int, float):
            with contextlib.suppress(ValueError):
                number = read(value)
                return number if math.isfinite(number) else value
    return value


def one_of(table: Mapping[str, Any]) -> BeforeValidator:
    """Refuses what is no key of a table; what is in the table is looked up when a setting is read."""

    def check(value: Any) -> str:
        if isinstance(value, str) and value in table:
            return value
        *others, last = map(repr, table)
        raise ValueError(f"input should be {', '.join(others)} or {last}")

    return BeforeValidator(check)


def check_inside(file: str, setting: str) -> None:
    """Raises ValueError where a command may not leave this file in its trial's folder."""
    path = Path(file)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in file:
        raise ValueError(f"{setting} is a file inside the trial's folder; got {file!r}")
    if is_reserved(str(path)):
        raise ValueError(f"{setting}: Loracle itself writes {path} there; let the command write another")


Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
Number = Annotated[Value, BeforeValidator(knob_value)]  # of a knob; or a name


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, infinite numbers, and truth for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        return value if bool in (annotation, *get_args(annotation)) else no_truth(value)

    def by_default(self, **values: Any) -> Self:
        """The same with these settings, which it did not say and, as with any default, does not say now."""
        filled = self.model_copy(update=values)
        filled.model_fields_set.difference_update(values)
        return filled
