"""Real landscapes: thousands of LoRA trainings of small models, all five knobs over their full ranges.

    python benchmarks/landscapes.py --task all --jobs 2      # makes what is missing, then packs the results
    python benchmarks/landscapes.py --status

Every task has a base model of its own architecture, pretrained here in a minute or two; `landscape_tasks.py`
says how. Trainings are Loracle's own (`TrainingObjective`). The plan of a task: 600 configs of a scrambled
Sobol sequence laid on the grid (the standard config is the first of them), 150 of these on 10 % of the data,
two more seeds (and 10 % of the data) for the top 5 % and for a random 5 %, and 200 neighbours of the top 5 %.
Rows are written as they come, so a second call goes on where the first was stopped. Work files lie in
`build/landscapes`, results in `benchmarks/landscapes`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import logging
import multiprocessing
import os
import platform
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_tasks import BASES, TASKS, LandscapeTask, make_base, write_data
from scipy.stats import qmc
from transformers import logging as transformers_logging

from loracle.config.settings import RunConfig
from loracle.records.space import Knob, SearchSpace
from loracle.records.standard_settings import STANDARD
from loracle.text.files import write_atomically
from loracle.training.objective import TrainingObjective
from loracle.training.scoring import score

HERE = Path(__file__).parent
RESULTS = HERE / "landscapes"
WORK = HERE.parent / "build" / "landscapes"

N_CONFIGS = 600
N_PROXY = 150  # of these configs, also on PROXY of the data
PROXY = 0.1
SEEDS = (0, 1, 2)  # the first one for every config, all of them for the repeated ones
REPEATED = 0.05  # share of the configs repeated: the best, and as many at random
N_NEAR = 200  # further configs, near the best: what an emulator must get right
DESIGN_SEED = 4

KNOBS = ("rank", "alpha_ratio", "dropout", "batch_size", "learning_rate")
COLUMNS = (
    "task",
    "family",
    *KNOBS,
    "alpha",
    "fraction",
    "seed",
    "value",
    "metric",
    "validation_loss",
    "exact_match",
    "choice_accuracy",
    "training_loss",
    "first_loss",
    "failure",
    "steps",
    "seconds",
)


def landscape_space() -> SearchSpace:
    """The grid of every task: the paper's ranges, rates up to 2e-2 and ranks up to the models' width."""
    return SearchSpace(
        (
            Knob("rank", (1, 2, 4, 8, 16, 32, 64), "log2"),
            Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16, 32, 64, 128), "log2"),
            Knob("dropout", (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
            Knob("batch_size", (2, 4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob(
                "learning_rate",
                (1e-6, 5e-6, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2),
                "log10",
            ),
        )
    )


# -- what to train ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One training: its config's index in `landscape_space`, share of the data, and seed."""

    task: str
    index: int
    fraction: float = 1.0
    seed: int = SEEDS[0]


def design(space: SearchSpace, n: int = N_CONFIGS, seed: int = DESIGN_SEED) -> list[int]:
    """Indices of `n` distinct candidates: the standard one, then a scrambled Sobol sequence on the grid.

    The same for every task, so that landscapes can be compared config by config.
    """
    standard = space.index(STANDARD)
    sobol = qmc.Sobol(len(space.shape), scramble=True, rng=np.random.default_rng(seed))
    points = sobol.random_base2(int(np.ceil(np.log2(4 * n))))  # (4 n or more, knobs), in [0, 1)
    places = np.floor(points * np.array(space.shape)).astype(np.int64)
    drawn = np.ravel_multi_index(tuple(places.T), space.shape)
    drawn = drawn[np.isin(drawn, space.candidates)]
    return list(dict.fromkeys([standard, *drawn.tolist()]))[:n]


def repeated(indices: Sequence[int], values: Sequence[float | None]) -> list[int]:
    """Which of the configs to repeat: the best 5 %, and a random 5 % of the others, best first."""
    n = round(REPEATED * len(indices))
    score = np.array([-np.inf if value is None else value for value in values])
    order = np.argsort(-score, kind="stable")
    others = np.random.default_rng(DESIGN_SEED).permutation(order[n:])[:n]
    return [indices[i] for i in [*order[:n], *others]]


def near(space: SearchSpace, best: Sequence[int], known: Sequence[int], n: int = N_NEAR) -> list[int]:
    """`n` new configs, one or two steps from one of the best, these taking turns."""
    random = np.random.default_rng(DESIGN_SEED)
    found: dict[int, None] = {}
    while len(found) < n:
        for index in best:
            for _ in range(2):
                index = int(random.choice(space.neighbours(index)))
            if index not in known:
                found[index] = None
    return list(found)[:n]


def open_jobs(tasks: Sequence[str], done: dict[Job, dict[str, str]]) -> list[Job]:
    """What is left to do, in the order of doing it: all configs, proxies, further seeds, neighbours.

    Tasks take turns. The best are known only when all configs are done, so a second call may find more.
    """
    space = landscape_space()
    indices = design(space)
    jobs = [Job(task, index) for index in indices for task in tasks]
    jobs += [Job(task, index, PROXY) for index in indices[:N_PROXY] for task in tasks]
    again: list[list[Job]] = []
    for task in tasks:
        rows = [done.get(Job(task, index)) for index in indices]
        if all(row is not None for row in rows):
            values = [float(row["value"]) if row and row["value"] else None for row in rows]
            chosen = repeated(indices, values)
            best = chosen[: len(chosen) // 2]
            own = [Job(task, i, 1.0, s) for i in chosen for s in SEEDS[1:]]
            own += [Job(task, i, PROXY) for i in chosen if i not in indices[:N_PROXY]]
            own += [Job(task, i) for i in near(space, best, indices)]
            again.append(own)
    jobs += [job for turn in zip_longest(*again) for job in turn if job is not None]
    return [job for job in jobs if job not in done]


# -- training ---------------------------------------------------------------------------------------

_objectives: dict[str, TrainingObjective] = {}  # of this process, loaded when first needed


def prepare_process() -> None:
    """One thread a process; the chatter of libraries goes nowhere."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)


def objective(task: LandscapeTask, work: Path = WORK) -> TrainingObjective:
    """The task's trainer, its base model loaded."""
    if task.name not in _objectives:
        config = RunConfig.model_validate(
            {
                "model": str(work / "bases" / task.base),
                "data": {
                    "train": work / "data" / task.name / "train.jsonl",
                    "validation": work / "data" / task.name / "validation.jsonl",
                    "test": work / "data" / task.name / "test.jsonl",
                    "proxy": 1.0,
                    "max_length": 64,
                },
                "device": "cpu",
                "dtype": "float32",
                "threads": 1,
                "training": {"epochs": task.epochs, "micro_batch": 256},
                "scoring": {"metric": task.metric, "max_new_tokens": task.max_new_tokens, "batch_size": 400},
            }
        )
        _objectives[task.name] = TrainingObjective.from_config(config)
    return _objectives[task.name]


def train(job: Job) -> dict[str, Any]:
    """Runs one training and gives its row."""
    task = TASKS[job.task]
    space = landscape_space()
    config = space.config(job.index)
    folder = WORK / "trials" / f"{os.getpid()}"
    outcome = objective(task).run(config, seed=job.seed, folder=folder, fraction=job.fraction)
    shutil.rmtree(folder)
    row: dict[str, Any] = {
        "task": task.name,
        "family": task.base,
        **config,
        "fraction": job.fraction,
        "seed": job.seed,
        "value": "" if outcome.value is None else f"{outcome.value:.6g}",
        "metric": task.metric,
        "failure": "" if outcome.failure is None else str(outcome.failure.kind),
        "seconds": f"{outcome.seconds:.3f}",
    }
    for name, value in outcome.metrics.items():
        if name in COLUMNS:
            row[name] = f"{value:.6g}"
    if "steps" not in row:  # a training that failed tells no metrics
        n = objective(task).size_at(job.fraction)
        seen = round(task.epochs * n)
        row["steps"] = -(-seen // min(int(config["batch_size"]), n))
    if row["failure"] not in ("", "diverged"):
        raise RuntimeError(f"{job}: {outcome.failure}")
    return row


def run(tasks: Sequence[str], jobs: int, minutes: float | None) -> None:
    """Makes base models and data where they are missing, then trains until all is done or time is up."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    for name in tasks:
        task = TASKS[name]
        make_base(BASES[task.base], WORK / "bases" / task.base)
        write_data(task, WORK / "data" / name)
        check_same(task)
    while left := open_jobs(tasks, read_rows(tasks)):
        print(f"{len(left)} trainings to do", flush=True)
        with contextlib.closing(_outcomes(left, jobs)) as rows:
            for number, row in enumerate(rows, 1):
                append_row(row)
                if number % 100 == 0:
                    print(f"{time.strftime('%H:%M:%S')} {number} of {len(left)}", flush=True)
                if time.monotonic() > end:
                    print("time is up")
                    return


def check_same(task: LandscapeTask) -> None:
    """Rows of another base model or other data must not stand beside new ones: leaves with a message."""
    path = RESULTS / "provenance.json"
    stated = json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.exists() else {}
    if task.name not in stated:
        return
    work = objective(task)
    made = {"model_fingerprint": work.base.fingerprint, "data_fingerprint": work.splits.fingerprint}
    for name, fingerprint in made.items():
        if stated[task.name][name] != fingerprint:
            raise SystemExit(
                f"{task.name}: {name} is {fingerprint}, but its rows have {stated[task.name][name]} "
                f"(another machine or other versions); move {RESULTS} and {WORK} away to make all rows anew"
            )


def _outcomes(jobs: Sequence[Job], processes: int) -> Generator[dict[str, Any], None, None]:
    if processes == 1:
        prepare_process()
        yield from map(train, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes, prepare_process) as pool:
        yield from pool.imap_unordered(train, jobs)


# -- rows -------------------------------------------------------------------------------------------


def _rows_file(task: str) -> Path:
    return WORK / "rows" / f"{task}.csv"


def append_row(row: dict[str, Any]) -> None:
    path = _rows_file(row["task"])
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(tasks: Sequence[str]) -> dict[Job, dict[str, str]]:
    """Rows so far. Where there are no work files, those of the packed results."""
    space = landscape_space()
    found = {}
    for task in tasks:
        packed = RESULTS / f"{task}.csv.gz"
        if not _rows_file(task).exists() and packed.exists():
            _rows_file(task).parent.mkdir(parents=True, exist_ok=True)
            _rows_file(task).write_bytes(gzip.decompress(packed.read_bytes()))
        if not _rows_file(task).exists():
            continue
        with _rows_file(task).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if not row["seconds"]:  # the process was ended while it wrote
                    continue
                config = {name: float(row[name]) for name in KNOBS}
                job = Job(task, space.index(config), float(row["fraction"]), int(row["seed"]))
                found[job] = row
    return found


def pack(tasks: Sequence[str]) -> None:
    """Writes the sorted rows, compressed, and how they were made."""
    RESULTS.mkdir(exist_ok=True)
    rows = read_rows(tasks)
    path = RESULTS / "provenance.json"
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"tasks": {}}
    for name in tasks:
        own = sorted((j for j in rows if j.task == name), key=lambda j: (-j.fraction, j.seed, j.index))
        if not own:
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[job] for job in own)
        content = gzip.compress(text.getvalue().encode(), 9, mtime=0)
        (RESULTS / f"{name}.csv.gz").write_bytes(content)
        everything["tasks"][name] = _provenance(TASKS[name], [rows[job] for job in own])
    everything |= {
        "program": "benchmarks/landscapes.py",
        "knobs": {knob.name: list(knob.values) for knob in landscape_space()},
        "proxy": PROXY,
        "design": {
            "sequence": "scrambled Sobol",
            "seed": DESIGN_SEED,
            "n_configs": N_CONFIGS,
            "n_near": N_NEAR,
            "indices": ",".join(map(str, design(landscape_space()))),
        },
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name) for name in ("loracle", "torch", "transformers", "peft", "numpy", "scipy")
            },
        },
        "machine": {"processor": _processor(), "threads_per_training": 1},
    }
    write_atomically(path, json.dumps(everything, indent=1) + "\n")


def _provenance(task: LandscapeTask, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    work = objective(task)
    return {
        "skill": task.skill,
        "family": task.base,
        "metric": task.metric,
        "untrained_value": untrained_value(task),
        "baseline_value": max(untrained_value(task), constant_value(task)),
        "n_train": work.n_train,
        "n_validation": len(work.splits.validation),
        "epochs": task.epochs,
        "training": work.config.training.model_dump(mode="json"),
        "data_fingerprint": work.splits.fingerprint,
        "model_fingerprint": work.base.fingerprint,
        "n_parameters": sum(p.numel() for p in work.base.model.parameters()),
        "architecture": work.base.model.config.model_type,
        "width": int(work.base.model.config.hidden_size),
        "layers": int(work.base.model.config.num_hidden_layers),
        "rows": len(rows),
        "rows_by_kind": {
            "full": sum(row["fraction"] == "1.0" and row["seed"] == "0" for row in rows),  # with neighbours
            "proxy": sum(row["fraction"] != "1.0" for row in rows),
            "repeated": sum(row["seed"] != "0" for row in rows),
        },
        "seconds": round(sum(float(row["seconds"]) for row in rows)),
    }


def untrained_value(task: LandscapeTask) -> float:
    """What the base model scores without training."""
    work = objective(task)
    return score(work.base, work.questions["validation"], work.config.scoring).value


def constant_value(task: LandscapeTask) -> float:
    """What always the same answer scores at best; minus infinity for free text, which has no answers."""
    validation = objective(task).questions["validation"]
    if not any(validation.references):
        return float("-inf")
    counts = Counter(validation.references)
    shares = np.array(list(counts.values())) / counts.total()
    if task.metric != "loss":
        return float(shares.max())
    return float((shares * np.log(shares)).sum() / validation.encoded.counts.mean())  # nats a token


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if os.name == "posix" else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def status(tasks: Sequence[str]) -> None:
    """Prints how far each task is, and how its values are spread."""
    rows = read_rows(tasks)
    left = open_jobs(tasks, rows)
    for task in tasks:
        own = {job: row for job, row in rows.items() if job.task == task}
        first = [row for job, row in own.items() if job.fraction == 1.0 and job.seed == 0]
        values = np.array([float(row["value"]) for row in first if row["value"]])
        losses = np.array([float(row["validation_loss"]) for row in first if row["validation_loss"]])
        print(
            f"{task}: {len(first)} configs, {sum(j.fraction != 1 for j in own)} proxies, "
            f"{sum(j.seed != 0 for j in own)} repeats, {sum(j.task == task for j in left)} to do; "
            f"{sum(row['failure'] == 'diverged' for row in first)} diverged, "
            f"{np.mean([float(row['seconds']) for row in own.values()] or [0]):.2f} s each"
        )
        if len(values):
            quantiles = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1)
            print("   value", " ".join(f"{v:.3f}" for v in np.quantile(values, quantiles)), end="")
            print("   loss", " ".join(f"{v:.3f}" for v in np.quantile(losses, quantiles)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="all", choices=["all", *TASKS])
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--minutes", type=float, help="stop after this long; another call goes on")
    parser.add_argument("--status", action="store_true", help="say how far it is, train nothing")
    parser.add_argument("--pack", action="store_true", help="pack what there is, train nothing")
    arguments = parser.parse_args()
    tasks = list(TASKS) if arguments.task == "all" else [arguments.task]
    if arguments.status:
        status(tasks)
        return
    prepare_process()
    if not arguments.pack:
        run(tasks, arguments.jobs, arguments.minutes)
    pack(tasks)


if __name__ == "__main__":
    main()
