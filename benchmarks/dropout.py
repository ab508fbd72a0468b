"""What dropout by example costs: against `torch.nn.Dropout` and against none, in one run.

    OMP_NUM_THREADS=1 python benchmarks/dropout.py --out benchmarks/results/dropout.json

`layer` is forward and backward of the dropout alone on (rows, features); `training` is a whole training of a
small Llama. The ways take turns and the best of the rounds counts, in processor time, as other work on the
machine only slows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import make_data
from micro_batch import make_llama
from speed import about

from loracle.config.settings import TrainingConfig
from loracle.training import loop as train
from loracle.training.loop import train_adapter
from loracle.training.model.dropout import ExampleDropout, Masks

SHAPES = ((8 * 20, 64), (8 * 128, 256), (8 * 128, 1024), (8 * 128, 4096))  # rows, features
WIDTHS = ((64, 2), (256, 4))  # of a training's model, and layers
P = 0.05


def best(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Processor seconds of each way: the best of some rounds, in which they take turns."""
    found: dict[str, float] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            found[name] = min(found.get(name, float("inf")), time.process_time() - began)
    return found


def layer(rows: int, features: int, rounds: int) -> dict[str, Any]:
    device = torch.device("cpu")
    masks = Masks(0, device)
    ways = {"torch": torch.nn.Dropout(P), "by example": ExampleDropout(P, "a", features, masks)}
    x = torch.randn(8, rows // 8, features, requires_grad=True)
    gradient = torch.randn_like(x)

    def run(dropout: torch.nn.Module) -> None:
        dropout(x).backward(gradient)
        x.grad = None

    with masks.of(0, range(8), rows // 8):
        seconds = best({name: lambda way=way: run(way) for name, way in ways.items()}, rounds)
    nanoseconds = {name: 1e9 * value / (rows * features) for name, value in seconds.items()}
    ratio = seconds["by example"] / seconds["torch"]
    return {"rows": rows, "features": features, "ns_an_element": nanoseconds, "ratio": ratio}


def training(width: int, layers: int, rounds: int) -> dict[str, Any]:
    base, data = make_llama(width, layers), make_data(32, 64, 16)
    config = {"rank": 8, "alpha": 8, "batch_size": 16, "learning_rate": 1e-4}
    keyed = train.key_dropout

    def run(dropout: float, replaced: bool) -> None:
        train.key_dropout = keyed if replaced else lambda *_, **__: None
        with train_adapter(base, data, config | {"dropout": dropout}, TrainingConfig(micro_batch=16), seed=0):
            pass

    ways = {
        "none": lambda: run(0.0, True),
        "torch": lambda: run(P, False),
        "by example": lambda: run(P, True),
    }
    seconds = best(ways, rounds)
    train.key_dropout = keyed
    ratios = {name: seconds["by example"] / seconds[name] for name in ("none", "torch")}
    return {"width": width, "layers": layers, "seconds": seconds, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        rows.append(layer(*shape, arguments.rounds))
        print(f"{shape[0]:>6} x {shape[1]:<6} by example / torch.nn.Dropout {rows[-1]['ratio']:.2f}")
    trainings = []
    for width, layers in WIDTHS:
        trainings.append(training(width, layers, arguments.rounds))
        ratio = trainings[-1]["ratio"]
        print(
            f"training, width {width}, {layers} layers: by example / torch.nn.Dropout {ratio['torch']:.2f}, "
            f"by example / no dropout {ratio['none']:.2f}"
        )
    if arguments.out:
        content = {**about(), "probability": P, "layers": rows, "trainings": trainings}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
