"""What the driver of a run costs: its memory, what it loads, and how much later than its worker it begins.

`python benchmarks/driver.py` prints a table and writes `results/driver.json`. On the demo's model and a part
of its data, side by side and in turn:

* *worker alone*: from the start of a worker process to the first step of a training that it is given at once;
* *loracle tune*: from the start of the command to the first step of its first trial.

A machine that is busy slows both; their ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "driver.json"
HEAVY = ("torch", "transformers", "peft", "botorch", "gpytorch", "accelerate", "matplotlib", "pandas")

WORKER = """
import sys
from pathlib import Path
from loracle.config.loading import load_config
from loracle.execution.local import LocalWorkers
from loracle.run.worker import PROGRAM
from loracle.execution.executor import Job
config = load_config(sys.argv[1])
knobs = dict(rank=16, alpha_ratio=2, alpha=32, dropout=0.05, batch_size=16, learning_rate=2e-4)
with LocalWorkers(config, PROGRAM) as workers:
    workers.submit(Job(0, knobs, 0, config.output / "trials" / "0000"))
    while not workers.wait(1.0, lambda *_: None):
        pass
"""

# The command, which says at its end what it has loaded and how much memory it took.
TUNE = """
import atexit, json, sys

def said():
    status = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    loaded = [name for name in heavy if name in sys.modules]
    sys.stderr.write("DRIVER " + json.dumps({"peak_kb": peak, "loaded": loaded}) + "\\n")

atexit.register(said)
from loracle.cli import main
arguments = ["loracle", "tune", sys.argv[1], "--trials", "2"]
heavy, sys.argv = sys.argv[2].split(), arguments
main()
"""


def make(folder: Path) -> Path:
    """The demo with a part of its data; returns its config."""
    with as_file(files("loracle").joinpath("demo")) as demo:
        shutil.copytree(demo, folder)
    for name, n in (("train", 400), ("validation", 40), ("test", 40)):
        path = folder / f"{name}.jsonl"
        with path.open() as file:
            rows = list(islice(file, n))
        path.write_text("".join(rows))
    config = folder / "config.yaml"
    text = config.read_text().replace("metric: exact_match", "metric: loss")
    text = text.replace("  max_new_tokens: 10\n", "").replace("batch_size: 300", "batch_size: 40")
    config.write_text(text)
    return config


def until_first_step(command: list[str], log: Path) -> tuple[float, str]:
    """Seconds until `log` holds a step, and what the command wrote to stderr when it had ended."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=os.environ)
        while not (log.exists() and re.search(r"^1\t", log.read_text(), re.MULTILINE)):
            if process.poll() not in (None, 0):
                errors.seek(0)
                raise SystemExit(f"{command[0]} failed: {errors.read()[-2000:]}")
            time.sleep(0.002)
        seconds = time.perf_counter() - began
        process.wait()
        errors.seek(0)
        return seconds, errors.read()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    alone, tuned, drivers = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.repeats):
            config = make(Path(folder) / f"{number}")
            log = config.parent / "run" / "trials" / "0000" / "log.txt"
            alone.append(until_first_step([sys.executable, "-c", WORKER, str(config)], log)[0])
            shutil.rmtree(config.parent / "run")
            seconds, said = until_first_step([sys.executable, "-c", TUNE, str(config), " ".join(HEAVY)], log)
            tuned.append(seconds)
            drivers.append(json.loads(said[said.rindex("DRIVER ") + 7 :].splitlines()[0]))
    ratios = [b / a for a, b in zip(alone, tuned, strict=True)]
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("loracle", "torch", "transformers", "optuna")},
        "seconds": {"worker alone": alone, "loracle tune": tuned},
        "ratio": {"median": statistics.median(ratios), "all": ratios},
        "driver": {"peak_mb": [d["peak_kb"] / 1000 for d in drivers], "loaded": drivers[0]["loaded"]},
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{'':14}{'median':>8}{'least':>8}{'most':>8}")
    rows: list[tuple[str, list[float], Callable[[float], str]]] = [
        ("worker alone", alone, lambda x: f"{x:.2f} s"),
        ("loracle tune", tuned, lambda x: f"{x:.2f} s"),
        ("ratio", ratios, lambda x: f"{x:.2f}"),
        ("driver's peak", result["driver"]["peak_mb"], lambda x: f"{x:.0f} MB"),  # type: ignore[index]
    ]
    for name, values, show in rows:
        numbers = (statistics.median(values), min(values), max(values))
        print(f"{name:14}" + "".join(f"{show(x):>8}" for x in numbers))
    print(f"loaded by the driver: {', '.join(drivers[0]['loaded']) or 'none'} of {', '.join(HEAVY)}")


if __name__ == "__main__":
    main()
