"""What a run costs besides its trainings, and what a second worker gains, on the demo.

    python benchmarks/overhead.py                 # about ten minutes on two cores that do nothing else
    python benchmarks/overhead.py --trials 10

Overhead is the time of the search, from its beginning to its last trial, the loading of the model included,
that went neither into gradient steps nor into scoring. Runs with one and with two workers take turns, one
thread each, as a shared machine's pace changes. Prints a table and writes `results/overhead.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.records.events import Event, PhaseStarted, TrialFinished, TrialStarted
from loracle.report.folders import trial_folder
from loracle.run.tune import tune

RESULTS = Path(__file__).parent / "results" / "overhead.json"


class Stopped(Exception):
    """The search has ended; the final trainings are not wanted here."""


class Clock:
    """When things happened, in seconds."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.started: dict[int, float] = {}
        self.finished: dict[int, float] = {}

    def listen(self, event: Event) -> None:
        now = time.perf_counter()
        match event:
            case PhaseStarted(text=text) if text.startswith("searching"):
                self.began = now
            case PhaseStarted() if self.began:
                raise Stopped
            case TrialStarted(number=number):
                self.started[number] = now
            case TrialFinished(trial=trial):
                self.finished[trial.number] = self.ended = now

    def choosing(self) -> float:
        """Seconds from the end of a trial to the beginning of the next; with one worker."""
        ends = [self.began, *(self.finished[number] for number in sorted(self.finished)[:-1])]
        return sum(self.started[number] - end for number, end in zip(sorted(self.started), ends, strict=True))


def search(folder: Path, workers: int, trials: int, seed: int) -> dict[str, Any]:
    """The search half of the demo; a row of seconds."""
    with as_file(files("loracle").joinpath("demo")) as demo:
        shutil.copytree(demo, folder)
    config = load_config(folder / "config.yaml")
    config = changed(config, "search", trials=trials, seed=seed)
    config = changed(config, "execution", workers=workers).model_copy(update={"threads": 1})
    clock = Clock()
    before = os.getloadavg()[0]
    with contextlib.suppress(Stopped):
        tune(config, clock.listen)
    parts = [
        json.loads((trial_folder(config.output, number) / "outcome.json").read_text())
        for number in sorted(clock.finished)
    ]
    work = {
        name: sum(part["seconds_by_part"].get(name, 0.0) for part in parts)
        for name in ("training", "scoring")
    }
    whole = clock.ended - clock.began
    row = {
        "workers": workers,
        "seed": seed,
        "trials": len(clock.finished),
        "load_before": round(before, 2),
        "seconds": round(whole, 2),
        **{name: round(seconds, 2) for name, seconds in work.items()},
        "rest_of_trials": round(sum(part["seconds"] for part in parts) - sum(work.values()), 2),
        "trials_per_hour": round(3600 * len(clock.finished) / whole, 1),
    }
    if workers == 1:
        first = min(clock.started)
        waited = clock.finished[first] - clock.started[first]
        row["loading"] = round(waited - parts[0]["seconds"], 2)
        row["choosing"] = round(clock.choosing(), 2)
        row["overhead"] = round(1 - sum(work.values()) / whole, 4)
    return row


def changed(config: RunConfig, section: str, **changes: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})


def show(rows: list[dict[str, Any]]) -> dict[str, float]:
    names = ["workers", "trials", "seconds", "training", "scoring", "rest_of_trials", "choosing", "loading"]
    for name in (*names, "overhead", "trials_per_hour", "load_before"):
        print(f"{name:>15}", *(f"{row.get(name, ''):>9}" for row in rows))
    rate = {
        workers: statistics.mean(row["trials_per_hour"] for row in rows if row["workers"] == workers)
        for workers in (1, 2)
    }
    summary = {
        "overhead": round(statistics.mean(row["overhead"] for row in rows if "overhead" in row), 4),
        "trials_of_two_workers_to_one": round(rate[2] / rate[1], 3),
    }
    print(f"overhead {100 * summary['overhead']:.1f} % (bound: 10 %)")
    print(f"two workers do {summary['trials_of_two_workers_to_one']:.2f} x the trials of one (bound: 1.6)")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2, help="of one worker, then two")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(options.rounds):
            for workers in (1, 2):
                path = Path(folder) / f"{round_number}-{workers}"
                rows.append(search(path, workers, options.trials, round_number))
                print(rows[-1], flush=True)
    summary = show(rows)
    content = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, one thread a worker",
        "versions": {name: version(name) for name in ("loracle", "torch", "transformers", "peft", "optuna")}
        | {"python": platform.python_version()},
        **summary,
        "runs": rows,
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
