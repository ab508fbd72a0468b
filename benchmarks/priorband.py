"""PriorBand with the same prior, on the trainings whose shares were recorded: what it costs and finds.

    LORACLE_NEPS=.../bin/python OMP_NUM_THREADS=1 python benchmarks/priorband.py --seeds 20 \\
        --out benchmarks/results/priorband.json

As `pasha` in `cost.py`: 27 epochs, of which 1, 3, 9 and 27 are the recorded shares, and at most 30 configs.
PriorBand (Mallik et al. 2023, NePS 0.17, as it comes: Hyperband brackets, eta 3) is told as the user's belief
the config that `loracle suggest` gives, from a prior that has not seen the family, at its confidence
`medium`. A training goes on where it was stopped, and all items score. The config with the best score at the
largest share is recommended. It is compared with what `results/cost.json` has of the same seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cost import EPOCHS, TRIALS, Climb
from landscape_data import Landscape
from other_process import OtherProcess
from recorded_tasks import Recorded, recorded, visible
from search import about
from search_methods import FACTORY, Start, ensemble, table_space
from search_report import interval

from loracle.search.ensemble import prior_alone
from loracle.search.prior import describe

STORED = Path(__file__).parent / "results" / "cost.json"
BESIDE = ("suggest", "30 items, 5 trials", "thorough", "asha", "hyperband", "pasha")


def search(process: OtherProcess, task: Recorded, landscape: Landscape, seed: int) -> dict[str, Any]:
    """PriorBand until it asks for another config than the first 30."""
    space = landscape.space
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    expected = prior_alone(ensemble(start).surrogate, describe(start.space)).belief().mean
    favourite = int(landscape.candidates[np.argmax(expected)])
    believed = [int(place) for place in np.unravel_index(favourite, space.shape)]
    sizes = [len(knob.values) for knob in space]
    process.say({"sizes": sizes, "prior": believed, "epochs": EPOCHS[-1], "seed": seed})
    climb, begun = Climb(task, landscape), dict[int, list[int]]()  # by trial: its config, and its next rung
    while True:
        process.say({})
        asked = process.hear()
        number, rung = asked["trial"], EPOCHS.index(asked["epoch"])
        if number not in begun and len(begun) == TRIALS:
            return climb.row("priorband")
        if number not in begun:
            begun[number] = [climb.begin(asked["at"]), 0]
        index, done = begun[number]
        value = climb.go_on(index, rung, done)
        begun[number][1] = rung + 1
        process.say({"value": None if np.isnan(value) else value})


def rows(seeds: int) -> Iterator[dict[str, Any]]:
    """All searches, one process for all of them: its library takes longer to load than to search."""
    process = OtherProcess("LORACLE_NEPS", "priorband_process.py")
    for seed in range(seeds):
        for name, task in recorded().items():
            yield {"task": name, "seed": seed, **search(process, task, visible(task, seed), seed)}


def table(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By method: cost on the median task, regret, and its difference from PriorBand with an interval."""
    own = {(row["task"], row["seed"]): row for row in found}
    others = [
        row
        for row in json.loads(STORED.read_text())["rows"]
        if row["method"] in BESIDE and (row["task"], row["seed"]) in own
    ]
    summary = []
    for name in ("priorband", *BESIDE):
        costs, pairs = defaultdict(list), defaultdict(list)
        for row in [*found, *others]:
            if row["method"] == name:
                key = (row["task"], row["seed"])
                costs[row["task"]].append(row["cost"])
                pairs[row["task"]].append((row["regret"], row["regret"] - own[key]["regret"]))
        parts = [np.array(some) for some in pairs.values()]
        mean, low, high = interval([part[:, 1] for part in parts])
        numbers = {
            "cost": float(np.median([np.mean(some) for some in costs.values()])),
            "regret": float(np.mean([part[:, 0].mean() for part in parts])),
            "difference": mean,
            "low": low,
            "high": high,
        }
        summary.append({"method": name, **{key: round(value, 4) for key, value in numbers.items()}})
    return summary


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for row in rows(arguments.seeds):
        found.append(row)
        if arguments.out and len(found) % len(recorded()) == 0:
            made = about() | {"neps": "0.17.0"}
            lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in found)
            head = f'{{"about": {json.dumps(made)},\n"summary": {json.dumps(table(found))},\n"rows": [\n'
            arguments.out.write_text(f"{head}{lines}\n]}}\n")
    for row in table(found):
        print(row)


if __name__ == "__main__":
    main()
