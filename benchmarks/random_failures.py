"""What failures that no config is to blame for cost a search: taken for divergence, and as what they are.

    OMP_NUM_THREADS=1 python benchmarks/random_failures.py run --seeds 10
    python benchmarks/random_failures.py show

Every search is `default`, with a prior that has not seen the landscape's family, on the trainings of our own
(`rows`); three trainings of ten fail by chance, with the same config whatever the way. A failure is counted

* `diverged`: as worse than any success, which was so of every failed trial of an Optuna study;
* `crashed`: as saying nothing of its config, which is only not tried again.

`none` is the same search without failures. `run` writes `results/random_failures.json`, `show` the table.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from landscape_data import Landscape, load_landscapes
from search import HERE, about, observe, regret
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.records.trial import FailureKind
from loracle.text.files import write_atomically

RESULTS = HERE / "results" / "random_failures.json"
SHARE, JUDGED = 0.3, (5, 10, 15)
KINDS = {"none": None, "diverged": FailureKind.DIVERGED, "crashed": FailureKind.CRASHED}


def search(landscape: Landscape, kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """One search; a row at every judged trial."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    method = LoracleMethod(start, ensemble(start))
    for n in range(1, JUDGED[-1] + 1):
        index = method.ask()
        fails = np.random.default_rng([seed, index, 3]).random() < SHARE
        if (by_chance := KINDS[kind]) is not None and fails:
            method.tell(index, None, by_chance)
        else:
            method.tell(index, observe(landscape, index, seed))
        if n in JUDGED:
            found = round(regret(landscape, method.recommend()), 4)
            yield {"landscape": landscape.name, "failures": kind, "seed": seed, "n": n, "regret": found}


def run(seeds: int) -> None:
    """Runs all searches and writes what came of them."""
    rows = [
        row
        for landscape in load_landscapes(("rows",))
        for kind in KINDS
        for seed in range(seeds)
        for row in search(landscape, kind, seed)
    ]
    content = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_atomically(RESULTS, f'{{"about": {json.dumps(about())},\n"rows": [\n{content}\n]}}\n')


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Mean regret by how failures are counted, with the standard error over landscapes and seeds."""
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        found[row["failures"], row["n"]].append(row["regret"])
    lines = ["| failures | " + " | ".join(f"{n} trials" for n in JUDGED) + " |", "|---" * 4 + "|"]
    for kind in KINDS:
        cells = [
            f"{np.mean(values):.3f} +- {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"
            for values in (found[kind, n] for n in JUDGED)
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.action == "run":
        run(arguments.seeds)
    print("\n".join(table(json.loads(RESULTS.read_text())["rows"])))


if __name__ == "__main__":
    main()
