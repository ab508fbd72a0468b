"""How far the first estimate of a run's time is from what the run then takes, on parts of the demo.

    python benchmarks/first_estimate.py [runs.json]

Prints one line a run: estimate with its range, seconds taken, and their ratio; writes them where asked.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna
import yaml

from loracle.config.loading import load_config
from loracle.records.events import Event, Expected
from loracle.run.tune import tune

KINDS: dict[str, dict[str, Any]] = {
    "loss": {"scoring": {"metric": "loss", "batch_size": 64}},
    "exact match": {"scoring": {"metric": "exact_match", "max_new_tokens": 10, "batch_size": 64}},
    "small model steps": {"scoring": {"metric": "loss"}, "training": {"epochs": 2, "micro_batch": 8}},
}
ROWS = {"train": 600, "validation": 100, "test": 100}
TRIALS = 6


def one(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Runs it; gives what was expected before the first trial, and what it took from there."""
    demo = Path(str(files("loracle").joinpath("demo")))
    with tempfile.TemporaryDirectory() as folder:
        content = yaml.safe_load((demo / "config.yaml").read_text()) | changes
        content["model"] = str(demo / "base")
        content["data"] |= {"proxy": 0.25, "proxy_minimum": 100}
        for split, n in ROWS.items():
            lines = (demo / f"{split}.jsonl").read_text().splitlines(keepends=True)[:n]
            (Path(folder) / f"{split}.jsonl").write_text("".join(lines))
        content["search"] = {"trials": TRIALS}
        (Path(folder) / "config.yaml").write_text(yaml.safe_dump(content))
        told: list[tuple[float, Expected]] = []

        def listen(event: Event) -> None:
            if isinstance(event, Expected):
                told.append((time.perf_counter(), event))

        tune(load_config(Path(folder) / "config.yaml"), listen)
        ((began, expected),) = told
        took = time.perf_counter() - began
    whole = expected.whole
    assert whole is not None
    figures = {"low": whole.low, "likely": whole.likely, "high": whole.high, "took": took}
    return {"run": name, **{key: round(value, 1) for key, value in figures.items()}}


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = []
    for name, changes in KINDS.items():
        found.append(one(name, changes))
        print(
            json.dumps(found[-1] | {"ratio": round(found[-1]["took"] / found[-1]["likely"], 2)}), flush=True
        )
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
