"""Landscapes to search on: what a config scores, known in advance, from three sources.

* `own`: real trainings of `landscapes.py`. A random forest fitted on the rows stands in for the full grid;
  how well it predicts rows it has not seen is stated (`Landscape.fit`).
* `rows`: the same trainings without a forest: only the configs that were trained can be chosen.
* `real`: trainings of a pretrained model (`benchmarks/real`), without a forest as well.
* `table`: runs measured by others, in `../shared/landscapes` (or `$LORACLE_LANDSCAPES`). Candidates are the
  rows. Read in place, never copied; absent files are left out.
* `synthetic`: formulas with the step-size structure, without it, and with the wrong one.

Values are noise-free and larger is better; NaN marks a config that gives no value.

    python benchmarks/landscape_data.py     # prints what our own rows say, as in README.md
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor  # type: ignore[import-untyped]
from sklearn.model_selection import KFold  # type: ignore[import-untyped]

from loracle.records.space import Knob, SearchSpace, Value, default_space, paper_space

HERE = Path(__file__).parent
OWN = HERE / "landscapes"
TABLES = HERE.parent.parent / "shared" / "landscapes"

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Row = Mapping[str, str]

WASTED_SHARE = 0.05  # of the way from the baseline to the best value: less than this is a wasted trial
FOLDS = 10
TREES = 300
REAL_TASKS, REAL_FAMILY, REAL_PARAMETERS = ("hyphens", "sections"), "gemma-3-270m", 2.68e8
MIN_TABLE = 8  # configs: a smaller table is no search


@dataclass(frozen=True)
class Landscape:
    """One response surface.

    Attributes:
        name: unique.
        family: landscapes of one base model (or one vendor's models) are one family: never train a prior
            on one of them and test it on another.
        source: where it comes from.
        space: the search space.
        candidates: (n,) indices of the configs that have a value, sorted.
        noise_sd: standard deviation of a value over training seeds, in units of the value.
        metric: what the value measures; losses are negative.
        n_train: training examples of a trial; None where it is not known.
        baseline: value without learning, where it is known: that of the base model or of the best constant
            answer, whichever is better.
        surface: computes the values of the candidates; called once, when they are first needed.
        validate: computes how well an emulator predicts rows it has not seen; None for tables and formulas.
        may_train: whether the licence lets a shipped surrogate be fitted on it.
        parameters: of the base model; None: not known, or a formula.
    """

    name: str
    family: str
    source: Literal["own", "rows", "real", "table", "synthetic"]
    space: SearchSpace
    candidates: Indices
    noise_sd: float
    metric: str
    n_train: int | None
    baseline: float | None
    surface: Callable[[], Floats]
    validate: Callable[[], Mapping[str, float]] | None = None
    may_train: bool = False
    parameters: float | None = None

    @cached_property
    def values(self) -> Floats:
        """Noise-free value of each candidate, shape (n,); NaN where a training gives none."""
        return self.surface()

    @cached_property
    def fit(self) -> Mapping[str, float]:
        """The emulator's errors on rows left out, by name; empty where nothing is emulated."""
        return self.validate() if self.validate else {}

    @cached_property
    def wasted(self) -> Flags:
        """Which candidates teach nothing or wreck the model, shape (n,).

        No value, or less than 5 % of the way from the baseline to the best; where the baseline is not known,
        the failures alone.
        """
        values = self.values
        if self.baseline is None:
            return np.isnan(values)
        floor = self.baseline + WASTED_SHARE * (np.nanmax(values) - self.baseline)
        return np.isnan(values) | (values < floor)

    @cached_property
    def regrets(self) -> Floats:
        """Normalised simple regret of each candidate, shape (n,): 0 is the best one, 1 the median one; what
        gives no value is as bad as the worst."""
        values = np.where(np.isnan(self.values), np.nanmin(self.values), self.values)
        return np.asarray((values.max() - values) / (values.max() - np.median(values)))

    def only(self, places: Indices) -> Landscape:
        """The landscape with these of its candidates alone, by where they stand, increasing."""
        values = self.values[places]
        return replace(self, candidates=self.candidates[places], surface=lambda: values)

    def value(self, index: int) -> float:
        """Noise-free value of a config by its index; NaN where it fails. Raises KeyError if unknown."""
        return float(self.values[self.place(index)])

    def place(self, index: int) -> int:
        """Where a config stands among the candidates. Raises KeyError if it is none."""
        place = int(np.searchsorted(self.candidates, index))
        if place == len(self.candidates) or self.candidates[place] != index:
            raise KeyError(index)
        return place


def load_landscapes(sources: Sequence[str] = ("own", "table", "synthetic")) -> list[Landscape]:
    """All landscapes of these sources. Own ones fit their forest only when a value is asked for."""
    makers: dict[str, Callable[[], Iterator[Landscape]]] = {
        "own": own_landscapes,
        "rows": row_landscapes,
        "real": real_landscapes,
        "table": table_landscapes,
        "synthetic": synthetic_landscapes,
    }
    return [landscape for source in sources for landscape in makers[source]()]


# -- our own ----------------------------------------------------------------------------------------


def read_rows(task: str, folder: Path = OWN) -> list[dict[str, str]]:
    """All rows of one task as they were measured."""
    with gzip.open(folder / f"{task}.csv.gz", "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def own_landscapes(folder: Path = OWN) -> Iterator[Landscape]:
    """One landscape a task of `landscapes.py`, over its whole grid."""
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    space = measured_space(provenance["knobs"])
    drawn = [int(index) for index in provenance["design"]["indices"].split(",")]
    for task, about in provenance["tasks"].items():
        rows = read_rows(task, folder)
        full = [row for row in rows if float(row["fraction"]) == 1.0]
        low, floor = about["baseline_value"], about["untrained_value"]
        emulator = Emulator(space, full, floor, drawn)
        yield Landscape(
            name=task,
            family=about["family"],
            source="own",
            space=space,
            candidates=space.candidates,
            noise_sd=seed_noise(full, low),
            metric=about["metric"],
            n_train=about["n_train"],
            baseline=low,
            surface=emulator.values,
            validate=emulator.errors,
            may_train=True,
            parameters=about["n_parameters"],
        )


def real_landscapes(*, spread: bool = False) -> Iterator[Landscape]:
    """One landscape a task that a pretrained model was trained on, on a part of the data.

    Candidates are the configs that were trained: by all searches, or those of the spread design alone.
    """
    space = default_space()
    for task in REAL_TASKS:
        rows = [row for row in read_rows(task, OWN / "real") if float(row["fraction"]) < 1.0]
        found = by_config(space, [row for row in rows if row["origin"] == "spread" or not spread])
        candidates = np.array(sorted(found), dtype=np.int64)
        values = np.array([found[int(index)][0] for index in candidates])  # repeats give the same
        yield Landscape(
            name=f"real:{task}",
            family=REAL_FAMILY,
            source="real",
            space=space,
            candidates=candidates,
            noise_sd=0.0,
            metric=rows[0]["metric"],
            n_train=600,
            baseline=None,
            surface=lambda values=values: values,
            may_train=True,
            parameters=REAL_PARAMETERS,
        )


def row_landscapes(folder: Path = OWN) -> Iterator[Landscape]:
    """One landscape a task: the configs that were trained, as they scored; nothing is emulated."""
    for own in own_landscapes(folder):
        full = [row for row in read_rows(own.name, folder) if float(row["fraction"]) == 1.0]
        found = by_config(own.space, full)
        candidates = np.array(sorted(found), dtype=np.int64)
        values = np.array([_mean(found[int(i)]) for i in candidates])
        yield replace(
            own,
            name=f"{own.name}:rows",
            source="rows",
            candidates=candidates,
            surface=lambda values=values: values,
            validate=None,
        )


def measured_space(knobs: Mapping[str, Sequence[Value]]) -> SearchSpace:
    """The grid that provenance states."""
    scales = {"dropout": "linear", "learning_rate": "log10"}
    return SearchSpace(
        tuple(Knob(name, tuple(values), scales.get(name, "log2")) for name, values in knobs.items())  # type: ignore[arg-type]
    )


def by_config(space: SearchSpace, rows: Sequence[Row]) -> dict[int, list[float]]:
    """Values of each config over seeds, by index; NaN for a training that failed."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        index = space.index({name: float(row[name]) for name in space.names})
        found[index].append(float(row["value"]) if row["value"] else np.nan)
    return dict(found)


def seed_noise(rows: Sequence[Row], baseline: float) -> float:
    """Standard deviation over seeds, pooled over the repeated configs that learnt something."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        if row["value"]:
            key = ("rank", "alpha_ratio", "dropout", "batch_size", "learning_rate")
            groups[tuple(row[name] for name in key)].append(float(row["value"]))
    best = max(max(values) for values in groups.values())
    floor = baseline + WASTED_SHARE * (best - baseline)
    variances = [np.var(v, ddof=1) for v in groups.values() if len(v) > 1 and np.mean(v) > floor]
    return float(np.sqrt(np.mean(variances))) if variances else 0.0


class Emulator:
    """Random forests in place of the full grid: one says whether a training fails, one what it scores.

    Values far below the untrained model's are drawn up: how bad is of no interest. `drawn` are the configs
    drawn evenly: the stated errors are over them, not over those chosen for being near the best.
    """

    def __init__(
        self, space: SearchSpace, rows: Sequence[Row], untrained: float, drawn: Sequence[int]
    ) -> None:
        measured = by_config(space, rows)
        indices = np.array(sorted(measured), dtype=np.int64)
        seeds = [np.array(measured[int(i)]) for i in indices]
        mean = np.array([_mean(values) for values in seeds])
        self._space = space
        self._untrained = untrained
        self._inputs = forest_inputs(space, indices)
        self._failed = np.isnan(mean)
        self._target = np.maximum(mean, untrained - 0.2 * (np.nanmax(mean) - untrained))  # NaN stays
        self._drawn = np.isin(indices, drawn)

    def values(self) -> Floats:
        """Predicted value of every candidate of the space, NaN where failure is likelier than not."""
        grid = forest_inputs(self._space, self._space.candidates)
        return _predict(self._inputs, self._target, self._failed, grid)

    def errors(self) -> dict[str, float]:
        """Errors on rows left out, in ten folds, over the rows that were drawn evenly."""
        x, target, failed = self._inputs, self._target, self._failed
        predicted = np.full(len(x), np.nan)
        for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
            predicted[test] = _predict(x[train], target[train], failed[train], x[test])
        both = self._drawn & ~failed & ~np.isnan(predicted)
        error = predicted - target
        span = float(np.nanmax(target)) - self._untrained
        good = both & (target > self._untrained + 0.5 * span)  # the half that a search is about
        return {
            "r2": 1 - float(np.mean(error[both] ** 2) / np.var(target[both])),
            "mae": float(np.mean(np.abs(error[both]))),
            "mae_of_span": float(np.mean(np.abs(error[both])) / span),
            "spearman": float(spearmanr(predicted[both], target[both]).statistic),
            "spearman_good_half": float(spearmanr(predicted[good], target[good]).statistic),
            "failed_right": float(np.mean((np.isnan(predicted) == failed)[self._drawn])),
            "n_rows": float(len(x)),
        }


def forest_inputs(space: SearchSpace, indices: Indices) -> Floats:
    """What the forests see, shape (n, 10): the knobs, and sums of their logarithms.

    Trees cut along one input at a time, so a diagonal structure needs diagonals among the inputs. With them
    R squared on left-out rows rises from .56-.74 to .73-.93 (README). The sums carry different
    exponents, so that the rows, and not this choice, say which of them matters.
    """
    values = space.values(indices)
    rate, ratio, rank, batch = (
        np.log10(values[name]) for name in ("learning_rate", "alpha_ratio", "rank", "batch_size")
    )
    step = rate + ratio
    sums = (
        step,
        step - batch,
        step + rank,
        step + 0.5 * rank - batch,
        rate + 0.7 * (ratio - batch) + 0.4 * rank,
    )
    return np.column_stack([space.coordinates(indices), *sums])


def _predict(x: Floats, target: Floats, failed: Flags, at: Floats) -> Floats:
    """Predicted values at `at`, NaN where failure is likelier than not; `target` is NaN where failed."""
    regressor = RandomForestRegressor(TREES, min_samples_leaf=1, max_features=0.8, random_state=0)
    regressor.fit(x[~failed], target[~failed])
    values: Floats = regressor.predict(at)
    if failed.sum() >= 5:
        classifier = RandomForestClassifier(TREES, random_state=0).fit(x, failed)
        values[classifier.predict_proba(at)[:, 1] > 0.5] = np.nan
    return values


# -- tables of others -------------------------------------------------------------------------------

_NAMELESS = {"DeepSeek-V3": 671e9, "Kimi-K2": 1e12}  # models whose name does not say their size
_TABLE_NAMES = ("rank", "alpha", "dropout", "batch_size", "learning_rate")
_SCALES = {"rank": "log2", "alpha": "log2", "alpha_ratio": "log2", "batch_size": "log2", "dropout": "linear"}


def table_folder() -> Path:
    """Where the tables of others lie; may be absent."""
    return Path(os.environ.get("LORACLE_LANDSCAPES", TABLES))


def table_landscapes(folder: Path | None = None) -> Iterator[Landscape]:
    """One landscape a group and method of each table; nothing where the folder is absent."""
    for path in sorted((folder or table_folder()).glob("*.csv")):
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                groups[row["group"], row["method"]].append(row)
        for (group, method), rows in groups.items():
            landscape = _table(path.stem, group, method, rows)
            if len(landscape.candidates) >= MIN_TABLE:
                yield landscape


def _table(file: str, group: str, method: str, rows: Sequence[Row]) -> Landscape:
    space = _table_space(rows)
    sign = 1.0 if rows[0]["maximize"] == "1" else -1.0
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        gone = row["diverged"] == "1" or not row["value"]
        config = {name: float(row[name]) for name in _TABLE_NAMES if row[name]}
        known = {name: v for name, v in config.items() if name in space.names or name == "alpha"}
        found[space.index(known)].append(np.nan if gone else sign * float(row["value"]))
    candidates = np.array(sorted(found), dtype=np.int64)
    values = np.array([_mean(found[int(i)]) for i in candidates])
    tinker = file == "tinker_sft"
    vendor = rows[0]["model"].split("/")[0]
    return Landscape(
        name=f"{file}:{group}" if method == "LoRA" else f"{file}:{group}:{method}",
        family=f"tinker:{vendor}" if tinker else group.partition("_")[0],
        source="table",
        space=space,
        candidates=candidates,
        noise_sd=_table_noise(rows, list(found.values())),
        metric=rows[0]["metric"],
        n_train=None,
        baseline=None,
        surface=lambda: values,
        may_train=tinker,  # the one whose licence allows it
        parameters=_parameters(rows[0]["model"]),
    )


def _parameters(model: str) -> float | None:
    """Of a model, from its name; all of them, not the active ones of a mixture of experts."""
    stated = re.search(r"-(\d+(?:\.\d+)?)b(?=-|$)", model, re.IGNORECASE)
    if stated:
        return 1e9 * float(stated.group(1))
    return next((count for name, count in _NAMELESS.items() if name in model), None)


def _table_space(rows: Sequence[Row]) -> SearchSpace:
    """Every value that occurs. alpha / rank is a knob where alpha varies, else alpha is fixed."""
    columns = {name: {float(row[name]) for row in rows if row[name]} for name in _TABLE_NAMES}
    if len(columns["alpha"]) > 1:
        columns["alpha_ratio"] = {float(row["alpha"]) / float(row["rank"]) for row in rows}
        del columns["alpha"]
    order = ("rank", "alpha_ratio", "alpha", "dropout", "batch_size", "learning_rate")
    return SearchSpace(
        tuple(
            Knob(name, tuple(_whole(v) for v in sorted(columns[name])), _SCALES.get(name, "log10"))  # type: ignore[arg-type]
            for name in order
            if columns.get(name)
        )
    )


def _whole(value: float) -> Value:
    return int(value) if value.is_integer() and value >= 1 else value


def _mean(values: npt.ArrayLike) -> float:
    """Mean of the runs that gave a value; NaN if more than half gave none."""
    array = np.asarray(values, dtype=np.float64)
    lost = np.isnan(array)
    return float("nan") if lost.mean() > 0.5 else float(np.mean(array[~lost]))


def _table_noise(rows: Sequence[Row], replicates: Sequence[Sequence[float]]) -> float:
    """From published standard deviations, else from replicates, else 0 (not known)."""
    published = [float(row["std"]) for row in rows if row["std"] and row["diverged"] != "1"]
    if published:
        return float(np.median(published))
    variances = [
        np.var(v, ddof=1) for v in replicates if np.sum(np.isfinite(v)) > 1 and np.all(np.isfinite(v))
    ]
    return float(np.sqrt(np.mean(variances))) if variances else 0.0


# -- synthetic controls -----------------------------------------------------------------------------

Structure = Literal["step", "axis", "wrong"]
NOISES = {"none": 0.0, "low": 0.005, "high": 0.03}  # of a value between 0 and about 1
_N_TRAIN = 10_000


def synthetic_landscapes(seeds: Sequence[int] = (0,)) -> Iterator[Landscape]:
    """Every structure at every noise level, for each seed."""
    structures: tuple[Structure, ...] = ("step", "axis", "wrong")
    for structure in structures:
        for noise in NOISES:
            for seed in seeds:
                yield synthetic(structure, noise, seed)


def synthetic(structure: Structure, noise: str = "none", seed: int = 0) -> Landscape:
    """A formula on the paper's space, with exponents, optimum and bumps drawn by seed.

    `step`: the value depends on a step size, log lr + c log(alpha/rank) + p log rank + q log steps: a slope
    below the optimum, a cliff above, divergence beyond. `wrong`: the same with the signs of alpha/rank and
    of the steps turned over. `axis`: every knob has an optimum of its own; high learning rates diverge.
    """
    space = paper_space()
    return Landscape(
        name=f"synthetic:{structure}:{noise}:{seed}",
        family=f"synthetic:{structure}",
        source="synthetic",
        space=space,
        candidates=space.candidates,
        noise_sd=NOISES[noise],
        metric="score",
        n_train=_N_TRAIN,
        baseline=0.1,
        surface=lambda: _formula(space, structure, seed),
    )


def _formula(space: SearchSpace, structure: Structure, seed: int) -> Floats:
    rng = np.random.default_rng((seed, len(structure)))
    knobs = space.values(space.candidates)
    x = space.coordinates(space.candidates)  # (n, 5) in [0, 1]
    bump_at, bump_width = rng.uniform(0.2, 0.8, 5), rng.uniform(0.3, 0.6, 5)
    bump = np.exp(-0.5 * np.sum(((x - bump_at) / bump_width) ** 2, axis=1))
    if structure == "axis":
        best, width = rng.uniform(0.25, 0.75, 5), rng.uniform(0.25, 0.6, 5)
        width[2] *= 3  # dropout matters least
        shape = np.exp(-0.5 * np.sum(((x - best) / width) ** 2, axis=1))
        diverged = x[:, 4] > best[4] + 0.25
        return np.where(diverged, np.nan, 0.1 + 0.7 * shape + 0.1 * bump)
    turned = -1.0 if structure == "wrong" else 1.0
    c, p, q = rng.normal(0.8, 0.15), rng.normal(0.4, 0.2), rng.normal(0.7, 0.2)
    ratio, rank, steps = (
        np.log10(v) for v in (knobs["alpha_ratio"], knobs["rank"], _N_TRAIN / knobs["batch_size"])
    )
    u = np.log10(knobs["learning_rate"]) + p * rank + turned * (c * ratio + q * steps)
    best_u = np.quantile(u, rng.uniform(0.45, 0.7))  # well inside
    low, high = rng.uniform(0.6, 1.0), rng.uniform(0.3, 0.5)  # decades: a slope below, a cliff above
    shape = np.exp(-0.5 * ((u - best_u) / np.where(u < best_u, low, high)) ** 2)
    capacity = 0.08 * np.minimum(rank / np.log10(64), 1)
    value = 0.1 + shape * (0.6 + capacity + 0.15 * bump - 0.1 * (x[:, 2] - rng.uniform(0, 0.5)) ** 2)
    stability = u - turned * q * steps  # one step's size
    return np.where(stability > np.quantile(stability, 0.93), np.nan, value)


# -- what the rows say ------------------------------------------------------------------------------


def summary(landscape: Landscape) -> dict[str, float | str]:
    """Facts about one of our own landscapes; shares are of the configs that were drawn evenly."""
    provenance = json.loads((OWN / "provenance.json").read_text(encoding="utf-8"))
    drawn = [int(index) for index in provenance["design"]["indices"].split(",")]
    rows = read_rows(landscape.name)
    first = [row for row in rows if row["seed"] == "0"]
    full = by_config(landscape.space, [row for row in first if float(row["fraction"]) == 1.0])
    proxy = by_config(landscape.space, [row for row in first if float(row["fraction"]) != 1.0])
    value = np.array([full[index][0] for index in drawn])
    best = np.nanmax([v[0] for v in full.values()])
    baseline = landscape.baseline or 0.0
    floor = baseline + WASTED_SHARE * (best - baseline)
    both = [i for i in drawn if i in proxy and np.isfinite(full[i][0] + proxy[i][0])]
    x, y = np.array([proxy[i][0] for i in both]), np.array([full[i][0] for i in both])
    even = np.isin(both, drawn[: len(drawn) // 4])  # the proxies drawn evenly, not those of the repeated
    good = y > floor
    return {
        "task": landscape.name,
        "rows": len(rows),
        "best": float(best),
        "standard": full[drawn[0]][0],
        "baseline": baseline,
        "median": float(np.nanmedian(value)),
        "wasted share": float(np.mean(np.isnan(value) | (value < floor))),
        "diverged share": float(np.mean(np.isnan(value))),
        "upper half share": float(np.mean(value > (baseline + best) / 2)),
        "seed SD": landscape.noise_sd,
        "proxy Spearman": float(spearmanr(x[even], y[even]).statistic),
        "same, not wasted": float(spearmanr(x[good], y[good]).statistic),
        **{f"forest {name}": number for name, number in landscape.fit.items()},
        "emulated best": float(np.nanmax(landscape.values)),
        "emulated wasted": float(landscape.wasted.mean()),
    }


def main() -> None:
    facts = [summary(landscape) for landscape in own_landscapes()]
    for name in facts[0]:
        cells = [f"{fact[name]:.4g}" if name != "task" else str(fact[name]) for fact in facts]
        print("| " + " | ".join([name, *cells]) + " |")
        if name == "task":
            print("|---" * (1 + len(facts)) + "|")


if __name__ == "__main__":
    main()
