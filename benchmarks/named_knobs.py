"""How the search should see names: one column each, or their places in a list as a number.

    OMP_NUM_THREADS=1 python benchmarks/named_knobs.py train   # ten minutes on one core, in parts if you like
    OMP_NUM_THREADS=1 python benchmarks/named_knobs.py show     # three minutes

`train` trains all configs of targets x variant x schedule x learning rate x rank on the demo's model, 400
rows each, scored by the loss on its 300 validation rows: `landscapes/names.csv`. `show` replays searches of
the default preset on it and writes `results/named_knobs.json`: how far the config that would be used is from
the best after some trials (normalised regret: 0 is the best, 1 the median config), over seeds. The order in
which names are listed is drawn anew for every seed, for it means nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from loracle.config.settings import RunConfig, build_space
from loracle.records.space import Config, Knob, SearchSpace
from loracle.search.optimizer import Optimizer
from loracle.training.objective import TrainingObjective

HERE = Path(__file__).parent
DEMO = HERE.parent / "loracle" / "demo"
TABLE, OUTPUT = HERE / "landscapes" / "names.csv", HERE / "results" / "named_knobs.json"
NAMES = {
    "targets": ["all-linear", "attention", "mlp"],
    "variant": ["lora", "rslora", "dora"],
    "schedule": ["cosine", "linear", "constant"],
}
NUMBERS: dict[str, Any] = {
    "rank": [8, 64],
    "alpha_ratio": 2,
    "dropout": 0.0,
    "batch_size": 8,
    "learning_rate": [1e-3, 3e-3, 1e-2],
}
CHECKED, WAYS = (3, 5, 10, 20), ("one-hot", "ordered", "random")


def run_config() -> RunConfig:
    """The demo's task with other settings."""
    parts = {name: DEMO / f"{name}.jsonl" for name in ("train", "validation", "test")}
    return RunConfig.model_validate(
        {
            "model": str(DEMO / "base"),
            "data": {**parts, "proxy": 400 / 6000, "proxy_minimum": 1, "max_length": 64},
            "space": {"base": "empty", **NAMES, **NUMBERS},
            "scoring": {"metric": "loss", "batch_size": 300},
            "device": "cpu",
            "threads": 1,
            "output": HERE / "runs" / "names",
        }
    )


def train(folder: Path) -> None:
    """Trains what the table lacks."""
    config = run_config()
    space = build_space(config.space)
    known = {row["index"] for row in read()}
    objective = TrainingObjective.from_config(config)
    with TABLE.open("a", newline="") as file:
        table = csv.writer(file)
        if not known:
            table.writerow(["index", *space.names, "loss"])
        for index in space.candidates.tolist():
            if index in known:
                continue
            found = space.config(index)
            outcome = objective.run(found, seed=0, folder=folder / str(index))
            loss = "" if outcome.value is None else f"{-outcome.value:.6f}"
            table.writerow([index, *(found[name] for name in space.names), loss])
            file.flush()


def read() -> list[dict[str, Any]]:
    """Rows of the table: the index of a config, its knobs as texts, its loss; None: it diverged."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        row | {"index": int(row["index"]), "loss": float(row["loss"]) if row["loss"] else None}
        for row in rows
    ]


def replay(values: dict[int, float], space: SearchSpace, way: str, seed: int) -> list[float]:
    """Regret of the config to use after each trial; names in an order of the seed's own."""
    generator = np.random.default_rng([7, seed])
    order = {name: generator.permutation(len(names)).tolist() for name, names in NAMES.items()}
    knobs = []
    for knob in space:
        if knob.name in order:
            listed = tuple(knob.values[i] for i in order[knob.name])
            numbers = tuple(range(len(listed)))
            knob = Knob(f"own_{knob.name}", numbers if way == "ordered" else listed)
        knobs.append(knob)
    own = SearchSpace(tuple(knobs))

    def index_of(config: Config) -> int:
        wanted = {}
        for name in space.names:
            value = config[f"own_{name}" if name in order else name]
            wanted[name] = (
                space[name].values[order[name][value]] if type(value) is int and name in order else value
            )
        return space.index(wanted)

    best, middle = max(values.values()), float(np.median(list(values.values())))
    optimizer = Optimizer(own, parameters=7e5, seed=seed)
    shuffled = iter(generator.permutation(own.candidates).tolist())
    found = []
    for _ in range(max(CHECKED)):
        index = next(shuffled) if way == "random" else optimizer.ask()[0]
        optimizer.tell(index, values[index_of(own.config(index))])
        chosen = optimizer.recommend()
        found.append((best - values[index_of(chosen)]) / (best - middle))
    return found


def show(seeds: int) -> None:
    """Prints and writes the table."""
    rows = read()
    space = build_space(run_config().space)
    worst = max(row["loss"] for row in rows if row["loss"] is not None)
    values = {row["index"]: -(worst if row["loss"] is None else row["loss"]) for row in rows}
    assert set(values) == set(space.candidates.tolist()), "run `train` to its end first"
    results: dict[str, Any] = {"configs": len(values), "seeds": seeds, "regret": {}}
    for way in WAYS:
        regrets = np.array([replay(values, space, way, seed) for seed in range(seeds)])
        at = regrets[:, [n - 1 for n in CHECKED]]
        error = at.std(axis=0, ddof=1) / np.sqrt(seeds)
        results["regret"][way] = {
            str(n): {"mean": round(float(m), 4), "se": round(float(e), 4)}
            for n, m, e in zip(CHECKED, at.mean(axis=0), error, strict=True)
        }
        shown = "  ".join(
            f"{n}: {m:.3f} +- {e:.3f}" for n, m, e in zip(CHECKED, at.mean(axis=0), error, strict=True)
        )
        print(f"{way:8}  {shown}", flush=True)
    OUTPUT.write_text(json.dumps(results, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "show"))
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=HERE / "runs" / "names")
    given = parser.parse_args()
    if given.what == "train":
        train(given.folder)
    else:
        show(given.seeds)


if __name__ == "__main__":
    main()
