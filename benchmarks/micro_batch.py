"""Which micro-batch makes a training fast: time a token, for model widths and lengths of examples.

    OMP_NUM_THREADS=1 python benchmarks/micro_batch.py --out benchmarks/results/micro_batch.json

All sizes of a row take turns, and the fastest step of all rounds counts, on a CPU in processor time, as other
work on the machine only slows; 1.00 is the fastest of its row. `rule` is what `training.micro_batch: auto`
chooses there. On a GPU, run it with `--device cuda`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from speed import about

from loracle.config.settings import TrainingConfig
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import Step, train_adapter
from loracle.training.memory.equations import Sizes
from loracle.training.memory.plan import fast_micro_batch
from loracle.training.model.base_model import Base, _has_masked_logits
from loracle.training.model.checksum import weights_checksum, weights_fingerprint
from loracle.training.model.output.layer import observed_output

WIDTHS = ((32, 2, 100), (96, 2, 500), (256, 4, 8000), (512, 2, 8000))  # width, layers, vocabulary
LENGTHS = ((10, 30), (40, 120), (200, 400))  # tokens of the shortest and the longest example
SIZES = (1, 2, 4, 8, 16, 32, 64)
EXAMPLES = 64
MOST_TOKENS = 12_800  # in a micro-batch: more is slow everywhere, and takes gigabytes


def make_llama(width: int, layers: int, vocabulary: int = 8000, device: str = "cpu") -> Base:
    """A random Llama."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    config = transformers.AutoConfig.for_model("llama", vocab_size=vocabulary, **shape, **heads)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.eval().requires_grad_(False).to(device)
    where = torch.device(device)
    masked, output = _has_masked_logits(model, where), observed_output(model, where)
    sums = weights_fingerprint(model), weights_checksum(model)
    return Base("llama", model, None, where, model.dtype, *sums, (0,), 0, 2048, masked, output=output)


def make_lengths(n: int, shortest: int, longest: int, vocabulary: int) -> Encoded:
    """Examples of lengths between the two, a quarter of each in the loss."""
    random = np.random.default_rng(0)
    lengths = random.integers(shortest, longest + 1, n)
    ends = np.cumsum(lengths)
    in_loss = np.maximum(1, lengths // 4)
    counted = np.concatenate(
        [np.arange(length) >= length - k for length, k in zip(lengths, in_loss, strict=True)]
    )
    tokens = random.integers(1, vocabulary, int(ends[-1])).astype(np.int32)
    goes_on = np.zeros(n, dtype=np.bool_)
    return Encoded(tokens, counted, ends - lengths, ends, lengths - in_loss, in_loss, np.arange(n), goes_on)


def measure(width: int, layers: int, vocabulary: int, rounds: int, device: str) -> list[dict[str, Any]]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    base = make_llama(width, layers, vocabulary, device)
    rows = []
    for shortest, longest in LENGTHS:
        data = make_lengths(EXAMPLES, shortest, longest, vocabulary)
        config = {"rank": 8, "alpha": 8, "dropout": 0.05, "batch_size": EXAMPLES, "learning_rate": 1e-4}
        seconds: dict[int, float] = {}
        for _ in range(rounds):
            for size in (size for size in SIZES if size * longest <= MOST_TOKENS):
                settings = TrainingConfig(micro_batch=size, epochs=4)  # a step is an epoch
                ends: list[float] = []

                def note(step: Step, ends: list[float] = ends) -> None:
                    ends.append(clock())

                with train_adapter(base, data, config, settings, seed=0, progress=note):
                    seconds[size] = min(seconds.get(size, float("inf")), *np.diff(ends).tolist())
        least = min(seconds.values())
        rule = min(EXAMPLES, fast_micro_batch(base.device.type, Sizes.of(data)))
        relative = {size: round(value / least, 2) for size, value in seconds.items()}
        rows.append(
            {
                "width": width,
                "layers": layers,
                "tokens": [shortest, longest],
                "microseconds_a_token": round(1e6 * least / int(data.lengths.sum()), 1),
                "relative": relative,
                "rule": rule,
            }
        )
        print(f"{width:>5} x {layers}, {shortest:>4} to {longest:<4} tokens:", end=" ")
        print(*(f"{size}: {value:.2f}" for size, value in relative.items()), f"(rule: {rule})", sep="  ")
    return rows


def run(
    program: str,
    measure: Callable[[int, int, int, int, str], list[dict[str, Any]]],
    widths: Sequence[tuple[int, int, int]],
    **told: Any,
) -> None:
    """Measures models of some widths, layers and vocabularies, and keeps the rows of all as they come."""
    parser = argparse.ArgumentParser(description=program, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape in widths:
        rows += measure(*shape, arguments.rounds, arguments.device)
        if arguments.out:
            content = {**about(), "device": arguments.device, **told, "rows": rows}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(__doc__ or "", measure, WIDTHS)
