"""Settings of how a trained model is scored, and what goes together in them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from loracle.config.metrics import known_metrics, metric_of
from loracle.config.metrics.normalisation import Rule
from loracle.config.metrics.weighted import WeightedSum, spelt
from loracle.config.section import Count, Section
from loracle.errors import ConfigError
from loracle.text.escape import printable
from loracle.text.patterns import Pattern


def _optimised(value: Any) -> str:
    """A metric, or a weighted sum of several, which is kept as one text."""
    if isinstance(value, dict) and value:
        for name, weight in value.items():
            _metric_name(name)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} is a number above 0; got {weight!r}")
        return _metric_name(spelt({name: float(weight) for name, weight in value.items()}))
    return _metric_name(value)


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


_WRITTEN = 64  # tokens, where nobody says how many

_JUDGING = """Rate the answer to a question from {lowest} (useless) to {highest} (perfect).

Question:
{prompt}

Reference:
{reference}

Answer:
{prediction}

End with a line: Rating: <number>"""


class JudgeConfig(Section):
    """A model behind an endpoint of the kind of OpenAI's, which rates answers."""

    url: str  # up to and without /chat/completions
    model: str
    key_variable: str | None = None  # environment variable that holds the key; None: no key is sent
    prompt: str = _JUDGING
    pattern: str = r"Rating:\s*\**\s*(-?\d+(?:\.\d+)?)"  # finds the rating in what the judge says
    lowest: float = 1.0
    highest: float = 10.0
    max_tokens: Count = 512
    timeout: Annotated[float, Field(gt=0)] = 60.0  # seconds an answer
    retries: Annotated[int, Field(ge=0, le=100)] = 4
    parallel: Annotated[int, Field(gt=0, le=1000)] = 8

    @model_validator(mode="after")
    def _can_be_asked(self) -> JudgeConfig:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url begins with http:// or https://; got {printable(self.url, 100)!r}")
        if "{prediction}" not in self.prompt:
            raise ValueError("prompt: has no {prediction}, so the judge would not see the answer")
        if not self.lowest < self.highest:
            raise ValueError("lowest has to be below highest")
        check_pattern(self.pattern)
        return self


class CodeConfig(Section):
    """How programs that a model writes are run."""

    tests: Path  # JSON Lines of `prompt` and `tests`
    program: str = "{answer}\n\n{tests}\n"  # of {prompt}, {answer}, {tests}
    time_limit: Annotated[float, Field(gt=0)] = 10.0  # seconds a program
    memory_mb: Count = 1024
    processes: Count = 16
    file_mb: Count = 10
    parallel: Annotated[int, Field(gt=0, le=1000)] = 2

    @model_validator(mode="after")
    def _runs_something(self) -> CodeConfig:
        if "{answer}" not in self.program or "{tests}" not in self.program:
            raise ValueError("program: needs {answer} and {tests}")
        return self


class ScoringConfig(Section):
    """How a trained model is scored on validation and test examples."""

    metric: Annotated[str, BeforeValidator(_optimised)] = "loss"  # or {metric: weight, ...}
    # Several at once, where `metric` is a list, which they are then; the first of them is `metric`.
    objectives: list[Annotated[str, BeforeValidator(_optimised)]] = Field(default_factory=list)
    metrics: list[MetricName] = Field(default_factory=list)  # recorded beside it
    answer_pattern: str | None = None  # regex; its first group (or whole match) is the answer
    answer_at: Literal["first", "last"] = "last"  # which match
    normalise: list[Rule] = Field(default_factory=list)  # what does not matter where answers are compared
    labels: list[str] | None = None  # None: the references that there are
    choices: list[str] | None = (
        None  # for a metric that needs them, where examples have no `choices` of their own
    )
    max_new_tokens: Count = _WRITTEN
    allow_code_execution: bool = False  # of what the model writes
    judge: JudgeConfig | None = None
    code: CodeConfig | None = None
    lm_eval: HarnessConfig = HarnessConfig()
    working_folder: Path = Path()  # where a metric's function is found
    batch_size: Count = 64  # sequences

    @property
    def all_metrics(self) -> list[str]:
        """The one that is optimised, those that are recorded beside it, and all that they are sums of."""
        found: list[str] = []
        for name in (self.metric, *self.objectives, *self.metrics):
            metric = metric_of(name)
            parts = metric.weights if isinstance(metric, WeightedSum) else ()
            found += [name, *(part.name for part in parts)]
        return list(dict.fromkeys(found))

    def unused(self) -> Iterator[tuple[str, str]]:
        """Settings that none of the metrics reads, each with what it belongs to.

        They are told and not refused, as runs were begun with them.
        """
        metrics = [metric_of(name) for name in self.all_metrics]
        needs, names = {metric.needs for metric in metrics}, self.all_metrics
        written = "a metric for which the model writes, such as exact_match"
        yield from (
            (name, belongs)
            for name, given, read, belongs in (
                ("choices", self.choices, "choices" in needs, "choice_accuracy and choice_macro_f1"),
                ("answer_pattern", self.answer_pattern, "writing" in needs, written),
                ("max_new_tokens", self.max_new_tokens != _WRITTEN, "writing" in needs, written),
                ("answer_at", self.answer_at != "last", self.answer_pattern, "an answer_pattern"),
                ("judge", self.judge, "judge" in names, "the metric judge"),
                ("code", self.code, "pass_at_1" in names, "the metric pass_at_1"),
                ("allow_code_execution", self.allow_code_execution, "pass_at_1" in names, "pass_at_1"),
                ("lm_eval", self.lm_eval != HarnessConfig(), "harness" in needs, "metrics lm_eval:TASK"),
            )
            if given and not read
        )

    @model_validator(mode="before")
    @classmethod
    def _several(cls, content: Any) -> Any:
        """A list of metrics as `objectives`; a list of one is the same as its name."""
        if not isinstance(content, dict) or not isinstance(content.get("metric"), list):
            return content
        names = content["metric"]
        if not names:
            raise ValueError("metric: a list of objectives names at least one")
        several = {"objectives": names} if len(names) > 1 else {}
        return {**content, "metric": names[0], **several}

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
        twice = [name for name in self.objectives if self.objectives.count(name) > 1]
        if twice:
            yield f"metric: the objective {twice[0]} is named twice"
        elif self.objectives and (len(self.objectives) == 1 or self.objectives[0] != self.metric):
            yield "objectives: are those of metric: [...], the first of which is metric; leave them to it"
        if "judge" in self.all_metrics and self.judge is None:
            yield "the metric judge needs scoring.judge with url and model of an endpoint"
        if "pass_at_1" in self.all_metrics and self.code is None:
            yield "the metric pass_at_1 needs scoring.code with a file of tests"
        if "pass_at_1" in self.all_metrics and not self.allow_code_execution:
            yield (
                "the metric pass_at_1 runs code that the model writes; set allow_code_execution: true if "
                "that may happen on this machine"
            )
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
