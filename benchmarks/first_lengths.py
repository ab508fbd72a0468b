"""Whether the configs that a search would try first, if trials told it nothing, are as long as what it tries.

    OMP_NUM_THREADS=1 python benchmarks/first_lengths.py --out benchmarks/results/first_lengths.json

Under `training.max_steps` a trial costs what its batch size is. On landscapes with several of them (`rows`,
`real`, `table`), the mean batch size of the first ten trials of a search with a prior that has not seen the
landscape's family, against that of the candidates, and that of the ten configs of `Search.first`, by which a
run's cost is told before its first trial. By landscape, and the errors as factors: their mean, and the root
of the mean square.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from landscape_data import Landscape, load_landscapes
from search import replayed
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.run.search import Search

TRIALS = 10


def measured(landscape: Landscape, seed: int) -> dict[str, Any] | None:
    """Mean batch sizes; None where there is one batch size alone."""
    space = table_space(landscape)
    if "batch_size" not in space.names or len(space["batch_size"].values) < 2:
        return None
    start = Start(landscape, space, FACTORY, seed)
    method = LoracleMethod(start, ensemble(start))
    replayed(landscape, method, seed, (TRIALS,))
    indices = {
        "candidates": space.candidates,
        "first": Search(space, method.preset, None, seed).first(),
        "tried": [trial.index for trial in method.history.trials][:TRIALS],
    }
    means = {name: float(space.values(own)["batch_size"].mean()) for name, own in indices.items()}
    return {"landscape": landscape.name, "seed": seed, **{name: round(x, 2) for name, x in means.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for landscape in load_landscapes(("rows", "real", "table")):
        for seed in range(arguments.seeds):
            if (found := measured(landscape, seed)) is not None:
                print(found, flush=True)
                rows.append(found)
    errors = {}
    for name in ("candidates", "first"):
        off = np.log([row[name] / row["tried"] for row in rows])
        errors[name] = {"mean": float(np.exp(off.mean())), "rms": float(np.exp(np.sqrt((off**2).mean())))}
    content = {"trials": TRIALS, "errors": errors, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
