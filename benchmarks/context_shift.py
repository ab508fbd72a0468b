"""Does the number of examples move the best learning rate, and would the search be better if it knew?

    OMP_NUM_THREADS=1 python benchmarks/context_shift.py optimum    # how far it moves, a minute
    OMP_NUM_THREADS=1 python benchmarks/context_shift.py search     # what knowing it is worth; --seeds 20
    OMP_NUM_THREADS=1 python benchmarks/context_shift.py tables    # the answer for real models, moved by hand
    python benchmarks/context_shift.py show

`optimum`: what a config gives in a context is what it gives in the task's own landscape at another learning
rate. The move that makes the two most alike is fitted to all contexts at once (`landscapes/contexts.csv.gz`
and `landscapes/fidelities`), in decades of learning rate for a decade of examples, epochs, width and depth;
intervals draw contexts anew. `search`: the prior that has not seen the family, as it is; moved along the
learning rate by the number of examples that a training sees, so many decades a decade as were best for the
other families; and, as a control, moved by the number of another context of the family. The answer before
the first trial, and the recommendation of `default` after 3, 5 and 10, on the five own tasks, on 3, 10 and
30 % of their data, on the contexts and on Gemma 3 270M; a seed hides three tenths of the configs. `tables`:
the number of examples of most tables of others is not known, so their answers are moved by hand.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
from landscape_data import (
    OWN,
    Floats,
    Landscape,
    by_config,
    load_landscapes,
    measured_space,
    own_landscapes,
    read_rows,
    real_landscapes,
)
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.stats import norm
from search import about, regret, replayed
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space, unseen_prior
from search_report import interval
from sklearn.gaussian_process import GaussianProcessRegressor  # type: ignore[import-untyped]
from sklearn.gaussian_process.kernels import (  # type: ignore[import-untyped]
    ConstantKernel,
    Matern,
    WhiteKernel,
)
from suggestions import family_of

from loracle.records.space import SearchSpace
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import RATE, describe
from loracle.search.suggestion.answer import worth
from loracle.text.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "context_shift.json"
MOVES = np.arange(-1.6, 1.61, 0.1)  # decades
DRAWN = 400  # of contexts, for intervals
USUAL = 800  # examples that trainings of the small models behind the prior see
RATES = (0.0, 0.1, 0.2, 0.3, 0.4)  # decades of learning rate a decade of examples
CHECKED, HIDDEN = (3, 5, 10), 0.3
SHUFFLES = 5
BY_HAND = (-0.8, -0.4, -0.2, 0.0, 0.2, 0.4)  # decades


# -- how far the optimum moves ----------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    """Trainings in one context: how alike they are to the task's own landscape, moved so far.

    Attributes:
        task: whose own landscape they are compared with.
        numbers: decades of examples, epochs, width and depth beyond the own landscape's, and 1 where long.
        alike: rank correlation for each of `MOVES`; (m,).
    """

    task: str
    numbers: Floats
    alike: Floats


def half_ranks(values: Floats) -> Floats:
    """Values below the median as normal quantiles, as `transform_outputs` makes them."""
    values = np.where(np.isnan(values), np.nanmin(values), values)
    quantiles = norm.ppf((np.argsort(np.argsort(values)) + 0.5) / len(values))
    middle = np.median(values)
    spread = max(1e-9, float(np.std(values[values >= middle])))
    return np.asarray(np.where(values >= middle, (values - middle) / spread, quantiles))


@cache
def own_model(task: str, column: str) -> GaussianProcessRegressor:
    """What configs give on all data of a task, from their numbers."""
    rows = [row for row in read_rows(task) if float(row["fraction"]) == 1.0 and row["seed"] == "0"]
    x, y = _seen(rows, column, "validation_loss")
    keep = np.random.default_rng(0).permutation(len(x))[:400]
    kernel = ConstantKernel(1.0) * Matern([1.0] * 5, nu=2.5) + WhiteKernel(0.1)
    return GaussianProcessRegressor(kernel, normalize_y=True).fit(x[keep], y[keep])


@cache
def _grid() -> tuple[SearchSpace, Floats]:
    provenance = json.loads((OWN / "provenance.json").read_text(encoding="utf-8"))
    space = measured_space(provenance["knobs"])
    return space, describe(space)


def _seen(rows: Sequence[dict[str, str]], column: str, loss: str) -> tuple[Floats, Floats]:
    space, numbers = _grid()
    indices = [space.index({knob: float(row[knob]) for knob in space.names}) for row in rows]
    texts = [row["value"] if column == "score" else row[loss] for row in rows]
    values = np.array([float(text) if text else np.nan for text in texts])
    sign = 1.0 if column == "score" else -1.0
    return numbers[np.searchsorted(space.candidates, indices)], half_ranks(sign * values)


def contexts(column: str) -> Iterator[Context]:
    """All contexts, by their score or their loss."""
    tasks = json.loads((OWN / "provenance.json").read_text(encoding="utf-8"))["tasks"]
    for task in tasks:
        rows = _read(OWN / "fidelities" / f"{task}.csv.gz")
        for share in (0.03, 0.1, 0.3):
            some = [row for row in rows if float(row["fraction"]) == share]
            yield _context(task, column, some, [math.log10(share), 0, 0, 0, 0])
    groups: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in _read(OWN / "contexts.csv.gz"):
        groups[row["task"], row["base"], row["examples"], row["epochs"], row["length"]].append(row)
    for (task, _, examples, epochs, length), rows in groups.items():
        told = tasks[task]
        ratios = (
            float(examples) / told["n_train"],
            float(epochs) / told["epochs"],
            float(rows[0]["width"]) / told["width"],
            float(rows[0]["depth"]) / told["layers"],
        )
        yield _context(task, column, rows, [*map(math.log10, ratios), float(length == "long")])


def _context(task: str, column: str, rows: Sequence[dict[str, str]], numbers: Sequence[float]) -> Context:
    x, y = _seen(rows, column, "loss")
    model, alike = own_model(task, column), []
    for move in MOVES:
        moved = x.copy()
        moved[:, RATE] -= move  # the optimum lies so much higher
        alike.append(np.corrcoef(model.predict(moved), y)[0, 1])
    return Context(task, np.array(numbers), np.array(alike))


def _read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def slopes(found: Sequence[Context], columns: Sequence[int]) -> Floats:
    """Decades of learning rate for a unit of each of these numbers, by the greatest likeness."""
    numbers = np.array([one.numbers[list(columns)] for one in found])

    def unlike(theta: Floats) -> float:
        moves = numbers @ theta
        each = [np.interp(move, MOVES, one.alike) for move, one in zip(moves, found, strict=True)]
        # A correlation r leaves 1 - r^2 of the variance; a small ridge where contexts say nothing.
        return float(-np.sum(np.square(np.clip(each, 0, 1)))) + 0.01 * float(theta @ theta)

    start = np.zeros(len(columns))
    return np.asarray(minimize(unlike, start, method="Nelder-Mead", options={"maxiter": 2000}).x)


def optimum() -> dict[str, Any]:
    """Slopes of all numbers with 95 % intervals, by score and by loss, and of examples for each task."""
    names = ("examples", "epochs", "width", "depth", "long")
    told: dict[str, Any] = {}
    for column in ("score", "loss"):
        found = [one for one in contexts(column) if one.alike.max() > 0.2]  # else nothing was learnt there
        random = np.random.default_rng(0)
        drawn = [
            slopes([found[i] for i in random.integers(len(found), size=len(found))], range(5))
            for _ in range(DRAWN // 4)
        ]
        every = slopes(found, range(5))
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        told[column] = {
            "contexts": len(found),
            "slopes": {
                n: [round(float(v), 3) for v in three]
                for n, *three in zip(names, every, low, high, strict=True)
            },
            "likeness unmoved": round(float(np.mean([np.interp(0, MOVES, o.alike) for o in found])), 3),
            "likeness moved": round(
                float(np.mean([np.interp(o.numbers @ every, MOVES, o.alike) for o in found])), 3
            ),
            "examples by task": {
                task: round(float(slopes([o for o in found if o.task == task], [0])[0]), 3)
                for task in sorted({o.task for o in found})
            },
        }
    return told


# -- what knowing it is worth -----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A landscape, what kind it is, and how many examples a training sees."""

    kind: str
    landscape: Landscape
    seen: float


def places() -> list[Place]:
    """All landscapes of which the number of examples is known."""
    found = []
    own = {one.name: one for one in own_landscapes()}
    tasks = json.loads((OWN / "provenance.json").read_text(encoding="utf-8"))["tasks"]
    for name, one in own.items():
        seen = tasks[name]["n_train"] * tasks[name]["epochs"]
        full = [row for row in read_rows(name) if float(row["fraction"]) == 1.0]
        found.append(Place("own", _tabled(one, full, name, one.noise_sd), seen))
        rows = _read(OWN / "fidelities" / f"{name}.csv.gz")
        for share in (0.03, 0.1, 0.3):
            some = [row for row in rows if float(row["fraction"]) == share]
            found.append(Place("a part", _tabled(one, some, f"{name}:{share:g}", 0.0), share * seen))
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _read(OWN / "contexts.csv.gz"):
        groups[f"{row['base']}:{row['examples']}x{row['epochs']}:{row['length']}"].append(row)
    for name, rows in groups.items():
        like = replace(own[rows[0]["task"]], parameters=float(rows[0]["parameters"]))
        # By their losses: with exact match, half of the contexts are 0 for nearly all of the configs.
        losses = [{**row, "value": f"-{row['loss']}" if row["loss"] else ""} for row in rows]
        seen = float(rows[0]["examples"]) * float(rows[0]["epochs"])
        found.append(Place("contexts", _tabled(like, losses, name, 0.0), seen))
    found += [Place("real", one, 200.0) for one in real_landscapes()]
    return found


def _tabled(like: Landscape, rows: Sequence[dict[str, str]], name: str, noise: float) -> Landscape:
    values = by_config(like.space, rows)
    candidates = np.array(sorted(values), dtype=np.int64)
    means = np.array([float(np.mean(values[int(index)])) for index in candidates])
    return replace(
        like,
        name=name,
        source="rows",
        candidates=candidates,
        noise_sd=noise,
        surface=lambda: means,
        validate=None,
    )


def moved_prior(path: Path, move: float) -> Path:
    """The prior with its optimum so many decades of learning rate higher: a matter of one bias."""
    if round(move, 2) == 0:
        return path
    made = Path(gettempdir()) / f"{path.stem}{round(move, 2):+.2f}.safetensors"
    if not made.exists():
        weights = load_file(path)
        weights["hidden.0.bias"] = weights["hidden.0.bias"] - np.float32(
            round(move, 2)
        ) * np.ascontiguousarray(weights["hidden.0.weight"][:, RATE])
        save_file(weights, made)
    return made


def move_of(seen: float, rate: float) -> float:
    """Decades by which the best learning rate is higher than with the usual number of examples."""
    return -rate * math.log10(seen / USUAL)


def first_answer(place: Place, move: float) -> float:
    """Regret of the answer before the first trial."""
    start = Start(place.landscape, table_space(place.landscape), FACTORY, 0)
    settings = EnsembleSettings(
        prior=moved_prior(unseen_prior(start), move), parameters=place.landscape.parameters
    )
    index = int(start.space.candidates[np.argmax(worth(start.space, settings))])
    return regret(place.landscape, index)


def searched(place: Place, move: float, seed: int) -> list[float]:
    """Regret of the recommendation after each of `CHECKED`, on the configs that the seed does not hide."""
    everything = place.landscape
    n = len(everything.candidates)
    kept = np.sort(np.random.default_rng([seed, 5]).permutation(n)[: round((1 - HIDDEN) * n)])
    landscape = everything.only(kept)
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    preset = ensemble(start)
    assert isinstance(preset.surrogate, EnsembleSettings)
    surrogate = replace(preset.surrogate, prior=moved_prior(unseen_prior(start), move))
    method = LoracleMethod(start, replace(preset, surrogate=surrogate))
    return [round(found, 4) for found in replayed(landscape, method, seed, CHECKED).values()]


def best_rates(zero: dict[tuple[str, float], float], found: Sequence[Place]) -> dict[str, float]:
    """For each family the rate that is best before the first trial for all the other families."""
    best = {}
    for family in {place.landscape.family for place in found}:
        means = []
        for rate in RATES:
            others: dict[str, list[float]] = defaultdict(list)
            for place in found:
                if place.landscape.family != family:
                    others[place.landscape.family].append(zero[place.landscape.name, rate])
            means.append(np.mean([np.mean(regrets) for regrets in others.values()]))
        best[family] = RATES[int(np.argmin(means))]
    return best


def partner(place: Place, found: Sequence[Place], shuffle: int) -> Place:
    """Another context of the same family, whose number of examples the control takes."""
    others = [one for one in found if one.landscape.family == place.landscape.family]
    order = np.random.default_rng([shuffle, 3]).permutation(len(others))
    return others[int(order[others.index(place)])]


def search(seeds: int) -> None:
    """Writes the regrets of all ways."""
    found = places()
    zero = {
        (place.landscape.name, rate): first_answer(place, move_of(place.seen, rate))
        for place in found
        for rate in RATES
    }
    best = best_rates(zero, found)
    print("best for the other families:", best, flush=True)
    rows = []
    for place in found:
        name, rate = place.landscape.name, best[place.landscape.family]
        control = np.mean(
            [
                first_answer(place, move_of(partner(place, found, shuffle).seen, rate))
                for shuffle in range(SHUFFLES)
            ]
        )
        for way, value in (
            ("as it is", zero[name, 0.0]),
            ("moved", zero[name, rate]),
            ("shuffled", float(control)),
        ):
            rows.append(_row(place, way, 0, {"0": round(value, 4)}))
    _store(rows=rows, rates=best)
    for seed in range(seeds):
        for place in found:
            rate = best[place.landscape.family]
            for way, seen in (
                ("as it is", USUAL),
                ("moved", place.seen),
                ("shuffled", partner(place, found, seed).seen),
            ):
                regrets = searched(place, move_of(seen, rate), seed)
                rows.append(_row(place, way, seed, dict(zip(map(str, CHECKED), regrets, strict=True))))
        _store(rows=rows, rates=best)
        print(f"seed {seed}", flush=True)


def tables() -> dict[str, Any]:
    """Regret of the answer before the first trial on real models, by family and decades that it is moved."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for landscape in load_landscapes(["table", "real"]):
        for move in BY_HAND:
            answer = first_answer(Place("table", landscape, USUAL), move)
            found[family_of(landscape)][f"{move:+g}"].append(answer)
    return {
        family: {move: round(float(np.mean(regrets)), 3) for move, regrets in moves.items()}
        for family, moves in found.items()
    }


def _row(place: Place, way: str, seed: int, regrets: dict[str, float]) -> dict[str, Any]:
    one = place.landscape
    told = {"kind": place.kind, "family": one.family, "landscape": one.name, "seen": round(place.seen, 1)}
    return {**told, "way": way, "seed": seed, "regret": regrets}


def _stored() -> dict[str, Any]:
    return dict(json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else {}


def _store(**parts: Any) -> None:
    """Writes these parts of the results, a row a line."""
    content = {**_stored(), "about": about("scipy"), **parts}
    rows = content.pop("rows", [])
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_atomically(RESULTS, f'{json.dumps(content, indent=1)[:-2]},\n "rows": [\n{lines}\n]}}\n')


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of mean regrets and paired differences by kind of landscape."""
    kinds = (*dict.fromkeys(row["kind"] for row in rows), "all")
    head = "| landscapes | trials | as it is | moved | difference (95 %) | shuffled | difference (95 %) |"
    lines = [head, "|---" * 7 + "|"]
    for kind in kinds:
        for n in ("0", *map(str, CHECKED)):
            cells: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
            for row in rows:
                if kind in (row["kind"], "all") and n in row["regret"]:
                    cells[row["way"]][row["landscape"]][row["seed"]] = row["regret"][n]
            if not cells:
                continue
            base = cells["as it is"]
            texts = [f"{np.mean([np.mean(list(one.values())) for one in base.values()]):.3f}"]
            for way in ("moved", "shuffled"):
                texts.append(f"{np.mean([np.mean(list(o.values())) for o in cells[way].values()]):.3f}")
                less = [
                    np.array([value - base[name][seed] for seed, value in own.items()])
                    for name, own in cells[way].items()
                ]
                mean, low, high = interval(less)
                texts.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})")
            lines.append(f"| {kind} ({len(base)}) | {n} | {' | '.join(texts)} |")
    return lines


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("optimum", "search", "tables", "show"))
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.action in ("optimum", "tables"):
        told = optimum() if arguments.action == "optimum" else tables()
        print(json.dumps(told, indent=1))
        _store(**{arguments.action: told})
    elif arguments.action == "search":
        search(arguments.seeds)
    else:
        lines = summary(_stored()["rows"])
        print("\n".join(lines))
        _store(table=lines)


if __name__ == "__main__":
    main()
