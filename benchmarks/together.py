"""Whole trials that train together against one after the other: training, scoring and files, as in a run.

    OMP_NUM_THREADS=1 python benchmarks/together.py --out benchmarks/results/together.json

The demo's model, data, scoring and space. Eight configs of one batch size, the others of their knobs spread
over the space, and eight of mixed batch sizes; each by `TrainingObjective.run`, then in groups of 2, 4 and 8
by `run_together`. All ways take turns in every round, and the least processor time counts, as other work on
the machine only slows. `values`: how many of the scores are the same. `auto` is what
`execution.trials_together: auto` chooses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from packed import DEMO
from speed import about

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.records.objective import Asked
from loracle.records.space import Config, with_alpha
from loracle.records.trial import Outcome
from loracle.run.search import search_space
from loracle.training.objective import TrainingObjective

WIDTHS, N = (2, 4, 8), 8


def configs_of(config: RunConfig, objective: TrainingObjective, batches: list[int]) -> list[Config]:
    """Candidates with these batch sizes, in turn, that the space holds: none diverges, most are good."""
    space = search_space(config, objective.n_proxy)
    random, found = np.random.default_rng(0), []
    steps = space.values(space.candidates)
    size = steps["learning_rate"] * steps["alpha_ratio"]
    fair = (size >= 1e-4) & (size <= 4e-3)
    for i in range(N):
        rows = np.flatnonzero(fair & (steps["batch_size"] == batches[i % len(batches)]))
        found.append(with_alpha(space.config(int(space.candidates[random.choice(rows)]))))
    return found


def alone(objective: TrainingObjective, several: list[Config], folder: Path) -> list[Outcome]:
    return [objective.run(config, seed=0, folder=folder / f"alone-{i}") for i, config in enumerate(several)]


def grouped(objective: TrainingObjective, several: list[Config], folder: Path, k: int) -> list[Outcome]:
    found: list[Outcome] = []
    for start in range(0, len(several), k):
        part = several[start : start + k]
        asked = [Asked(config, 0, folder / f"{k}-{start + i}") for i, config in enumerate(part)]
        found += objective.run_together(asked, part)
    return found


def timed(work: Callable[[], list[Outcome]]) -> tuple[float, list[Outcome]]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def measure(objective: TrainingObjective, several: list[Config], folder: Path, rounds: int) -> dict[str, Any]:
    ways: dict[int, Callable[[], list[Outcome]]] = {1: lambda: alone(objective, several, folder)}
    ways |= {k: lambda k=k: grouped(objective, several, folder, k) for k in WIDTHS}  # type: ignore[misc]
    least = dict.fromkeys(ways, float("inf"))
    outcomes: dict[int, list[Outcome]] = {}
    for _ in range(rounds):
        for k, way in ways.items():
            seconds, outcomes[k] = timed(way)
            least[k] = min(least[k], seconds)
    same = {k: sum(a.value == b.value for a, b in zip(outcomes[1], outcomes[k], strict=True)) for k in WIDTHS}
    return {
        "trials": len(several),
        "seconds_a_trial_alone": round(least[1] / len(several), 2),
        "trials_an_hour": {k: round(3600 * len(several) / seconds) for k, seconds in least.items()},
        "gain": {k: round(least[1] / least[k], 2) for k in WIDTHS},
        "values": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load_config(DEMO / "config.yaml")
        execution = config.execution.model_copy(update={"trials_together": "auto"})
        config = config.model_copy(update={"output": folder / "run", "execution": execution, "threads": 1})
        objective = TrainingObjective.from_config(config)
        auto = objective.report().together
        for title, batches in (("4", [4]), ("16", [16]), ("mixed", [4, 8, 16])):
            row = measure(objective, configs_of(config, objective, batches), folder, arguments.rounds)
            rows.append({"batch": title, **row, "auto": auto})
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        content = {**about(), "rounds": arguments.rounds, "rows": rows}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
