"""Reads `loracle-landscapes`: thousands of measured LoRA trainings in one table. Needs this file and NumPy.

    from loracle_landscapes import load, surfaces

    rows = load()                       # a dictionary a training; `COLUMNS` says what each entry is
    for surface in surfaces(rows):      # what a search could be run on
        print(surface.name, len(surface.scores), surface.configs[surface.scores.argmax()])

The table, `landscapes/loracle-landscapes.csv.gz`, is also read by `pandas.read_csv`. Apache-2.0, as Loracle;
how every part was made is in `landscapes/README.md`. Tables of others can stand beside it
(`load(others=FOLDER)`): they are read in place, with their own licences, and are no part of it.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

TABLE = Path(__file__).parent / "landscapes" / "loracle-landscapes.csv.gz"

# What each column holds. Numbers are float, None where a cell is empty; all else is text.
COLUMNS: Mapping[str, str] = {
    "landscape": "text; the response surface: compare scores within one, and at one fidelity, only",
    "part": "text; own, fidelities, real, names or contexts (landscapes/README.md); others: of no part",
    "family": "text; base model or published sweep: leave all of one out when something is learnt",
    "base_model": "text",
    "architecture": "text; transformers' model_type",
    "parameters": "number of weights of the base model, embeddings included",
    "width": "hidden size",
    "depth": "layers",
    "task": "text; what the adapter learns",
    "length": "text; short or long examples, where a task has both",
    "examples": "training examples of all data",
    "epochs": "passes over the examples of a training",
    "fidelity": "share of the examples that this training saw, 0 to 1",
    "steps": "optimizer steps",
    "trained_tokens": "tokens that the training read, over all passes, without padding",
    "scored_tokens": "tokens read to score all validation items",
    "generated_tokens": "tokens read and written to score by exact match",
    "seed": "of data order, initial adapter and dropout",
    "rank": "of the adapter",
    "alpha_ratio": "alpha / rank",
    "alpha": "alpha",
    "dropout": "probability, on the adapter's input",
    "batch_size": "examples of a step",
    "learning_rate": "highest one; 3 % warm-up, then the schedule",
    "targets": "text; layers with adapters",
    "variant": "text; of LoRA",
    "schedule": "text; of the learning rate",
    "metric": "text; what the score is: exact_match and choice_accuracy (shares of items), loss",
    "score": "on all validation items, larger is better (a loss is negative); empty: the training failed",
    "loss": "nats a token on the validation items",
    "exact_match": "share of the validation items, where it was measured",
    "score_30": "score on the first 30 validation items",
    "loss_30": "loss on them",
    "score_100": "score on the first 100",
    "loss_100": "loss on them",
    "training_loss": "nats a token at the end of the training",
    "first_loss": "nats a token in the first step",
    "failure": "text; diverged, or empty",
    "seconds": "of the training, one thread of a shared machine",
    "origin": "text; what chose the config: design, or a search by its name",
    "curve": "text; training loss as `step:loss`, separated by spaces",
    "validation_curve": "text; validation loss, the same",
}
TEXTS = frozenset(name for name, about in COLUMNS.items() if about.startswith("text"))
KNOBS = ("rank", "alpha_ratio", "dropout", "batch_size", "learning_rate", "targets", "variant", "schedule")

_MANY = 60  # rows; a landscape whose highest fidelity has fewer is taken at a lower one that has them

Row = dict[str, Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """One response surface at one fidelity.

    Attributes:
        name: of the landscape, and the fidelity where it is not 1.
        family: what to leave out together.
        knobs: those that vary, with their values in order.
        configs: n dictionaries of all knobs that are known.
        scores: (n,), means over seeds, larger is better; NaN where the training failed.
        noise: standard deviation over seeds, pooled over the configs of the better half that were repeated;
            0 where there are none.
        context: the other columns, as in the first row.
    """

    name: str
    family: str
    knobs: Mapping[str, Sequence[Any]]
    configs: Sequence[Mapping[str, Any]]
    scores: Floats
    noise: float
    context: Row

    @property
    def regrets(self) -> Floats:
        """0 for the best config, 1 for the median one, (n,); a failure is as bad as the worst.

        NaN where half of the configs are as good as the best: there is nothing to search for.
        """
        scores = np.where(np.isnan(self.scores), np.nanmin(self.scores), self.scores)
        span = scores.max() - np.median(scores)
        return np.asarray((scores.max() - scores) / span if span > 0 else np.full(len(scores), np.nan))


def load(table: Path = TABLE, others: Path | None = None) -> list[Row]:
    """All rows of the table, and of tables of others where their folder is there.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: it is not this table.
    """
    rows = []
    with gzip.open(table, "rt", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != tuple(COLUMNS):
            raise ValueError(f"{table} has other columns than this loader knows; take both from one version")
        rows = [{name: _cell(name, text) for name, text in row.items()} for row in reader]
    if others is not None and others.is_dir():
        for path in sorted(others.glob("*.csv")):
            with path.open(newline="", encoding="utf-8") as plain:
                rows += _others(path.stem, plain)
    return rows


def surfaces(rows: Sequence[Row], *, fidelity: float | None = None, smallest: int = 8) -> list[Surface]:
    """The rows as response surfaces: each landscape at its highest fidelity, or at the one that is given."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["landscape"]].append(row)
    found = []
    for name, own in groups.items():
        wanted = fidelity
        if wanted is None:
            counts = Counter(row["fidelity"] for row in own)
            wanted = max(counts, key=lambda share: (counts[share] >= smallest, counts[share] >= _MANY, share))
        chosen = [row for row in own if row["fidelity"] == wanted]
        if (surface := _surface(name, wanted, chosen)) and len(surface.scores) >= smallest:
            found.append(surface)
    return found


def _surface(name: str, fidelity: float, rows: Sequence[Row]) -> Surface | None:
    seeds: dict[tuple[Any, ...], dict[Any, float]] = defaultdict(dict)
    for row in rows:
        score = np.nan if row["score"] is None else row["score"]
        seeds[tuple(row[knob] for knob in KNOBS)].setdefault(row["seed"], score)
    repeated = [np.array(list(own.values())) for own in seeds.values()]
    means = np.array([np.nan if np.isnan(s).mean() > 0.5 else np.nanmean(s) for s in repeated])
    if not np.isfinite(means).any():
        return None
    spreads = [np.var(s, ddof=1) for s in repeated if len(s) > 1 and s.mean() > np.nanmedian(means)]
    configs = [
        {knob: value for knob, value in zip(KNOBS, key, strict=True) if value not in (None, "")}
        for key in seeds
    ]
    values = {knob: sorted({c[knob] for c in configs if knob in c}) for knob in KNOBS}
    return Surface(
        name if fidelity == 1 else f"{name} at {fidelity:g}",
        rows[0]["family"],
        {knob: found for knob, found in values.items() if len(found) > 1},
        configs,
        means,
        float(np.sqrt(np.mean(spreads))) if spreads else 0.0,
        {column: rows[0][column] for column in COLUMNS if column not in KNOBS},
    )


def _cell(column: str, text: str) -> Any:
    return text if column in TEXTS else float(text) if text else None


def _others(file: str, plain: TextIO) -> list[Row]:
    """Rows of a table of others (`../shared/landscapes/README.md` says what their columns are)."""
    found = []
    for number, given in enumerate(csv.DictReader(plain)):
        row: Row = {name: "" if name in TEXTS else None for name in COLUMNS}
        for name in ("rank", "alpha", "dropout", "batch_size", "learning_rate"):
            row[name] = _cell(name, given[name])
        sign = 1.0 if given["maximize"] == "1" else -1.0
        gone = given["diverged"] == "1" or not given["value"]
        row |= {
            "landscape": f"{given['group']} {given['method']}",
            "part": f"others: {file}",
            "family": file,
            "base_model": given["model"],
            "task": given["task"],
            "fidelity": 1.0,
            "seed": float(number),  # none is stated: repeats of a config are different ones
            "variant": given["method"],
            "metric": given["metric"],
            "score": None if gone else sign * float(given["value"]),
            "failure": "diverged" if gone else "",
        }
        if row["alpha"] is not None and row["rank"]:
            row["alpha_ratio"] = row["alpha"] / row["rank"]
        found.append(row)
    return found
