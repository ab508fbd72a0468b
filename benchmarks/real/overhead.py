"""What a trial costs besides its gradient steps and its scoring on a real model, and how fast scoring is.

    python benchmarks/real/overhead.py FOLDER      # a quarter of an hour on one core that does nothing else

FOLDER holds the model. The task is made up: 100 training and 100 validation rows of some 24 tokens, eight
choices. `start` is the processor time of what a worker does before it is ready, part by part; `trials` are
the wall-clock parts of trials, as `outcome.json` has them; `choices` and `writing` compare ways to score the
base model in processor time, in turns in one process. One thread. Writes `../results/real-overhead.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from speed import about

RESULTS = Path(__file__).parent.parent / "results" / "real-overhead.json"
_WORDS = "a package that gives programs fast and simple access to files images text network data in python"
_SECTIONS = (
    "admin cli-mono database debug devel doc editors education games gnome graphics httpd interpreters kde "
    "libs localization math net python sound"
)
WORDS = _WORDS.split()
SECTIONS = [f" {name}" for name in _SECTIONS.split()]
CONFIG = {"rank": 8, "alpha": 16, "dropout": 0.05, "batch_size": 16, "learning_rate": 2e-4}


def rows(n: int, words: int, choices: int, seed: int) -> list[dict[str, str]]:
    """Made-up descriptions, with some section."""
    chooser = random.Random(seed)
    found = []
    for number in range(n):
        text = " ".join(chooser.choice(WORDS) for _ in range(words + chooser.randint(-4, 4)))
        section = chooser.choice(SECTIONS[:choices])
        found.append({"prompt": f"Package {seed}-{number}: {text}\nSection:", "completion": section})
    return found


def measure(folder: str, dtype: str, metric: str) -> dict[str, Any]:
    """What one process spends on it, as a worker does."""
    gc.disable()  # as a worker does until it is ready
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = work()
        spent[name] = round(time.process_time() - began, 2)
        return found

    def imports() -> None:
        import loracle.training.objective  # noqa: F401

    timed("import", imports)
    import torch

    from loracle.config.settings import RunConfig
    from loracle.training.dataset.splits import load_splits
    from loracle.training.model.base_model import load_base
    from loracle.training.model.checksum import weights_checksum
    from loracle.training.objective import TrainingObjective

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        data = {}
        for seed, name in enumerate(("train", "validation", "test")):
            data[name] = str(Path(place) / f"{name}.jsonl")
            text = "".join(json.dumps(row) + "\n" for row in rows(100, 16, 8, seed))
            Path(data[name]).write_text(text, encoding="utf-8")
        scoring: dict[str, Any] = {"metric": metric}
        if metric == "choice_accuracy":
            scoring["choices"] = SECTIONS[:8]
        settings = {"model": folder, "dtype": dtype, "device": "cpu", "threads": 1, "data": data}
        settings["search"] = {"trials": 30}  # without a budget, which would make trials smaller
        config = RunConfig.model_validate({**settings, "scoring": scoring, "output": f"{place}/run"})
        splits = load_splits(config.data, 0)
        base = timed("load", lambda: load_base(config))
        objective = timed("encode_and_probe", lambda: TrainingObjective(config, splits, base))
        timed("report_and_memory_model", objective.report)
        gc.collect()
        gc.freeze()
        gc.enable()
        trials = []
        for number in range(2):
            outcome = objective.run(CONFIG, seed=number, folder=Path(place) / str(number))
            trials.append({name: round(value, 2) for name, value in outcome.seconds_by_part.items()})
        shares = [parts["other"] / sum(parts.values()) for parts in trials]
        row = {"dtype": dtype, "metric": metric, "start": dict(spent), "trials": trials}
        row["share_of_the_rest"] = round(statistics.median(shares), 4)
        row["seconds_of_the_rest"] = round(statistics.median(parts["other"] for parts in trials), 2)
        timed("checksum", lambda: weights_checksum(base.model))
        row["checksum_seconds"] = spent["checksum"]
        if metric == "choice_accuracy":
            row["choices"] = [compare_choices(objective.base, *case) for case in CASES]
        if metric == "exact_match":
            row["writing"] = compare_writing(objective.base)
    return row


CASES = ((16, 40, 8), (16, 20, 20), (190, 8, 8), (190, 4, 20))  # words, examples, choices


def questions(base: Any, words: int, n: int, choices: int, settings: Any) -> Any:
    from loracle.training.dataset.shapes import Example
    from loracle.training.dataset.tokens import encode
    from loracle.training.scoring import prepare

    examples = [Example(f"made:{i}", **row) for i, row in enumerate(rows(n, words, choices, 7))]
    encoded = encode(examples, base.tokenizer, 512, stop_ids=base.stop_ids)
    return prepare(examples, encoded, base, settings, 512)


def compare_choices(base: Any, words: int, n: int, choices: int) -> dict[str, Any]:
    """Every choice read with its prompt, and prompts read once; twice each, in turns."""
    from loracle.config.metrics.settings import ScoringConfig
    from loracle.training.scoring import score

    settings = ScoringConfig(metric="choice_accuracy", choices=SECTIONS[:choices])
    asked = questions(base, words, n, choices, settings)
    ways = {"whole": replace(base, continuing=None), "once": base}
    seconds: dict[str, list[float]] = {"whole": [], "once": []}
    found = {}
    for _ in range(2):
        for name, own in ways.items():
            began = time.process_time()
            found[name] = score(own, asked, settings)
            seconds[name].append(time.process_time() - began)
    pairs = list(zip(found["whole"].items, found["once"].items, strict=True))
    return {
        "prompt_tokens": round(float(asked.encoded.prompt_lengths.mean()), 1),
        "choices": choices,
        "examples": n,
        "whole_seconds": round(min(seconds["whole"]), 2),
        "once_seconds": round(min(seconds["once"]), 2),
        "ratio": round(min(seconds["whole"]) / min(seconds["once"]), 2),
        "same_predictions": sum(one["prediction"] == other["prediction"] for one, other in pairs),
        "largest_difference_of_losses": max(abs(one["loss"] - other["loss"]) for one, other in pairs),
    }


def compare_writing(base: Any) -> dict[str, Any]:
    """A model that writes on and on: to 64 tokens, and until nothing can become the reference any more."""
    import torch

    from loracle.config.metrics.settings import ScoringConfig
    from loracle.training.generation import generate

    settings = ScoringConfig(metric="exact_match")
    asked = questions(base, 16, 16, 8, settings)
    seconds = {}
    for name, wanted in (("ended", asked.references), ("whole", None)):
        began = time.process_time()
        with torch.inference_mode():
            generate(base, asked.encoded, settings, wanted)
        seconds[f"{name}_seconds"] = round(time.process_time() - began, 2)
    return {"examples": 16, **seconds, "ratio": round(seconds["whole_seconds"] / seconds["ended_seconds"], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        dtype, metric, out = options.one
        Path(out).write_text(json.dumps(measure(options.folder, dtype, metric)), encoding="utf-8")
        return
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    for dtype in options.dtypes:
        for metric in ("loss", "choice_accuracy", "exact_match"):
            with tempfile.TemporaryDirectory() as place:
                out = Path(place) / "row.json"
                command = [sys.executable, __file__, options.folder, "--one", dtype, metric, str(out)]
                subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
                row = json.loads(out.read_text(encoding="utf-8"))
            print(json.dumps(row), flush=True)
            kept = [old for old in kept if (old["dtype"], old["metric"]) != (dtype, metric)] + [row]
            content = {
                **about(),
                "model": Path(options.folder).name,
                "rows": kept,
            }
            RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
