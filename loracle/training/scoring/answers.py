"""The answer in a text, as metrics compare it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from loracle.config.metrics import Metric
from loracle.config.metrics.normalisation import normalised
from loracle.config.metrics.settings import ScoringConfig
from loracle.text.patterns import Pattern


def answer_pattern(settings: ScoringConfig) -> Pattern | None:
    """The compiled answer pattern. Raises ConfigError where it is malformed."""
    if settings.answer_pattern is None:
        return None
    return Pattern(settings.answer_pattern, "scoring.answer_pattern")


def answer(text: str, pattern: Pattern | None, at: Literal["first", "last"] = "last") -> str | None:
    """The answer in a text: the first or last match of the pattern, or of its first group, stripped.

    Raises:
        ConfigError: the pattern takes too long on this text.
    """
    found = text if pattern is None else pattern.first(text) if at == "first" else pattern.last(text)
    return None if found is None else found.strip()


def finder(settings: ScoringConfig) -> Callable[[str], str | None]:
    """Finds the answer in a text as the settings say. Raises as `answer_pattern`, and later as `answer`."""
    pattern = answer_pattern(settings)
    return lambda text: answer(text, pattern, settings.answer_at)


def comparable(metric: Metric, settings: ScoringConfig) -> Callable[[str], str | None]:
    """Finds in a text what the metric compares: the answer, normalised where the metric has that."""
    answer_in = finder(settings)
    rules = settings.normalise if metric.normalises else ()

    def find(text: str) -> str | None:
        found = answer_in(text)
        return None if found is None else normalised(found, rules)

    return find
