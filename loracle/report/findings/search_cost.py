"""What a search costs, in trainings: the tokens of all trials over those of one full training.

One unit for all runs, whatever the machine: tokens that were trained on, read for scoring and generated. One
full training is on all data with the standard settings, and scored on all validation examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from loracle.records.trial import Outcome, Tokens


@dataclass(frozen=True)
class SearchCost:
    """Of all trials that have ended.

    Attributes:
        trained, read, generated: tokens, see `Tokens`.
        one_training: tokens of one full training and its scoring.
        trainings: the cost: all of those tokens over these.
    """

    trained: int
    read: int
    generated: int
    one_training: float
    trainings: float


def search_cost(outcomes: Iterable[Outcome]) -> SearchCost | None:
    """Of trials; None before one has succeeded, and where some say nothing of their tokens.

    Scoring one full training takes what trials took in the mean, on all examples instead of theirs: how
    much a model writes differs. Of a trial that failed, what it had trained on counts; one that was
    interrupted, crashed or ran out of memory before its first step has no tokens.
    """
    found, scored = [], []
    for outcome in outcomes:
        tokens = Tokens.of(outcome)
        if tokens is not None:
            found.append(tokens)
        if outcome.value is None:
            continue
        if tokens is None:
            return None
        scored.append(tokens.full_scoring)
    if not scored:
        return None
    one = max(tokens.full for tokens in found) + sum(scored) / len(scored)
    trained, read, generated = (
        sum(getattr(tokens, name) for tokens in found) for name in ("trained", "read", "generated")
    )
    return SearchCost(trained, read, generated, one, (trained + read + generated) / one)


def affordable(budget: float, each: float, least: int = 1) -> int:
    """How many trials a budget is enough for where one costs `each` of it; `least` or more."""
    return max(least, math.floor(budget / each + 1e-9))


def show_trainings(trainings: float, digits: int = 3) -> str:
    """A cost in words, without a full stop."""
    shown = f"{trainings:.{digits}g}"
    return f"{shown} full training{'' if shown == '1' else 's'}"


def exceeded(cost: float, budget: float, default: bool, least: int, *, about: bool = False) -> str:
    """A cost of the `least` trials that there are in any case, which is more than the budget, and why.

    Args:
        cost, budget: in full trainings.
        default: whether nobody named the budget.
        least: how many trials there are whatever they cost.
        about: whether the cost is expected, and not seen.
    """
    source = f"search.budget{', the default' if default else ''}"
    why = (
        "there is 1 in any case" if least == 1 else f"there are {least} in any case, as fewer compare nothing"
    )
    amount, more = f"{'about ' if about else ''}{show_trainings(cost)}", f"{max(cost - budget, 0):.3g}"
    return f"{amount}, {more} more than the limit of {budget:g} ({source}): {why}"
