"""Settings of what must not be lost: rows, the metric that watches them, and how much may go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from loracle.config.data.sources import HubDataset, Source
from loracle.config.metrics.registry import metric_of
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.section import Count

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
        if isinstance(self.tolerance, str):
            found = _PERCENT.fullmatch(self.tolerance)
            assert found is not None
            return float(found[1]) / 100 * abs(base)
        return self.tolerance


def _named(value: Any) -> Any:
    """Guards by name; a file alone is held-out text, named after the file."""
    if value is None:
        return {}
    if isinstance(value, str | Path):
        value = {re.sub(r"\W+", "_", Path(value).stem).strip("_") or "text": {"data": str(value)}}
    if not isinstance(value, Mapping):
        raise ValueError("input is a file of text, or a mapping of names to guards, each with its data")
    if isinstance(value.get("data"), str | list | tuple | Path | HubDataset):
        raise ValueError("each guard has a name: write {general: {data: ...}}")
    found = {}
    for name, one in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"a guard's name has letters, digits, - and _; got {str(name)[:80]!r}")
        found[name] = {"data": one} if isinstance(one, str | Path) else one
    return found


Guards = Annotated[dict[str, GuardConfig], BeforeValidator(_named)]
