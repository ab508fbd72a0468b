"""Settings of how a trained model is scored, and what goes together in them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from loracle.config.metrics import known_metrics, metric_of
from loracle.config.metrics.normalisation import Rule
from loracle.config.section import Count, Section
from loracle.errors import ConfigError
from loracle.text.escape import printable
from loracle.text.patterns import Pattern


def _metric_name(value: Any) -> str:
    """Refuses what is no metric of a trained model."""
    if not isinstance(value, str):
        raise ValueError("input should be the name of a metric")
    try:
        if metric_of(value).needs != "nothing":
            return value
    except KeyError:
        pass
    except ConfigError as error:
        raise ValueError(str(error)) from None
    known = known_metrics()
    close = difflib.get_close_matches(value, known, n=2)
    if close:
        raise ValueError(f"there is no such metric; did you mean {' or '.join(map(repr, close))}?")
    raise ValueError(f"input should be one of {', '.join(known)}; or a function of your own, file.py:name")


MetricName = Annotated[str, BeforeValidator(_metric_name)]


class HarnessConfig(Section):
    """How tasks of lm-evaluation-harness are run."""

    folder: Path | None = None  # of tasks; None: those that the harness brings
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of documents, that trials are scored on
    limit: Count | None = None  # documents, of those that a split has
    fewshot: Annotated[int, Field(ge=0)] | None = None  # None: as the task says
    chat_template: bool = False


class ScoringConfig(Section):
    """How a trained model is scored on validation and test examples."""

    metric: MetricName = "loss"
    metrics: list[MetricName] = Field(default_factory=list)  # recorded beside it
    answer_pattern: str | None = None  # regex; its first group (or whole match) is the answer
    answer_at: Literal["first", "last"] = "last"  # which match
    normalise: list[Rule] = Field(default_factory=list)  # what does not matter where answers are compared
    labels: list[str] | None = None  # None: the references that there are
    choices: list[str] | None = (
        None  # for a metric that needs them, where examples have no `choices` of their own
    )
    max_new_tokens: Count = 64
    allow_code_execution: bool = False  # of what the model writes
    lm_eval: HarnessConfig = HarnessConfig()
    working_folder: Path = Path()  # where a metric's function is found
    batch_size: Count = 64  # sequences

    @property
    def all_metrics(self) -> list[str]:
        """The one that is optimised, and those that are recorded beside it."""
        return list(dict.fromkeys([self.metric, *self.metrics]))

    @field_validator("answer_pattern")
    @classmethod
    def _pattern_is_valid(cls, value: str | None) -> str | None:
        if value is not None:
            check_pattern(value)
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> ScoringConfig:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            yield f"labels are two or more different texts; got {printable(str(self.labels), 200)}"
        if self.labels is not None and not any(metric_of(name).labels for name in self.all_metrics):
            yield "labels belong to a metric of labels: label_accuracy, macro_f1"
        if self.normalise and not any(metric_of(name).normalises for name in self.all_metrics):
            yield "normalise belongs to a metric that compares answers: exact_match, label_accuracy, macro_f1"


def check_pattern(pattern: str) -> None:
    """Raises ValueError where a regular expression is malformed."""
    try:
        Pattern(pattern, "not a regular expression")
    except ConfigError as error:
        raise ValueError(str(error)) from None
