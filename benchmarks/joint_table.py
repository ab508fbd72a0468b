"""Makes `loracle-landscapes.csv.gz`, the one table of all trainings in `landscapes/`.

    python benchmarks/joint_table.py            # writes it
    python benchmarks/joint_table.py --check    # exit status 1 where it is not what the files here make

Every row is a training; `loracle_landscapes.COLUMNS` says what the columns are, `landscapes/README.md` where
the rows are from. Tables of others are no part of it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loracle_landscapes import COLUMNS, TABLE, TEXTS

HERE = Path(__file__).parent
FOLDER = HERE / "landscapes"
DEMO = HERE.parent / "loracle" / "demo"
LORA = {"targets": "all-linear", "variant": "lora", "schedule": "cosine"}

Row = dict[str, Any]


def rows() -> Iterator[Row]:
    """Rows of all parts; cells are text or numbers, empty where nothing is known."""
    for part in (own, fidelities, real, names, contexts):
        for row in part():
            yield {"part": part.__name__, "origin": "design", **LORA, **row}


def own() -> Iterator[Row]:
    """Trainings of `landscapes.py`: all data or a tenth of it, up to three seeds."""
    for task, about in provenance("provenance.json")["tasks"].items():
        for row in read(FOLDER / f"{task}.csv.gz"):
            yield {**context(task, about), **taken(row), "loss": row["validation_loss"]}


def fidelities() -> Iterator[Row]:
    """Trainings of `fidelities.py`: the same tasks on 3, 10, 30 and 100 % of the data."""
    tasks = provenance("provenance.json")["tasks"]
    for path in sorted((FOLDER / "fidelities").glob("*.csv.gz")):
        task = path.name.partition(".")[0]
        for row in read(path):
            counts = {f"score_{n}": row[f"value_{n}"] for n in (30, 100)}
            yield {
                **context(task, tasks[task]),
                **taken(row),
                **counts,
                "metric": tasks[task]["metric"],
                "seed": 0,
            }


def real() -> Iterator[Row]:
    """Trainings of a pretrained model, on a third of the data or all of it (`real/programme.py`)."""
    for task, about in provenance("real/provenance.json")["tasks"].items():
        for row in read(FOLDER / "real" / f"{task}.csv.gz"):
            curve = " ".join(f"{i}:{loss}" for i, loss in enumerate(row["curve"].split(), 1))
            yield {
                **taken(row),
                "landscape": f"real-{task}",
                "family": "gemma-3-270m",
                "base_model": "gemma-3-270m",
                "architecture": "gemma3_text",
                "parameters": 2.68e8,
                "width": 640,
                "depth": 18,
                "task": about["skill"],
                "examples": about["n_train"],
                "epochs": 1,
                "loss": row["validation_loss"],
                "trained_tokens": row["tokens"],
                "curve": curve,
                "origin": "design" if row["origin"] == "spread" else row["origin"],
            }


def names() -> Iterator[Row]:
    """Trainings of the demo's model over targets, variants and schedules (`named_knobs.py`)."""
    config = json.loads((DEMO / "base" / "config.json").read_text(encoding="utf-8"))
    for row in read(FOLDER / "names.csv"):
        yield {
            **taken(row),
            "landscape": "names",
            "family": "loracle-demo",
            "base_model": "loracle-demo",
            "architecture": config["model_type"],
            "parameters": weights_of(DEMO / "base" / "model.safetensors"),
            "width": config["hidden_size"],
            "depth": config["num_hidden_layers"],
            "task": "the demo's",
            "examples": 400,
            "epochs": 1,
            "fidelity": 1.0,
            "seed": 0,
            "metric": "loss",
            "score": negative(row["loss"]),
            "failure": "" if row["loss"] else "diverged",
        }


def contexts() -> Iterator[Row]:
    """Trainings of `contexts.py`: other sizes of models, amounts of data, lengths."""
    path = FOLDER / "contexts.csv.gz"
    for row in read(path) if path.exists() else ():
        family = row["base"].rpartition("-")[0]
        base = {
            "base_model": row["base"],
            "family": family,
            "architecture": {"sorting": "llama", "carrying": "gpt2", "code": "gpt_neox"}[row["task"]],
        }
        name = f"{row['base']}-{row['examples']}x{row['epochs']}-{row['length']}"
        yield {**taken(row), **base, "landscape": name, "fidelity": 1.0, "seed": 0}


def context(task: str, about: Row) -> Row:
    """What holds for all rows of a task."""
    return {
        "landscape": task,
        "family": about["family"],
        "base_model": about["family"],
        "architecture": about["architecture"],
        "parameters": about["n_parameters"],
        "width": about["width"],
        "depth": about["layers"],
        "task": about["skill"],
        "examples": about["n_train"],
        "epochs": about["epochs"],
    }


def taken(row: Row) -> Row:
    """The cells of a row that have the table's names, and those that have had another."""
    found = {name: text for name, text in row.items() if name in COLUMNS and name != "task"}
    renamed = {"value": "score", "fraction": "fidelity"}
    found |= {new: row[old] for old, new in renamed.items() if old in row}
    found.setdefault("alpha", f"{float(row['alpha_ratio']) * float(row['rank']):g}")
    return found


def weights_of(path: Path) -> int:
    """How many weights a file holds, by its head alone."""
    with path.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(one["shape"]) for name, one in head.items() if name != "__metadata__")


def negative(text: str) -> str:
    return f"-{text}" if text else ""


def provenance(name: str) -> Row:
    return dict(json.loads((FOLDER / name).read_text(encoding="utf-8")))


def read(path: Path) -> list[Row]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content() -> bytes:
    """The table, compressed; the same bytes for the same files."""
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(COLUMNS), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows():
        writer.writerow({name: cell(name, value) for name, value in row.items()})
    return gzip.compress(text.getvalue().encode(), 9, mtime=0)


def cell(column: str, value: Any) -> str:
    """A cell's text: numbers as short as they are, whole ones without a point."""
    if column in TEXTS or value == "":
        return str(value)
    return f"{float(value):.10g}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    made = content()
    if parser.parse_args().check:
        if not TABLE.exists() or gzip.decompress(TABLE.read_bytes()) != gzip.decompress(made):
            sys.exit(f"{TABLE} is not what the files beside it make; run benchmarks/joint_table.py")
        return
    TABLE.write_bytes(made)
    print(f"{TABLE}: {len(made):,} bytes, {gzip.decompress(made).count(10) - 1:,} rows")


if __name__ == "__main__":
    main()
