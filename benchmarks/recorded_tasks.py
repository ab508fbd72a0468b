"""The tasks of `fidelities.py` as searches see them: what a training of each config gave at each fidelity.

A search sees `visible` candidates and, at one fidelity, what `Recorded.outcomes` holds of each: value,
tokens, learning curve and seconds. Its answer is judged by the training on all data (`regret`).

Seconds are not recorded beside fidelities. They are `Pace`: so many for a training, an optimizer step and a
token that is trained on, a third of it for one that is read or written, as a backward pass takes twice a
forward pass. It is fitted, with equal weight for equal ratios, to the seconds of the same trainings in the
tables of `landscapes.py`, which were scored on all items; its median error is a fifth to a quarter.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from fidelities import FRACTIONS, ITEMS, PACKED
from landscape_data import Floats, Landscape, Row, read_rows, row_landscapes
from scipy.optimize import nnls

from loracle.records.curves.curve import Curve
from loracle.records.objective import Report
from loracle.records.sizes import Sizes
from loracle.records.trial import Failure, FailureKind, Outcome, Tokens

ALL = 0  # items: all of them
VISIBLE = 0.7  # share of the candidates that a seed sees
_ROUNDED = 0.03  # a share so small that its examples are rounded

Fidelity = tuple[float, int]  # share of the data, and items that score; ALL: all of them
STANDARD = {"rank": 16, "alpha_ratio": 2, "dropout": 0.05, "batch_size": 16, "learning_rate": 2e-4}


@dataclass(frozen=True)
class Pace:
    """How long trainings of a task take, in seconds.

    Attributes:
        training: each, whatever it trains on.
        step: of the optimizer.
        token: that is trained on.
    """

    training: float
    step: float
    token: float

    def seconds(self, steps: float, trained: float, scoring: float) -> float:
        """Of a training of so many steps and tokens, and of its scoring of so many tokens."""
        return self.training + self.step * steps + self.token * (trained + scoring / 3)


@dataclass(frozen=True)
class Recorded:
    """What trainings of one task gave, by share of the data and items that score.

    Attributes:
        landscape: candidates with their values on all data and all items.
        values: (n,) by (fraction, items); NaN where a training diverged.
        rows: as they were measured, by index and fraction; of many configs there is none on all data.
        n_items: validation items.
        pace: how long trainings take.
    """

    landscape: Landscape
    values: dict[Fidelity, Floats]
    rows: Mapping[int, Mapping[float, Row]]
    n_items: int
    pace: Pace

    @cached_property
    def examples(self) -> dict[float, int]:
        """Training examples of a trial, by fraction."""
        assert self.landscape.n_train is not None
        return {fraction: int(np.ceil(fraction * self.landscape.n_train)) for fraction in FRACTIONS}

    @cached_property
    def trained(self) -> float:
        """Tokens that a training on all data trains on."""
        parts = [row for row in self._scored if float(row["fraction"]) != _ROUNDED]
        return float(np.mean([float(row["trained_tokens"]) / float(row["fraction"]) for row in parts]))

    @property
    def scoring(self) -> float:
        """Tokens that are read and written for scoring all items, in the mean."""
        return self.read + self.written

    @property
    def read(self) -> float:
        """Tokens that are read for scoring all items."""
        return float(self._scored[0]["scored_tokens"])

    @cached_property
    def written(self) -> float:
        """Tokens that are written for scoring all items, with the prompts behind which they are; the mean."""
        return float(np.mean([float(row["generated_tokens"] or 0) for row in self._scored]))

    @cached_property
    def costs(self) -> dict[Fidelity, float]:
        """Of one trial in the mean, in full trainings, by share and items."""
        one = self.trained + self.scoring
        return {
            (fraction, items): (fraction * self.trained + self.part(items) * self.scoring) / one
            for fraction in FRACTIONS
            for items in (*ITEMS, ALL)
        }

    def part(self, items: int) -> float:
        """What share of all items so many are."""
        return items / self.n_items if items else 1.0

    def report(self, fidelity: Fidelity) -> Report:
        """What a run has to know of trials at a fidelity."""
        fraction, items = fidelity
        whole, scored = self.examples[1.0], items or self.n_items
        sizes = Sizes(whole, self.examples[fraction], self.n_items, scored, 0, expected=self.costs[fidelity])
        parameters = self.landscape.parameters
        return Report(sizes=sizes, parameters=None if parameters is None else int(parameters))

    def outcomes(self, fidelity: Fidelity) -> dict[int, Outcome]:
        """What a training of each candidate gave at a fidelity, by index."""
        candidates = self.landscape.candidates.tolist()
        values = self.values[fidelity].tolist()
        return {
            index: self._outcome(index, fidelity, value)
            for index, value in zip(candidates, values, strict=True)
        }

    @cached_property
    def _scored(self) -> list[Row]:
        return [row for by in self.rows.values() for row in by.values() if row["value"]]

    def _outcome(self, index: int, fidelity: Fidelity, value: float) -> Outcome:
        """Tokens are those of the mean trial, as in `costs`: what the first items take is not recorded. They
        are rounded down, so that ten trials of a tenth are no more than one training."""
        fraction, items = fidelity
        row, diverged = self.rows[index].get(fraction, {}), np.isnan(value)
        part = 0.0 if diverged else self.part(items)
        counts = fraction * self.trained, part * self.read, part * self.written
        tokens = Tokens(*map(math.floor, counts), math.ceil(self.trained), math.ceil(self.scoring))
        steps = float(row.get("steps") or self._steps(index, fraction))
        seconds, curve = self.pace.seconds(steps, counts[0], sum(counts[1:])), _curve(row)
        if diverged:
            failure = Failure(FailureKind.DIVERGED, "the training diverged")
            return Outcome(None, tokens.metrics, seconds, failure, curve=curve)
        metrics = tokens.metrics | {"validation_value": value}
        return Outcome(float(value), metrics, seconds, curve=curve)

    def _steps(self, index: int, fraction: float) -> float:
        """Of a training that has no row: as those of a part, and of the same length for each example."""
        of_part = self.rows[index][0.3]
        return float(of_part["steps"] or 0) * fraction / 0.3


def _curve(row: Row) -> Curve | None:
    """As a row has it; None where it has none."""
    if not row.get("curve"):
        return None
    steps, losses = _points(row["curve"])
    return Curve(steps, losses, (), (), (), *_points(row["validation_curve"]))


def _points(text: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    pairs = [point.partition(":") for point in text.split()]
    return tuple(int(step) for step, _, _ in pairs), tuple(float(loss) for _, _, loss in pairs)


@cache
def recorded() -> dict[str, Recorded]:
    """All tasks of `fidelities.py`, by name; candidates are those with a row at each fraction."""
    provenance = json.loads((PACKED.parent / "provenance.json").read_text(encoding="utf-8"))
    found = {}
    for whole in row_landscapes():
        task = whole.name.partition(":")[0]
        with gzip.open(PACKED / f"{task}.csv.gz", "rt", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        by: dict[int, dict[float, Row]] = defaultdict(dict)
        for row in rows:
            index = whole.space.index({name: float(row[name]) for name in whole.space.names})
            by[index][float(row["fraction"])] = row
        known = [i for i in whole.candidates.tolist() if all(f in by[i] for f in FRACTIONS[:-1])]
        candidates = np.array(known, dtype=np.int64)
        full = np.array([whole.value(i) for i in known])
        values = {(1.0, ALL): full}
        for fraction in FRACTIONS[:-1]:
            for items in (*ITEMS, ALL):
                column = f"value_{items}" if items else "value"
                read = [by[i][fraction][column] or "nan" for i in known]
                values[fraction, items] = np.array(read, dtype=float)
        landscape = replace(whole, candidates=candidates, surface=lambda full=full: full)
        n_items = int(provenance["tasks"][task]["n_validation"])
        pace = _pace(whole, by, read_rows(task))
        found[task] = Recorded(landscape, values, dict(by), n_items, pace)
    return found


def _pace(whole: Landscape, rows: Mapping[int, Mapping[float, Row]], timed: Sequence[Row]) -> Pace:
    """Fitted to trainings whose seconds are in one table and whose tokens are in the other."""
    parts, seconds = [], []
    for one in timed:
        index = whole.space.index({name: float(one[name]) for name in whole.space.names})
        row = rows.get(index, {}).get(float(one["fraction"]), {})
        if one["seed"] == "0" and one["value"] and row.get("value"):
            read, written = (float(row[name] or 0) for name in ("scored_tokens", "generated_tokens"))
            parts.append([1.0, float(row["steps"]), float(row["trained_tokens"]) + (read + written) / 3])
            seconds.append(float(one["seconds"]))
    took = np.array(seconds)
    found, _ = nnls(np.array(parts) / took[:, np.newaxis], np.ones(len(took)))
    return Pace(*map(float, found))


def visible(task: Recorded, seed: int) -> Landscape:
    """The landscape of a seed: some of the candidates, the standard settings among them."""
    whole = task.landscape
    n = len(whole.candidates)
    chosen = np.random.default_rng([seed, 23]).choice(n, round(VISIBLE * n), replace=False)
    standard = whole.place(whole.space.index(STANDARD))
    places = np.unique(np.append(chosen, standard))
    return whole.only(places)
