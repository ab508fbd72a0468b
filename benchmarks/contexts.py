"""Landscapes that vary their context: how large the model is, how many examples, how often they are seen.

    python benchmarks/contexts.py                 # trains what is missing, then packs the results
    python benchmarks/contexts.py --minutes 30    # stops after so long; another call goes on
    python benchmarks/contexts.py --pack          # packs what there is

Three tasks of `landscape_tasks.py` on base models of width 64 to 384 and depth 2 to 8, with 500 to 8,000
examples, seen once or four times, short and long. All contexts share the same configs, a scrambled Sobol
sequence, so that what changes between two contexts is due to them. Configs are trained in rounds of 8 on all
contexts, the cheapest context first: a design that is stopped early is small, and not lopsided. Base models,
unlike those of `landscapes.py`, have seen long texts as well as short ones, and the larger ones fewer steps.
Rows are written as they come, so a second call goes on where the first was stopped. Work files lie in
`build/landscapes`, results in `benchmarks/landscapes/contexts.csv.gz`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from landscape_tasks import (
    POSITIONS,
    BaseModel,
    LandscapeTask,
    Row,
    carrying_row,
    characters,
    code_row,
    english_row,
    letters_row,
    make_base,
    numbers_row,
    sorting_row,
    subwords,
    write_data,
)
from landscapes import KNOBS, RESULTS, SEEDS, WORK, objective, prepare_process
from scipy.stats import qmc
from search import about
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from loracle.records.space import Config, Knob, SearchSpace
from loracle.text.files import write_atomically

N_CONFIGS, ROUND = 32, 8
DESIGN_SEED = 11
# Examples, epochs, and whether they are long. The smallest model of a task, which is the cheapest, has more.
SMALLEST_DATA = ((500, 1, False), (8000, 1, False), (500, 4, True), (2000, 1, True), (2000, 4, False))
DATA = ((500, 1, True), (500, 4, False), (2000, 1, False))
POINTS = 10  # of a training curve
PACKED = RESULTS / "contexts.csv.gz"
ROWS = WORK / "rows" / "contexts.csv"

SHAPES = {  # (width, depth) of the base models
    "sorting": ((64, 2), (64, 8), (128, 4), (384, 2)),
    "carrying": ((64, 2), (128, 8), (256, 2)),
    "code": ((96, 2), (96, 6), (256, 2)),
}

COLUMNS = (
    "task",
    "base",
    "width",
    "depth",
    "parameters",
    "examples",
    "epochs",
    "length",
    *KNOBS,
    "metric",
    "value",
    "loss",
    "failure",
    "steps",
    "trained_tokens",
    "seconds",
    "curve",
)


@dataclass(frozen=True)
class Context:
    """A task on a base model with so many examples."""

    task: str
    width: int
    depth: int
    examples: int
    epochs: int
    long: bool

    @property
    def base(self) -> str:
        return f"{_FAMILIES[self.task]}-{self.width}x{self.depth}"

    @property
    def length(self) -> str:
        return "long" if self.long else "short"

    @property
    def name(self) -> str:
        return f"{self.task}-{self.width}x{self.depth}-{self.examples}x{self.epochs}-{self.length}"

    @property
    def seconds(self) -> float:
        """What a training takes, on the mean over batch sizes of 8 to 128; a rough estimate for one core."""
        seen = self.examples * self.epochs
        tokens = seen * (30 if self.task == "code" else 12) * (1.0 if self.long else 0.6)
        steps = seen * float(np.mean([1 / batch for batch in (8, 16, 32, 64, 128)]))
        return 0.6 + steps * (0.003 + 0.003 * self.depth) + tokens * 4 * self.weights / 3e10

    @property
    def weights(self) -> float:
        """About how many parameters, without embeddings."""
        return 12.0 * self.width**2 * self.depth


def contexts_space() -> SearchSpace:
    """The part of the grid of `landscapes.py` where short trainings of small models learn something."""
    return SearchSpace(
        (
            Knob("rank", (2, 4, 8, 16, 32, 64), "log2"),
            Knob("alpha_ratio", (1, 2, 4, 8, 16, 32), "log2"),
            Knob("dropout", (0.0, 0.05, 0.1)),
            Knob("batch_size", (8, 16, 32, 64, 128), "log2"),
            Knob("learning_rate", (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2), "log10"),
        )
    )


@cache
def configs() -> tuple[Config, ...]:
    """The configs that all contexts share: a scrambled Sobol sequence on the grid."""
    space = contexts_space()
    sobol = qmc.Sobol(len(space.shape), scramble=True, rng=np.random.default_rng(DESIGN_SEED))
    places = np.floor(sobol.random(N_CONFIGS) * np.array(space.shape)).astype(np.int64)
    return tuple(
        {knob.name: knob.values[place] for knob, place in zip(space.knobs, row, strict=True)}
        for row in places.tolist()
    )


@cache
def contexts() -> tuple[Context, ...]:
    """All contexts, the cheapest first."""
    found = []
    for task, shapes in SHAPES.items():
        for place, (width, depth) in enumerate(shapes):
            for examples, epochs, long in SMALLEST_DATA if place == 0 else DATA:
                found.append(Context(task, width, depth, examples, epochs, long))
    return tuple(sorted(found, key=lambda context: context.seconds))


# -- tasks of two lengths ---------------------------------------------------------------------------


def _letters_row(rng: random.Random) -> Row:
    return letters_row(rng, longest=8)


def _sorting(rng: random.Random, long: bool) -> Row:
    return sorting_row(rng, *((6, 8) if long else (3, 5)))


def _numbers_row(rng: random.Random) -> Row:
    return numbers_row(rng, rng.choice((100, 10_000)))


def _carrying(rng: random.Random, long: bool) -> Row:
    return carrying_row(rng, 10_000 if long else 100)


def _code(rng: random.Random, long: bool) -> Row:
    """A piece of code, or the first half of one."""
    text = code_row(rng)["text"]
    return {"text": text if long else text[: len(text) // 2]}


_SAMPLES: dict[str, Callable[[random.Random, bool], Row]] = {
    "sorting": _sorting,
    "carrying": _carrying,
    "code": _code,
}
_FAMILIES = {"sorting": "llama-letters", "carrying": "gpt2-numbers", "code": "neox-english"}
_METRICS = {"sorting": "exact_match", "carrying": "exact_match", "code": "loss"}


def task_of(context: Context) -> LandscapeTask:
    """The context as a task of `landscapes.py`. Examples of fewer are the first of more."""
    return LandscapeTask(
        context.name,
        context.base,
        "",
        lambda rng: _SAMPLES[context.task](rng, context.long),
        _METRICS[context.task],
        context.examples,
        epochs=float(context.epochs),
        n_validation=200,
        max_new_tokens=10,
    )


def base_of(context: Context) -> BaseModel:
    """Its base model: the larger, the fewer and the smaller steps of pretraining."""
    sample, tokenizer = {
        "sorting": (_letters_row, characters),
        "carrying": (_numbers_row, characters),
        "code": (english_row, subwords),
    }[context.task]
    larger = context.weights / 1e5
    steps = round(max(200.0, 1500 / max(larger, 1.0) ** 0.5))
    rate = 3e-3 * (64 / context.width) ** 0.5 * (2 / context.depth) ** 0.25
    return BaseModel(
        context.base, sample, tokenizer, lambda common: _model(context, common), steps, rate=rate
    )


def _model(context: Context, common: dict[str, Any]) -> Any:
    width, depth = context.width, context.depth
    spread = 0.64 / width**0.5
    if context.task == "carrying":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=width,
                n_layer=depth,
                n_head=max(4, width // 32),
                n_positions=POSITIONS,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                initializer_range=spread,
                **common,
            )
        )
    shape = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": max(4, width // 32)}
    shape |= {"intermediate_size": (2 if context.task == "sorting" else 3) * width}
    known = {"initializer_range": spread, "max_position_embeddings": POSITIONS, **common}
    if context.task == "sorting":
        return LlamaForCausalLM(LlamaConfig(**shape, **known))
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **known))


# -- training ---------------------------------------------------------------------------------------


def jobs() -> Iterator[tuple[Context, Config]]:
    """All trainings, in rounds of configs."""
    for start in range(0, N_CONFIGS, ROUND):
        for context in contexts():
            for config in configs()[start : start + ROUND]:
                yield context, config


def train(context: Context, config: Config) -> dict[str, Any]:
    """Runs one training and gives its row."""
    task = task_of(context)
    work = objective(task)
    folder = WORK / "trials" / f"{os.getpid()}"
    outcome = work.run(config, seed=SEEDS[0], folder=folder)
    shutil.rmtree(folder)
    if outcome.failure is not None and outcome.failure.kind != "diverged":
        raise RuntimeError(f"{context.name} {config}: {outcome.failure}")
    row: dict[str, Any] = {
        "task": context.task,
        "base": context.base,
        "width": context.width,
        "depth": context.depth,
        "parameters": sum(p.numel() for p in work.base.model.parameters()),
        "examples": context.examples,
        "epochs": context.epochs,
        "length": context.length,
        **{name: config[name] for name in KNOBS},
        "metric": task.metric,
        "value": "" if outcome.value is None else f"{outcome.value:.6g}",
        "failure": "" if outcome.failure is None else "diverged",
        "seconds": f"{outcome.seconds:.3f}",
    }
    if outcome.failure is None:
        row["loss"] = f"{outcome.metrics['validation_loss']:.6g}"
        row |= {"steps": int(outcome.metrics["steps"]), "trained_tokens": int(outcome.metrics["tokens"])}
    if (curve := outcome.curve) is not None:
        stride = max(1, len(curve.steps) // POINTS)
        points = list(zip(curve.steps, curve.losses, strict=True))[stride - 1 :: stride]
        row["curve"] = " ".join(f"{step}:{loss:.4g}" for step, loss in points)
    return row


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a training from all others."""
    context = tuple(str(row[name]) for name in ("base", "examples", "epochs", "length"))
    return (*context, *(float(row[name]) for name in KNOBS))


def done() -> dict[tuple[Any, ...], dict[str, str]]:
    """Rows so far, those that are packed where there are no work files."""
    if not ROWS.exists() and PACKED.exists():
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        ROWS.write_bytes(gzip.decompress(PACKED.read_bytes()))
    if not ROWS.exists():
        return {}
    with ROWS.open(newline="", encoding="utf-8") as file:  # a row that a kill cut off has no last column
        return {key(row): row for row in csv.DictReader(file) if row["curve"] is not None}


def run(minutes: float | None) -> None:
    """Makes base models and data where they are missing, then trains what is missing."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    for context in contexts():
        make_base(base_of(context), WORK / "bases" / context.base)
        write_data(task_of(context), WORK / "data" / context.name)
    finished = done()
    left = [(context, config) for context, config in jobs() if _name(context, config) not in finished]
    print(f"{len(left)} trainings to do", flush=True)
    new = not ROWS.exists()
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for number, (context, config) in enumerate(left, 1):
            writer.writerow(train(context, config))
            file.flush()
            if number % 40 == 0:
                print(f"{time.strftime('%H:%M:%S')} {number} of {len(left)}", flush=True)
            if time.monotonic() > end:
                print("time is up")
                return


def _name(context: Context, config: Config) -> tuple[Any, ...]:
    parts = {"base": context.base, "examples": context.examples, "epochs": context.epochs}
    return key({**parts, "length": context.length, **config})


def pack() -> None:
    """Writes the sorted rows, compressed, and how they were made."""
    finished = done()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(finished[one] for one in sorted(finished))
    PACKED.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    content = {
        "program": "benchmarks/contexts.py",
        "about": about("transformers", "peft"),
        "design": {"sequence": "scrambled Sobol", "seed": DESIGN_SEED, "configs": N_CONFIGS},
        "knobs": {knob.name: list(knob.values) for knob in contexts_space()},
        "contexts": len({one[:4] for one in finished}),
        "rows": len(finished),
        "seconds": round(sum(float(row["seconds"]) for row in finished.values())),
    }
    path = PACKED.with_name("contexts.json")
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    print(f"{len(finished)} rows of {content['contexts']} contexts")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="stop after so long; another call goes on")
    parser.add_argument("--pack", action="store_true", help="pack what there is, train nothing")
    arguments = parser.parse_args()
    prepare_process()
    if not arguments.pack:
        run(arguments.minutes)
    pack()


if __name__ == "__main__":
    main()
