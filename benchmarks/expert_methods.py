"""What an expert does without a tool: a sweep by hand, and a list of configs that did well elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from landscape_data import Floats, Indices, Landscape, load_landscapes
from pretrain import sweep_of
from search_methods import RandomMethod, Start, table_space

from loracle.records.space import Config, SearchSpace, paper_space, with_alpha
from loracle.search.propose import complete

USUAL_RATE, USUAL_ALPHA, USUAL_BATCH = 3e-4, 32, 16
LISTED, POOL = 5, 400


class HandMethod(RandomMethod):
    """The highest rank, the usual alpha and batch, and learning rates from 3e-4 outwards; then at random."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        values = start.space.values(start.space.candidates)
        middle = np.ones(len(start.space.candidates))
        rank, rate = values.get("rank", 16 * middle), values["learning_rate"]
        alpha = values["alpha"] if "alpha" in values else values.get("alpha_ratio", 2 * middle) * rank
        batch, dropout = values.get("batch_size", USUAL_BATCH * middle), values.get("dropout", 0 * middle)
        least_usual = np.lexsort(
            (dropout, np.abs(np.log2(batch / USUAL_BATCH)), np.abs(np.log2(alpha / USUAL_ALPHA)), -rank)
        )
        rates = np.unique(rate)
        outwards = rates[np.argsort(np.abs(np.log(rates / USUAL_RATE)).round(6), kind="stable")]
        rows = [next(row for row in least_usual if rate[row] == one) for one in outwards]
        self.first = [*self.first, *(int(start.space.candidates[row]) for row in rows)]


class ListMethod(RandomMethod):
    """Five configs, chosen on the landscapes of all other sweeps, one after the other; then at random."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        nearest = [
            start.space.nearest(complete(start.space, config)) for config in best_list(start.landscape)
        ]
        known = set(start.space.candidates.tolist())
        self.first = [*self.first, *(i if i in known else self.nearest_open(i) for i in nearest)]


def best_list(landscape: Landscape) -> tuple[Config, ...]:
    """The configs that together leave the least regret on the landscapes of all other sweeps."""
    return _best_list(sweep_of(landscape.family))


@cache
def _best_list(left_out: str) -> tuple[Config, ...]:
    space = paper_space()
    pool = np.random.default_rng(0).choice(space.candidates, POOL, replace=False)
    configs = [with_alpha(space.config(int(index))) for index in pool]
    sweeps: dict[str, list[Floats]] = {}
    for other in load_landscapes(["rows", "real", "table"]):
        if sweep_of(other.family) != left_out:
            sweeps.setdefault(sweep_of(other.family), []).append(_regrets(other, configs))
    regrets = np.array([np.mean(found, axis=0) for found in sweeps.values()])  # (sweeps, configs)
    chosen: list[int] = []
    left = np.full(len(regrets), np.inf)
    for _ in range(LISTED):
        together = np.minimum(left[:, None], regrets).mean(axis=0)
        chosen.append(int(np.argmin(together)))
        left = np.minimum(left, regrets[:, chosen[-1]])
    return tuple(configs[place] for place in chosen)


def _regrets(landscape: Landscape, configs: list[Config]) -> Floats:
    """Of the candidate that is nearest to each config, (n,); at most 1, the median's."""
    return np.asarray(np.minimum(landscape.regrets[nearest_rows(table_space(landscape), configs)], 1.0))


def nearest_rows(space: SearchSpace, configs: Sequence[Config]) -> Indices:
    """The row of the candidate that is nearest to each config, (n,)."""
    places = space.coordinates(space.candidates)
    wanted = space.coordinates([space.nearest(complete(space, config)) for config in configs])
    return np.asarray(np.abs(wanted[:, None, :] - places[None, :, :]).sum(axis=2).argmin(axis=1))
