"""Settings of what must not be lost: rows, the metric that watches them, and how much may go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from loracle.config.data.sources import HubDataset, Source
from loracle.config.metrics.registry import metric_of
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.section import Count, Section, check_inside

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,40}")


def _tolerance(value: Any) -> float | str:
    """A number in the units of the metric, or a share of what the base model scores, such as `2 %`."""
    if isinstance(value, str):
        if _PERCENT.fullmatch(value.strip()):
            return value.strip()
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError(
        "tolerance is a number of 0 or more in the units of the metric (0.05: nats of a loss; of a share, "
        f'0.05 is five points), or a part of what the base model scores, "2 %"; got {value!r}'
    )


class GuardConfig(ScoringConfig):
    """One thing that must not be lost. The settings of `scoring` say how it is scored."""

    data: Source
    tolerance: Annotated[float | str, BeforeValidator(_tolerance)] = "2 %"
    items: Count = 100  # scored in every trial, of the half that trials see

    @model_validator(mode="after")
    def _is_of_items(self) -> GuardConfig:
        metric = metric_of(self.metric)
        if self.metrics:
            raise ValueError("metrics: a guard has one metric; name a second guard for a second one")
        if metric.needs in ("harness", "parts"):
            raise ValueError(f"metric: {self.metric} is not of the guard's own rows; name one that is")
        if metric.judge_module:
            raise ValueError(f"metric: {self.metric} is judged outside of the model, and guards are not")
        return self

    def allowed(self, base: float) -> float:
        """How much of a value may go where the base model scores `base`."""
        return _allowed(self.tolerance, base)


class OwnGuardConfig(Section):
    """One thing that must not be lost where a trainer of the user's own measures it: a number beside its
    result, or results of items, of which it is the mean. Where nothing is known of items, any loss beyond the
    tolerance breaks it."""

    # Of that number. None: the guard's name, or the mean of its items.
    key: Annotated[str, Field(min_length=1)] | None = None
    direction: Literal["maximize", "minimize"]
    # What the base model has there: a number, or the key of one that the trainer gives beside its result.
    # None: the mean of what the items say.
    base: Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(min_length=1)] | None = None
    # What the trained and the base model get on each item: of a command, a file of JSON lines in its folder;
    # of a function, the key of a list in what it returns.
    items: Annotated[str, Field(min_length=1)] | None = None
    tolerance: Annotated[float | str, BeforeValidator(_tolerance)] = "2 %"

    @model_validator(mode="after")
    def _has_a_base(self) -> OwnGuardConfig:
        if self.base is None and self.items is None:
            raise ValueError(
                "needs base, what the base model has there: a number, or the key of one beside the result; "
                "or items that say it"
            )
        return self

    @property
    def metric(self) -> str:
        """What a reading is, for people: `value`, or `cost` where less is better."""
        return "cost" if self.direction == "minimize" else "value"

    def allowed(self, base: float) -> float:
        """How much of a value may go where the base model scores `base`."""
        return _allowed(self.tolerance, base)


def _allowed(tolerance: float | str, base: float) -> float:
    if isinstance(tolerance, str):
        found = _PERCENT.fullmatch(tolerance)
        assert found is not None
        return float(found[1]) / 100 * abs(base)
    return tolerance


class _Own(dict[str, Any]):
    """What was written of a guard that a trainer of the user's own measures."""


def _named(value: Any, info: ValidationInfo) -> Any:
    """Guards by name; a file alone is held-out text, named after the file."""
    objective = info.data.get("objective")
    own = objective is not None
    if value is None:
        return {}
    if isinstance(value, str | Path) and not own:
        value = {re.sub(r"\W+", "_", Path(value).stem).strip("_") or "text": {"data": str(value)}}
    if not isinstance(value, Mapping):
        of_rows = "input is a file of text, or a mapping of names to guards, each with its data"
        raise ValueError(_MEASURED if own else of_rows)
    if isinstance(value.get("data"), str | list | tuple | Path | HubDataset):
        raise ValueError("each guard has a name: write {general: {data: ...}}")
    found: dict[str, Any] = {}
    for name, one in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a guard's name has letters, digits, - and _; got {str(name)[:80]!r}")
        if own and not isinstance(one, OwnGuardConfig):
            if not isinstance(one, Mapping) or "data" in one:
                raise ValueError(f"{name}: {_MEASURED}")
            if objective and objective.command is not None and isinstance(one.get("items"), str):
                check_inside(one["items"], f"{name}.items")
            one = _Own(one)
        found[name] = {"data": one} if isinstance(one, str | Path) else one
    return found


_MEASURED = (
    "the rows of a guard are scored by the built-in trainer; a trainer of your own gives a number beside its "
    "result. Name it and what the base model has there: {general: {key: general_loss, direction: minimize, "
    "base: 2.31}}"
)


def _kind(value: Any) -> str:
    return "own" if isinstance(value, _Own | OwnGuardConfig) else "rows"


GuardOf = Annotated[
    Annotated[GuardConfig, Tag("rows")] | Annotated[OwnGuardConfig, Tag("own")], Discriminator(_kind)
]
Guards = Annotated[dict[str, GuardOf], BeforeValidator(_named)]


def guards_of_rows(guards: Mapping[str, GuardConfig | OwnGuardConfig]) -> dict[str, GuardConfig]:
    """Those that the built-in trainer measures."""
    return {name: guard for name, guard in guards.items() if isinstance(guard, GuardConfig)}


def guards_of_own_trainer(guards: Mapping[str, GuardConfig | OwnGuardConfig]) -> dict[str, OwnGuardConfig]:
    """Those that a trainer of the user's own measures."""
    return {name: guard for name, guard in guards.items() if isinstance(guard, OwnGuardConfig)}
