"""Landscapes with fidelities: trainings of `landscapes.py` on 3, 10, 30 and 100 % of the data, with curves.

    python benchmarks/fidelities.py              # trains what is missing, then packs the results
    python benchmarks/fidelities.py --pack       # packs what there is

Each config is scored on all validation items; a row holds, beside that, the score and the loss on the first
30 and 100 of them, so that a search which scores on fewer items can be replayed, and what the training and
its scoring cost in tokens. Base models, data and configs are those of `landscapes.py`; the configs are the
first 300 of its design and the neighbours of the best. Rows are written as they come, so a second call goes
on where the first was stopped. Work files lie in `build/landscapes`, results in
`benchmarks/landscapes/fidelities`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from landscape_tasks import BASES, TASKS, make_base, write_data
from landscapes import (
    KNOBS,
    N_PROXY,
    RESULTS,
    SEEDS,
    WORK,
    Job,
    check_same,
    design,
    landscape_space,
    objective,
    prepare_process,
    read_rows,
)
from search import about

from loracle.text.files import write_atomically

FRACTIONS = (0.03, 0.1, 0.3, 1.0)
ITEMS = (30, 100)  # first so many validation items, beside all
N_CONFIGS = 300
POINTS = 10  # of a training curve
PACKED = RESULTS / "fidelities"

COLUMNS = (
    "task",
    *KNOBS,
    "fraction",
    "value",
    "loss",
    *(f"{kind}_{n}" for n in ITEMS for kind in ("value", "loss")),
    "failure",
    "steps",
    "trained_tokens",
    "scored_tokens",
    "generated_tokens",
    "curve",
    "validation_curve",
)


def jobs() -> Iterator[Job]:
    """All trainings: the first of the design, the neighbours of the best, the rest of the design."""
    space = landscape_space()
    indices = design(space)
    known = set(indices)
    near = {
        task: [job.index for job in read_rows([task]) if job.fraction == 1.0 and job.index not in known]
        for task in TASKS
    }
    longest = max(map(len, near.values()))
    first = ((task, index) for index in indices[:N_PROXY] for task in TASKS)
    second = ((task, near[task][i]) for i in range(longest) for task in TASKS if i < len(near[task]))
    third = ((task, index) for index in indices[N_PROXY:N_CONFIGS] for task in TASKS)
    parts = list(first), list(second), list(third)
    for fractions in (FRACTIONS[:-1], FRACTIONS[-1:]):  # values on all data are known; only curves are not
        for task, index in chain(*parts):
            for fraction in fractions:
                yield Job(task, index, fraction)


def train(job: Job) -> dict[str, Any]:
    """Runs one training and gives its row."""
    task = TASKS[job.task]
    space, work = landscape_space(), objective(task)
    config = space.config(job.index)
    folder = WORK / "trials" / f"{os.getpid()}"
    outcome = work.run(config, seed=SEEDS[0], folder=folder, fraction=job.fraction)
    if outcome.failure is not None and outcome.failure.kind != "diverged":
        raise RuntimeError(f"{job}: {outcome.failure}")
    row: dict[str, Any] = {"task": task.name, **{name: config[name] for name in KNOBS}}
    row |= {"fraction": job.fraction, "failure": "" if outcome.failure is None else "diverged"}
    curve = outcome.curve
    if curve is not None:
        stride = max(1, len(curve.steps) // POINTS)
        points = list(zip(curve.steps, curve.losses, strict=True))[stride - 1 :: stride]
        validation = zip(curve.validation_steps, curve.validation_losses, strict=True)
        row["curve"] = " ".join(f"{step}:{loss:.4g}" for step, loss in points)
        row["validation_curve"] = " ".join(f"{step}:{loss:.4g}" for step, loss in validation)
        row["steps"], row["trained_tokens"] = curve.steps[-1], curve.tokens[-1]
    if outcome.failure is None:
        row |= _scores(work, folder)
        row |= {"steps": int(outcome.metrics["steps"]), "trained_tokens": int(outcome.metrics["tokens"])}
    shutil.rmtree(folder)
    return row


def _scores(work: Any, folder: Path) -> dict[str, Any]:
    """Score and loss on the first items, and the tokens that scoring took."""
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    counts, losses = [item["tokens"] for item in items], [item["loss"] for item in items]
    row: dict[str, Any] = {}
    for n in (*ITEMS, len(items)):
        suffix = "" if n == len(items) else f"_{n}"
        loss = sum(c * x for c, x in zip(counts[:n], losses[:n], strict=True)) / sum(counts[:n])
        row[f"loss{suffix}"] = f"{loss:.6g}"
        row[f"value{suffix}"] = (
            f"{sum(i['correct'] for i in items[:n]) / n if 'correct' in items[0] else -loss:.6g}"
        )
    encoded = work.questions["validation"].encoded
    row["scored_tokens"] = int(encoded.lengths.sum())
    written = [item["prediction"] for item in items if isinstance(item.get("prediction"), str)]
    if work.config.scoring.metric == "exact_match":
        ids = work.base.tokenizer(written, add_special_tokens=False)["input_ids"]
        row["generated_tokens"] = int(encoded.prompt_lengths.sum()) + sum(1 + len(found) for found in ids)
    return row


def rows_file() -> Path:
    return WORK / "rows" / "fidelities.csv"


def done() -> dict[Job, dict[str, str]]:
    """Rows so far, those that are packed where there are no work files."""
    space, found = landscape_space(), {}
    path = rows_file()
    if not path.exists() and PACKED.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for packed in sorted(PACKED.glob("*.csv.gz")):
                with gzip.open(packed, "rt", newline="", encoding="utf-8") as rows:
                    writer.writerows(csv.DictReader(rows))
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["validation_curve"] is None:  # the process was ended while it wrote
                continue
            index = space.index({name: float(row[name]) for name in KNOBS})
            found[Job(row["task"], index, float(row["fraction"]))] = row
    return found


def run(tasks: Sequence[str]) -> None:
    """Makes base models and data where they are missing, then trains what is missing."""
    for name in tasks:
        make_base(BASES[TASKS[name].base], WORK / "bases" / TASKS[name].base)
        write_data(TASKS[name], WORK / "data" / name)
        check_same(TASKS[name])
    finished = done()
    left = [job for job in jobs() if job not in finished]
    print(f"{len(left)} trainings to do", flush=True)
    new = not rows_file().exists()
    rows_file().parent.mkdir(parents=True, exist_ok=True)
    with rows_file().open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for number, job in enumerate(left, 1):
            writer.writerow(train(job))
            file.flush()
            if number % 200 == 0:
                print(f"{number} of {len(left)}", flush=True)


def pack() -> None:
    """Writes the sorted rows of each task, compressed, and how they were made."""
    PACKED.mkdir(parents=True, exist_ok=True)
    finished, counts = done(), {}
    for task in TASKS:
        own = sorted((job for job in finished if job.task == task), key=lambda job: (job.fraction, job.index))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(finished[job] for job in own)
        (PACKED / f"{task}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
        counts[task] = {
            f"{fraction:g}": sum(job.fraction == fraction for job in own) for fraction in FRACTIONS
        }
        print(f"{task}: {len(own)} rows")
    content = {
        "program": "benchmarks/fidelities.py",
        "about": about("transformers", "peft"),
        "items": ITEMS,
        "rows": counts,
    }
    write_atomically(PACKED / "provenance.json", json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", action="store_true", help="pack what there is, train nothing")
    arguments = parser.parse_args()
    prepare_process()
    if not arguments.pack:
        run(list(TASKS))
    pack()


if __name__ == "__main__":
    main()
