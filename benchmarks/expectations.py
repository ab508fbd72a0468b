"""Does the interval that is stated of a trial before it is trained hold what then comes? Replays of searches.

    python benchmarks/expectations.py run --seeds 20     # some minutes
    python benchmarks/expectations.py show

Searches of the default preset on the recorded landscapes, its prior without the landscape's family, with
noise of items and of the training's seed, as in `replication.py`. From the fourth trial on, the score that a
trial gives is held against what `loracle explain` and the live display state beforehand: the 95 % interval of
a training's score, which ends with `or worse` where nothing says how bad it gets. Stored is by what factor a
plain interval, of belief, noise and caution, would have to be as wide to hold the score: 1 or less where it
holds. The widening after n scores, 1 + a / n^2, has one number, fitted on four landscapes and tested on the
fifth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interval_coverage import TRAINING, VALIDATION, Items
from landscape_data import Landscape, load_landscapes
from replication import trained
from search import about
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.report.findings.score_scale import FEW, WIDE, ScoreScale
from loracle.search.ensemble import Ensemble
from loracle.search.observations import row_of
from loracle.search.propose import Beliefs

OUTPUT = Path(__file__).parent / "results" / "expectations.json"
TRIALS, FIRST = 30, 3
LEVEL = 0.95
GRID = np.arange(0.0, 20.5, 0.5)  # of the number that is fitted


def needed(landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """By how much the interval of each trial would have to be as wide as it is to hold its score."""
    space = table_space(landscape)
    start = Start(landscape, space, FACTORY, seed)
    method = LoracleMethod(start, ensemble(start))
    items, noise = Items(landscape, seed, VALIDATION), np.random.default_rng([seed, TRAINING])
    metric = "loss" if items.of_loss else "exact_match"
    for _ in range(TRIALS):
        index = method.ask()
        value, told = landscape.value(index), None
        if not np.isnan(value):
            told = items.score(index, trained(landscape, value, noise))
        known = len(method.history.succeeded)
        if told is not None and known >= FIRST:
            beliefs = Beliefs.of(space, method.history, method.preset, None, seed)
            assert isinstance(beliefs.surrogate, Ensemble)
            scale = ScoreScale.of(beliefs.y, beliefs.observations.values, metric)
            belief = beliefs.surrogate.belief(at=np.array([row_of(space, index)]))
            sd = belief.caution * float(np.hypot(belief.sd[0], beliefs.surrogate.noise))
            if scale.slope > 0:
                factor = factor_for(scale, float(belief.mean[0]), sd, told)
                name = landscape.name.removesuffix(":rows")
                yield {"landscape": name, "seed": seed, "n": known, "factor": round(factor, 3)}
        method.tell(index, told)


def factor_for(scale: ScoreScale, mean: float, sd: float, score: float) -> float:
    """The least factor with which the interval around `mean`, in units of the belief, holds a score."""
    if score <= scale.values[0]:  # the interval reaches it where it reaches the worst that was seen
        there = float(scale.y[0])
    elif score > scale.values[-1]:
        there = float(scale.y[-1] + (score - scale.values[-1]) / scale.slope)
    else:
        there = float(np.interp(score, scale.values, scale.y))
    return abs(there - mean) / (WIDE * sd)


def held(rows: Sequence[dict[str, Any]], a: float) -> float:
    """Share of scores inside intervals that are widened with this number."""
    return float(np.mean([row["factor"] <= 1 + a / row["n"] ** 2 for row in rows]))


def fitted(rows: Sequence[dict[str, Any]]) -> float:
    """The number whose intervals hold a share nearest to 95 %, averaged over landscapes and n up to 10."""
    few = [row for row in rows if row["n"] <= 10]
    return float(GRID[np.argmin([abs(held(few, a) - LEVEL) for a in GRID])])


def summary(rows: Sequence[dict[str, Any]], a: float) -> dict[str, Any]:
    """Coverage before and after: by landscape, the number being fitted to the others, and by n."""
    found: dict[str, Any] = {"all": [len(rows), held(rows, 0), held(rows, a)]}
    for name in dict.fromkeys(row["landscape"] for row in rows):
        own, others = ([row for row in rows if (row["landscape"] == name) is same] for same in (True, False))
        number = fitted(others)
        found[name] = [len(own), held(own, 0), held(own, number), number]
    for low, high in ((3, 5), (6, 10), (11, 15), (16, TRIALS)):
        own = [row for row in rows if low <= row["n"] <= high]
        found[f"{low} to {high}"] = [len(own), held(own, 0), held(own, a)]
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "show"])
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args(given)
    if arguments.action == "run":
        rows = []
        for seed in range(arguments.seeds):
            for landscape in load_landscapes(["rows"]):
                rows += needed(landscape, seed)
        lines = ",\n".join(json.dumps(row) for row in rows)
        OUTPUT.write_text(f'{{"about": {json.dumps(about("scipy"))},\n"rows": [\n{lines}\n]}}\n')
    rows = json.loads(OUTPUT.read_text())["rows"]
    print(f"fitted to all: {fitted(rows):g}")
    for name, told in summary(rows, FEW).items():
        print(name, *(round(x, 3) for x in told))


if __name__ == "__main__":
    main()
