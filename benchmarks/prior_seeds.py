"""How much chance is in the prior's fit? The same search with priors that were fitted with other seeds.

    OMP_NUM_THREADS=1 python benchmarks/prior_seeds.py    # half an hour of a core

A seed draws the weights that a fit begins with and the samples that it sees (`pretrain.py`); the prior that
ships has seed 0. Priors have not seen the landscape's family. `rows`: trainings of our own, on all data.
`small trials`: a tenth of the data and 30 items through the loop of `loracle tune`, judged by the training on
all data, as in `cost.py`. `table`: those of others, one search each, as they have no noise.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from cost import PROXY, tuned
from landscape_data import load_landscapes
from recorded_tasks import recorded, visible
from search import about, regret, replayed
from search_methods import (
    FACTORY,
    LoracleMethod,
    Start,
    ensemble,
    prior_tasks,
    table_space,
    unseen_prior,
)

RESULTS = Path(__file__).parent / "results" / "prior_seeds.json"
FITS = (0, 1, 2, 3)
JUDGED = {"rows": (3, 5, 10, 20, 30), "table": (3, 5, 8), "small trials": (3, 5, 10)}


def searches(source: str, fit: int, seeds: int) -> Iterator[tuple[str, dict[int, float]]]:
    """Regret on landscapes of a source after so many trials, with the name of each."""
    for landscape in load_landscapes([source]):
        for seed in range(1 if source == "table" else seeds):
            start = Start(landscape, table_space(landscape), FACTORY, seed)
            preset = ensemble(start)
            assert preset.informed is not None
            preset = replace(preset, surrogate=replace(preset.informed, prior=unseen_prior(start, fit)))
            yield landscape.name, replayed(landscape, LoracleMethod(start, preset), seed, JUDGED[source])


def small_trials(fit: int, seeds: int) -> Iterator[tuple[str, dict[int, float]]]:
    """The same of searches whose trials train on a tenth of the data."""
    judged = JUDGED["small trials"]
    for name, task in recorded().items():
        for seed in range(seeds):
            landscape = visible(task, seed)
            start = Start(landscape, table_space(landscape), FACTORY, seed)
            _, leaders = tuned(task, start, (PROXY, 30), prior=unseen_prior(start, fit), trials=max(judged))
            yield name, {n: regret(landscape, leaders[n - 1]) for n in judged}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=6, help="searches a landscape")
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table: list[dict[str, Any]] = []
    for source, judged in JUDGED.items():
        for fit in FITS:
            found: dict[str, list[dict[int, float]]] = defaultdict(list)
            kinds = small_trials(fit, seeds) if source == "small trials" else searches(source, fit, seeds)
            for name, regrets in kinds:
                found[name].append(regrets)
            means = {n: np.mean([np.mean([one[n] for one in own]) for own in found.values()]) for n in judged}
            rounded = {n: round(float(value), 4) for n, value in means.items()}
            table.append({"source": source, "fit": fit, "regret": rounded})
            print(source, "fitted with seed", fit, rounded, flush=True)
    content = {"about": about() | {"prior_tasks": prior_tasks()}, "seeds": seeds, "table": table}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
