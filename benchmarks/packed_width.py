"""How many configs pay to train in one forward pass, by `measured_width` and by whole trainings.

    OMP_NUM_THREADS=1 python benchmarks/packed_width.py --out benchmarks/results/packed_width.json

On the demo's model, and on Gemma 3 270M where `make real` has put it. All ways take turns in every round, and
the fastest of all rounds counts, in processor time, as other work on the machine only slows: whole trainings,
with the adapter put on at the end for scoring, which is not measured. `automatic` is the width that
`measured_width` chooses there, and what it gains by this table. `difference` is the largest of the relative
differences of the losses of the first 20 steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from packed import DEMO, examples_of, loaded
from speed import about

from loracle.config.settings import TrainingConfig
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base
from loracle.training.packed.loop import lent, train_packed
from loracle.training.packed.width import measured_width

GEMMA = Path("~/.cache/loracle/real").expanduser()
WIDTHS = (2, 4, 8)
SETTINGS = TrainingConfig(micro_batch=64)  # as in the demo
Losses = list[list[float]]


def configs(batch: int, k: int) -> list[dict[str, Any]]:
    """As a search proposes them: mixed ranks, ratios, dropout and rates."""
    ranks, ratios = (16, 8, 32, 16), (2, 4, 1, 2)
    drops, rates = (0.05, 0.0, 0.1, 0.05), (2e-4, 1e-3, 5e-4, 1e-4)
    return [
        {
            "rank": ranks[i % 4],
            "alpha": ranks[i % 4] * ratios[i % 4],
            "dropout": drops[i % 4],
            "batch_size": batch,
            "learning_rate": rates[i % 4],
        }
        for i in range(k)
    ]


def alone(base: Base, data: Encoded, several: list[dict[str, Any]]) -> Losses:
    found = []
    for config in several:
        with train_adapter(base, data, config, SETTINGS, seed=0) as trained:
            found.append([step.loss for step in trained.steps])
    return found


def together(base: Base, data: Encoded, several: list[dict[str, Any]]) -> Losses:
    results = train_packed(base, data, several, SETTINGS, seed=0)
    for result in results:
        with lent(base, result):
            pass
    return [[step.loss for step in result.steps] for result in results]


def timed(work: Callable[[], Losses]) -> tuple[float, Losses]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def difference(some: Losses, others: Losses) -> float:
    return max(
        abs(a - b) / b
        for mine, theirs in zip(some, others, strict=True)
        for a, b in zip(mine[:20], theirs[:20], strict=True)
    )


def measure(base: Base, data: Encoded, batch: int, widths: tuple[int, ...], rounds: int) -> dict[str, Any]:
    seconds: dict[int, list[float]] = {k: [] for k in (1, *widths)}
    apart: dict[int, float] = {}
    kinds = configs(batch, 4)
    for _ in range(rounds):
        taken, losses = timed(lambda: alone(base, data, kinds))
        seconds[1].append(taken / 4)  # the mean of the four kinds of which all groups are made
        for k in widths:
            several = configs(batch, k)
            taken, found = timed(lambda several=several: together(base, data, several))  # type: ignore[misc]
            seconds[k].append(taken / k)
            apart[k] = difference(found, [losses[i % 4] for i in range(k)])
    least = {k: min(values) for k, values in seconds.items()}
    chosen = measured_width(base, data, kinds[0], SETTINGS, widths)
    return {
        "batch": batch,
        "steps": len(losses[0]),
        "seconds_alone": round(least[1], 3),
        "trainings_an_hour": {k: round(3600 / value) for k, value in least.items()},
        "gain": {k: round(least[1] / least[k], 2) for k in widths},
        "difference": {k: float(f"{value:.1e}") for k, value in apart.items()},
        "automatic": {
            "width": chosen.configs,
            "measured": {k: round(gain, 2) for k, gain in chosen.gains.items()},
            "gain": round(least[1] / least[chosen.configs], 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--gemma-steps", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows: list[dict[str, Any]] = []

    def add(model: str, row: dict[str, Any]) -> None:
        rows.append({"model": model} | row)
        print(json.dumps(rows[-1]), flush=True)
        if arguments.out:
            content = {**about(), "rounds": arguments.rounds, "rows": rows}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    base = loaded(DEMO / "base")
    for batch in (4, 16):
        add("demo", measure(base, examples_of(base, arguments.examples), batch, WIDTHS, arguments.rounds))
    if GEMMA.exists():
        folder = next(path.parent for path in sorted(GEMMA.rglob("config.json")))
        base = loaded(folder)
        for batch, widths in ((4, (2, 4)), (16, (2,))):
            data = examples_of(base, batch * arguments.gemma_steps)
            add("Gemma 3 270M", measure(base, data, batch, widths, 1))


if __name__ == "__main__":
    main()
