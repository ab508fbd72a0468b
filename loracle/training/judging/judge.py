"""Who judges what a model wrote where a metric does not do it by itself: one module each beside this one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

from loracle.config.metrics import Metric
from loracle.config.metrics.settings import ScoringConfig
from loracle.training.dataset.shapes import Example

Asked = Mapping[str, Any]


class Judge(Protocol):
    """Judges what was written for all examples.

    Attributes:
        sources: hashes of the files that it was made of, as they were read, by their names for people.
    """

    @property
    def sources(self) -> Mapping[str, str]: ...

    def check(self, items: Sequence[Asked]) -> None:
        """Raises ConfigError or DataError, in one line, where these could not be judged."""

    def rate(
        self, predictions: Sequence[str], references: Sequence[str], items: Sequence[Asked]
    ) -> list[float] | float:
        """What each gets, as the metric reads; or one number for all.

        Raises:
            LoracleError: whoever judges is not there, or no trial could be judged.
        """


def judge_of(metric: Metric, settings: ScoringConfig) -> Judge:
    """Who judges by this metric; the same one until `forget_judges`.

    Raises:
        ConfigError: there is none.
    """
    return _judge(metric.judge_module, metric.name, settings.model_dump_json(exclude={"batch_size"}))


def forget_judges() -> None:
    """From now on judges are made anew, and read their files anew."""
    _judge.cache_clear()


@lru_cache(maxsize=32)
def _judge(module: str, name: str, settings: str) -> Judge:
    found = importlib.import_module(f"loracle.training.judging.{module}")
    return cast(Judge, found.make(name, ScoringConfig.model_validate_json(settings)))


def asked(example: Example, index: int) -> dict[str, Any]:
    """An example as judges are told of it."""
    return {
        "index": index,
        "prompt": prompt_text(example),
        "question": question_text(example),
        "reference": example.reference or "",
        "choices": list(example.choices),
    }


def filled(template: str, values: dict[str, str]) -> str:
    """A template with its places filled; what is filled in is not looked at again, and other braces stay."""
    parts = template.split("{")
    text = parts[0]
    for part in parts[1:]:
        name, brace, rest = part.partition("}")
        text += values[name] + rest if brace and name in values else "{" + part
    return text


def question_text(example: Example) -> str:
    """The prompt, or the last that is said before the answer in a chat."""
    return (example.messages[-2].content or "") if example.messages else (example.prompt or "")


def prompt_text(example: Example) -> str:
    """What the model is asked, as people read it; of a chat each turn with its role."""
    if not example.messages:
        return example.prompt or ""
    turns = example.messages[:-1]
    return "\n".join(f"{turn.role}: {turn.content or ''}" for turn in turns)
