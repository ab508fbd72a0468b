"""What limits a search, and how large its trials are, where its config does not say.

A budget of one full training finds as good a config as thirty trials, for a fraction of their cost
(`docs/search-cost.md`). So it is the default, where somebody knows what a trial costs and the search was
measured: the built-in trainer, and the preset `default`. Whoever says how many trials there are, or when one
more is not worth it, has said what ends the search.

What is filled in is not *said*: `model_fields_set` lacks it. So a run that goes on keeps what held when it
began, and people are told where a limit comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from loracle.config.data.settings import DataConfig
from loracle.config.search.settings import SearchConfig

DEFAULT_BUDGET = 1.0  # in full trainings
# Trials that a search has whatever they cost, if its budget is the default: fewer compare nothing.
LEAST_BY_DEFAULT = 3
# Where a search has a budget: trials that it is to have, and what one may cost at most, in full trainings.
# In `benchmarks/cost.py` ten of .1 are better than five of .2, in `docs/real-model.md` as good.
_AT_LEAST, _DEAREST = 5, 0.2
_SIZES = frozenset({"proxy", "proxy_minimum", "validation_limit", "trial_cost"})


@dataclass(frozen=True)
class Begun:
    """What held when a run began that goes on.

    Attributes:
        budget: of searches whose config says nothing of it; None: there was none.
        trial_cost: what its trials may cost; None: as its other settings say.
    """

    budget: float | None = None
    trial_cost: float | None = None


def limits(
    search: SearchConfig, data: DataConfig, *, own_trainer: bool, begun: Begun | None = None
) -> tuple[SearchConfig, DataConfig]:
    """Both sections, and what they do not say of limits; what they say stays.

    Args:
        search, data: of one config.
        own_trainer: whether it trains with a trainer of the user's own.
        begun: of a run that goes on; None: of one that begins.
    """
    if "budget" not in search.model_fields_set:
        default = DEFAULT_BUDGET if begun is None else begun.budget
        search = search.by_default(budget=None if own_trainer or not leaves_it_open(search) else default)
    if not says_sizes(data):
        cost = None if search.budget is None else min(_DEAREST, search.budget / _AT_LEAST)
        data = data.by_default(trial_cost=cost if begun is None else begun.trial_cost)
    return search, data


def leaves_it_open(search: SearchConfig) -> bool:
    """Whether a config does not say what ends its search, so that the default budget does."""
    said = {"trials", "budget"} & search.model_fields_set or search.worth != "never"
    return not said and search.preset == "default"


def says_sizes(data: DataConfig) -> bool:
    """Whether a config says how large its trials are."""
    return bool(_SIZES & data.model_fields_set)


def is_default(search: SearchConfig) -> bool:
    """Whether a search has a budget that nobody named."""
    return search.budget is not None and "budget" not in search.model_fields_set


def least_trials(search: SearchConfig) -> int:
    """How many trials a search has whatever its budget."""
    return LEAST_BY_DEFAULT if is_default(search) else 1
