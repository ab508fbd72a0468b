"""Several configs trained together against one after the other, on the demo's model.

    OMP_NUM_THREADS=1 python benchmarks/packed.py --out benchmarks/results/packed.json

k configs of the demo's space, of one batch size and of mixed ranks, rates and dropout, on the first examples
of the demo: each by `train_adapter`, then all by `train_packed`. The two take turns; of the rounds the median
of the ratios counts. `cpu` is processor time of the process, `wall` the clock's; `trials` is how many
trainings an hour there are for each that there was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import about

import loracle
from loracle.config.settings import RunConfig
from loracle.config.training.settings import TrainingConfig
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base, load_base
from loracle.training.packed.loop import train_packed

DEMO = Path(loracle.__file__).parent / "demo"
WIDTHS, BATCHES = (1, 2, 4, 8), (4, 16)
RANKS, DROPOUTS, RATES = (8, 16, 4, 16), (0.05, 0.0, 0.1, 0.05), (1e-4, 2e-4, 5e-4, 1e-3)
SETTINGS = TrainingConfig(micro_batch=64)


def loaded(model: Path) -> Base:
    data = {"train": DEMO / "train.jsonl"}
    config = {"model": str(model), "data": data, "device": "cpu", "dtype": "float32", "threads": 1}
    return load_base(RunConfig.model_validate(config))


def examples_of(base: Base, n: int) -> Encoded:
    """The demo's first examples."""
    lines = (DEMO / "train.jsonl").read_text(encoding="utf-8").splitlines()[:n]
    rows = [Example(f"train:{i}", **json.loads(line)) for i, line in enumerate(lines)]
    return encode(rows, base.tokenizer, 64, stop_ids=base.stop_ids)


def configs_of(k: int, batch: int) -> list[dict[str, Any]]:
    return [
        {
            "rank": RANKS[i % 4],
            "alpha": 2 * RANKS[i % 4],
            "dropout": DROPOUTS[i % 4],
            "batch_size": batch,
            "learning_rate": RATES[i % 4],
        }
        for i in range(k)
    ]


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - began_cpu, time.perf_counter() - began


def measure(base: Base, data: Encoded, configs: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    def separate() -> None:
        for config in configs:
            with train_adapter(base, data, config, SETTINGS, seed=0):
                pass

    pairs = []
    for _ in range(rounds):
        alone = timed(separate)
        pairs.append((alone, timed(lambda: train_packed(base, data, configs, SETTINGS, seed=0) and None)))
    ratios = [[alone[i] / packed[i] for alone, packed in pairs] for i in range(2)]
    return {
        "trials": {
            name: statistics.median(found) for name, found in zip(("cpu", "wall"), ratios, strict=True)
        },
        "range": {
            name: [min(found), max(found)] for name, found in zip(("cpu", "wall"), ratios, strict=True)
        },
        "cpu_seconds": {
            "separate": statistics.median(alone[0] for alone, _ in pairs),
            "packed": statistics.median(packed[0] for _, packed in pairs),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = loaded(DEMO / "base")
    data = examples_of(base, arguments.examples)
    rows = []
    for batch in BATCHES:
        for k in WIDTHS:
            found = measure(base, data, configs_of(k, batch), arguments.rounds)
            rows.append({"batch": batch, "k": k, **found})
            low, high = found["range"]["cpu"]
            print(
                f"batch {batch:2}, k {k}: {found['trials']['cpu']:.2f} times the trials an hour "
                f"({low:.2f} to {high:.2f}; by the clock {found['trials']['wall']:.2f})",
                flush=True,
            )
            if arguments.out:
                content = {
                    **about(),
                    "examples": arguments.examples,
                    "rounds": arguments.rounds,
                    "rows": rows,
                }
                arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
