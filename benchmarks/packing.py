"""Several examples in one row (`data.packing`): tokens a second beside the same examples one by one.

    OMP_NUM_THREADS=1 python benchmarks/packing.py --out benchmarks/results/packing.json

A batch of packed rows has more examples than one of as many single rows. So each packed training is compared
with two others: `same_examples`, whose batch has as many examples as its own has in the mean, which learns
alike; and `same_batch`, with the same `batch_size`, which takes several times the steps. Micro-batches are
those of `auto`. All take turns, and the fastest of all rounds counts, on a CPU in processor time, as other
work on the machine only slows. On a GPU, run it with `--device cuda`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from micro_batch import make_lengths, make_llama, run

from loracle.config.settings import TrainingConfig
from loracle.training.dataset.blocks import in_blocks
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import Step, train_adapter
from loracle.training.memory.equations import Sizes
from loracle.training.memory.plan import fast_micro_batch
from loracle.training.model.base_model import Base

WIDTHS = ((32, 2, 100), (96, 2, 500), (256, 4, 8000))  # width, layers, vocabulary
LENGTHS = ((10, 30), (10, 120), (40, 400))  # tokens of the shortest and the longest example
MOST = 512  # tokens of a block
BATCH = 4  # blocks
TOKENS = 16_384  # of all examples, about


def tokens_a_second(base: Base, rows: Encoded, batch: int) -> float:
    """Of the steps of a training behind the first one."""
    clock = time.process_time if base.device.type == "cpu" else time.perf_counter
    config = {"rank": 8, "alpha": 8, "dropout": 0.05, "batch_size": batch, "learning_rate": 1e-4}
    micro = min(batch, fast_micro_batch(base.device.type, Sizes.of(rows)))
    found: list[tuple[float, int]] = []

    def note(step: Step) -> None:
        found.append((clock(), step.tokens))

    settings = TrainingConfig(micro_batch=micro, epochs=2)
    with train_adapter(base, rows, config, settings, seed=0, progress=note):
        (began, before), (ended, after) = found[0], found[-1]
    return (after - before) / (ended - began)


def measure(width: int, layers: int, vocabulary: int, rounds: int, device: str) -> list[dict[str, Any]]:
    base = replace(make_llama(width, layers, vocabulary, device), packing="padded")
    rows = []
    for shortest, longest in LENGTHS:
        data = make_lengths(2 * TOKENS // (shortest + longest), shortest, longest, vocabulary)
        blocks = in_blocks(data, MOST)
        same = round(BATCH * len(data) / len(blocks))
        ways = {"packed": (blocks, BATCH), "same_examples": (data, same), "same_batch": (data, BATCH)}
        best = dict.fromkeys(ways, 0.0)
        for _ in range(rounds):
            for name, way in ways.items():
                best[name] = max(best[name], tokens_a_second(base, *way))
        ratios = {name: round(best["packed"] / best[name], 2) for name in ways if name != "packed"}
        rows.append(
            {
                "width": width,
                "layers": layers,
                "tokens": [shortest, longest],
                "examples_a_block": round(len(data) / len(blocks), 1),
                "full": round(float(blocks.lengths.mean()) / MOST, 3),
                "packed_tokens_a_second": round(best["packed"]),
                "times_as_many_as": ratios,
            }
        )
        print(f"{width:>5} x {layers}, {shortest:>4} to {longest:<4} tokens: {ratios}", flush=True)
    return rows


if __name__ == "__main__":
    run(__doc__ or "", measure, WIDTHS, block_tokens=MOST)
