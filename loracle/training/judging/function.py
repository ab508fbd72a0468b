"""A Python function of the user's own as a metric."""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loracle.config.metrics import metric_of
from loracle.config.metrics.elsewhere import OwnFunction
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.user_function import load_function, raised_in_function, source_hashes
from loracle.errors import ConfigError
from loracle.text.numbers import NotANumber, as_number
from loracle.training.judging.judge import Asked

_TRIED = 3  # examples that it is tried on before anything is trained


def make(name: str, settings: ScoringConfig) -> FunctionJudge:
    """Raises ConfigError where it cannot be imported, or does not take what it is given."""
    metric = metric_of(name)
    assert isinstance(metric, OwnFunction)
    before = source_hashes(metric.source, settings.working_folder)  # it may change while it is read
    function = load_function(metric.source, settings.working_folder, "scoring.metric")
    sources = before or source_hashes(metric.source, settings.working_folder)
    with contextlib.suppress(ValueError, TypeError):  # written in C
        signature = inspect.signature(function)
        try:
            signature.bind([], [], [])
        except TypeError as error:
            raise ConfigError(
                f"scoring.metric: {metric.source} is called with predictions, references and items: {error}"
            ) from None
    return FunctionJudge(metric.source, function, sources)


class FunctionJudge:
    """Calls `function(predictions, references, items)`, three lists of one length."""

    def __init__(self, name: str, function: Callable[..., Any], sources: Mapping[str, str]) -> None:
        self._name, self._function, self.sources = name, function, sources

    def check(self, items: Sequence[Asked]) -> None:
        """Calls it on a few examples, with their references for predictions."""
        some = items[:_TRIED]
        references = [str(item["reference"]) for item in some]
        try:
            self.rate(references, references, some)
        except Exception as error:  # the user's code: whatever it raises is told
            raise ConfigError(
                f"scoring.metric: {self._name}, tried on {len(some)} references as predictions: "
                f"{raised_in_function(error)}"
            ) from None

    def rate(
        self, predictions: Sequence[str], references: Sequence[str], items: Sequence[Asked]
    ) -> list[float] | float:
        """Raises whatever the function raises, and ValueError where it gives no numbers, or too few."""
        with contextlib.redirect_stdout(sys.stderr):  # stdout may be for results, as with --json
            found = self._function(list(predictions), list(references), [dict(item) for item in items])
        if hasattr(found, "tolist"):  # an array
            found = found.tolist()
        if not isinstance(found, list | tuple):
            return self._number(found, "")
        if len(found) != len(predictions):
            raise ValueError(
                f"{self._name} returned {len(found)} numbers for {len(predictions)} predictions; it returns "
                "one each, or one in all"
            )
        return [self._number(value, f" for item {i}") for i, value in enumerate(found)]

    def _number(self, value: Any, where: str) -> float:
        try:
            number = float(value) if isinstance(value, bool) else as_number(value)
        except NotANumber as error:
            raise ValueError(f"{self._name} returned {error}{where}") from None
        if not math.isfinite(number):
            raise ValueError(f"{self._name} returned {number}{where}; a score is a finite number")
        return number
