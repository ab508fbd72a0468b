"""What does a search cost, and what is it worth on all data? Replays at the fidelities that were recorded.

    OMP_NUM_THREADS=1 python benchmarks/cost.py run --seeds 20     # a quarter of an hour on one core
    python benchmarks/cost.py show

Candidates are the configs of `fidelities.py`; a seed hides three tenths of them. A trial trains on a share of
the data and is scored on so many validation items, and tells what that training told; the config that is
recommended is judged by its training on all data (normalised regret: 0 is the best candidate, 1 the median).
The cost is in full trainings, as in `loracle/report/findings/search_cost.py`: tokens trained on, read and
generated, over those of one training on all data, scored on all items. Priors have not seen the family.

`taken for all data`: a score on a part counts as the score on all of it, as before the deviation of
`loracle/search/ensemble.py`; `all data, taken for ten times as much` is the control: there mistrust is wrong.
`thorough`: the default preset, 30 trials on 10 % of the data, scored on all items. `items`: the same, scored
on the first so many. `budget`: ends before it costs more than so many full trainings (`search.budget`).
`suggest`: no trial, the config that the prior expects most of. `all data`: each trial is a full training.
Peers: random and TPE with 10 or 3 random trials, as `thorough`; and Optuna's pruners of successive halving
(ASHA) and Hyperband with TPE on 3, 10, 30 and 100 %, charged as if a training went on where it was stopped.
`pasha`: Syne Tune's, in an environment of its own (`pasha_process.py`), 30 configs drawn at random. It wants
a score after each of 27 epochs, so that its rungs are at those shares; between them scores are interpolated
over the logarithm of the share, and not charged for. Added to what is there by

    LORACLE_SYNE_TUNE=.../bin/python python benchmarks/cost.py run --seeds 20 --part pasha

`promotion`, another part: a few trials on few data, then the best of them by the belief once more on more
data, from the start; the best one there is recommended (`search.finalists` where these are all data).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import multiprocessing
import warnings
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from fidelities import FRACTIONS, ITEMS, PACKED
from landscape_data import OWN, Floats, Landscape, by_config, read_rows, real_landscapes, row_landscapes
from other_process import OtherProcess
from scipy.stats import spearmanr
from search import about, regret
from search_methods import (
    FACTORY,
    LoracleMethod,
    Method,
    Start,
    ensemble,
    methods,
    prior_tasks,
    table_space,
)

from loracle.search.prior import describe, load_prior

RESULTS = Path(__file__).parent / "results" / "cost.json"
LOG = RESULTS.with_suffix(".jsonl")
VISIBLE = 0.7  # share of the candidates that a seed sees
PROXY, TRIALS, BUDGETS = 0.1, 30, (0.5, 0.8, 1.0, 2.0)
ALL = 0  # items: all of them
EPOCHS = (1, 3, 9, 27)  # of PASHA, at the recorded shares
REFERENCE = "thorough"
SHORT = {"summary": "30 items, budget 1", "half": "30 items, 5 trials"}  # near the default, and half of it
REDRAWN = 2000  # bootstrap samples
PROMOTIONS = (
    ((0.1, 30), 5, (0.3, 30), 2),
    ((0.1, 30), 3, (0.3, 30), 2),
    ((0.03, 30), 5, (0.3, 30), 2),
    ((0.03, 30), 10, (0.3, 30), 2),
    ((0.1, 30), 5, (1.0, ALL), 2),
    ((0.1, 30), 10, (1.0, ALL), 3),
)


@dataclass(frozen=True)
class Recorded:
    """What trainings of one task gave, by share of the data and items that score.

    Attributes:
        landscape: candidates with their values on all data and all items.
        values: (n,) by (fraction, items); NaN where a training diverged.
        costs: of one trial, in full trainings, by the same.
        examples: of one trial, by fraction.
    """

    landscape: Landscape
    values: dict[tuple[float, int], Floats]
    costs: dict[tuple[float, int], float]
    examples: dict[float, int]


@cache
def recorded() -> dict[str, Recorded]:
    """All tasks of `fidelities.py`, by name; candidates are those with a row at each fraction."""
    found = {}
    for whole in row_landscapes():
        task = whole.name.partition(":")[0]
        with gzip.open(PACKED / f"{task}.csv.gz", "rt", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        by: dict[int, dict[float, dict[str, str]]] = defaultdict(dict)
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
        found[task] = Recorded(landscape, values, _costs(task, whole, rows), _examples(whole))
    return found


def _examples(landscape: Landscape) -> dict[float, int]:
    assert landscape.n_train is not None
    return {fraction: int(np.ceil(fraction * landscape.n_train)) for fraction in FRACTIONS}


def _costs(task: str, landscape: Landscape, rows: Sequence[dict[str, str]]) -> dict[tuple[float, int], float]:
    """Tokens of a trial over those of a full training; what is written is the mean of all trainings."""
    scored = [row for row in rows if row["value"]]
    trained = np.mean(
        [float(r["trained_tokens"]) / float(r["fraction"]) for r in scored if r["fraction"] != "0.03"]
    )
    generated = np.mean([float(row["generated_tokens"] or 0) for row in scored])
    scoring = float(scored[0]["scored_tokens"]) + float(generated)
    n_items = _n_items(task)
    costs = {}
    for fraction in FRACTIONS:
        for items in (*ITEMS, ALL):
            share = items / n_items if items else 1.0
            costs[fraction, items] = float((fraction * trained + share * scoring) / (trained + scoring))
    return costs


@cache
def _n_items(task: str) -> int:
    provenance = json.loads((PACKED.parent / "provenance.json").read_text(encoding="utf-8"))
    return int(provenance["tasks"][task]["n_validation"])


# -- one search -------------------------------------------------------------------------------------


def visible(task: Recorded, seed: int) -> Landscape:
    """The landscape of a seed: some of the candidates, the standard settings among them."""
    whole = task.landscape
    n = len(whole.candidates)
    chosen = np.random.default_rng([seed, 23]).choice(n, round(VISIBLE * n), replace=False)
    standard = whole.place(
        whole.space.index(
            {"rank": 16, "alpha_ratio": 2, "dropout": 0.05, "batch_size": 16, "learning_rate": 2e-4}
        )
    )
    places = np.unique(np.append(chosen, standard))
    return whole.only(places)


def row(
    method: str, landscape: Landscape, index: int, cost: float, examples: int, trials: int
) -> dict[str, Any]:
    return {
        "method": method,
        "regret": round(regret(landscape, index), 5),
        "cost": round(cost, 4),
        "examples": examples,
        "trials": trials,
    }


def follow(
    task: Recorded, landscape: Landscape, method: Method, fidelity: tuple[float, int], last: int
) -> Iterator[tuple[int, float, int]]:
    """Runs a method at one fidelity; after each trial how many there were, their cost, and examples."""
    told = task.values[fidelity]
    for n in range(1, last + 1):
        index = method.ask()
        value = float(told[task.landscape.place(index)])
        method.tell(index, None if np.isnan(value) else value)
        yield n, n * task.costs[fidelity], n * task.examples[fidelity[0]]


def ours(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """The default preset at several fidelities, and the prior alone."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    preset = ensemble(start)
    assert preset.informed is not None
    assert preset.informed.prior is not None
    expected = load_prior(preset.informed.prior).inputs(describe(start.space), landscape.parameters).mean
    yield row("suggest", landscape, int(landscape.candidates[np.argmax(expected)]), 0.0, 0, 0)
    for name, fidelity, last, believed in (
        ("thorough", (PROXY, ALL), TRIALS, True),
        ("100 items", (PROXY, 100), TRIALS, True),
        ("30 items", (PROXY, 30), TRIALS, True),
        ("3 % of the data, 30 items", (0.03, 30), TRIALS, True),
        ("30 % of the data, 100 items", (0.3, 100), TRIALS, True),
        ("taken for all data", (PROXY, ALL), TRIALS, False),
        ("30 items, taken for all data", (PROXY, 30), TRIALS, False),
        ("30 % of the data, 100 items, taken for all data", (0.3, 100), TRIALS, False),
        ("all data", (1.0, ALL), 10, False),
        ("all data, taken for ten times as much", (1.0, ALL), 10, True),
    ):
        decades = 0.0 if not believed else 1.0 if fidelity[0] == 1.0 else -float(np.log10(fidelity[0]))
        method = LoracleMethod(start, ensemble(start, decades=decades))
        budgets = [budget for budget in BUDGETS if task.costs[fidelity] <= budget]
        for n, cost, examples in follow(task, landscape, method, fidelity, last):
            best = method.recommend()
            if n in (3, 5, 10, last):
                yield row(
                    name if n == last == TRIALS else f"{name}, {n} trials", landscape, best, cost, examples, n
                )
            while budgets and cost + task.costs[fidelity] > budgets[0]:
                budget = budgets.pop(0)
                yield row(f"{name}, budget {budget:g}", landscape, best, cost, examples, n)


def promotion(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """The default preset on few data, and the best of its trials once more on more data."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    for low, first, high, kept in PROMOTIONS:
        method = LoracleMethod(start, ensemble(start, decades=-float(np.log10(low[0]))))
        *_, (_, cost, examples) = follow(task, landscape, method, low, first)
        best = method.ranked()[:kept]
        scores = [float(task.values[high][task.landscape.place(index)]) for index in best]
        name = f"{low[0]:.0%}, {low[1]} items, {first} trials, then {high[0]:.0%} for the best {kept}"
        yield row(
            name,
            landscape,
            best[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))],
            cost + len(best) * task.costs[high],
            examples + len(best) * task.examples[high[0]],
            first + len(best),
        )


def peers(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """Random search and TPE on the proxy, then Optuna's pruners on all fractions."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    for name in ("random", "tpe", "tpe-3"):
        method = methods([name])[name](start)
        for n, cost, examples in follow(task, landscape, method, (PROXY, ALL), TRIALS):
            if n in (10, TRIALS):
                yield row(f"{name}, {n} trials", landscape, method.recommend(), cost, examples, n)
    for name, pruner in (
        ("asha", optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=3)),
        ("hyperband", optuna.pruners.HyperbandPruner(min_resource=3, max_resource=100, reduction_factor=3)),
    ):
        yield _pruned(name, task, landscape, pruner, seed)


class Climb:
    """Trainings on rising shares of the data, each of which goes on where it was; all items score. The best
    one at the largest share is recommended."""

    def __init__(self, task: Recorded, landscape: Landscape) -> None:
        self.task, self.landscape = task, landscape
        self.coordinates = landscape.space.coordinates(landscape.candidates)
        self.begun: list[int] = []
        self.cost, self.examples = 0.0, 0
        self.best = (-1.0, -np.inf, int(landscape.candidates[0]))

    def begin(self, positions: Sequence[int]) -> int:
        """The config nearest to what is wanted that has not begun."""
        space, candidates = self.landscape.space, self.landscape.candidates
        wanted = int(np.ravel_multi_index(tuple(positions), space.shape))
        free = np.flatnonzero(~np.isin(candidates, self.begun))
        distance = np.abs(self.coordinates[free] - space.coordinates([wanted])).sum(axis=1)
        self.begun.append(int(candidates[free[np.argmin(distance)]]))
        return self.begun[-1]

    def score(self, index: int, rung: int) -> float:
        """Of a config at a share; NaN: it fails."""
        return float(self.task.values[FRACTIONS[rung], ALL][self.task.landscape.place(index)])

    def go_on(self, index: int, rung: int, done: int | None = None) -> float:
        """The same, charged for what it takes from the share before, or from where `done` rungs are done."""
        done = rung if done is None else done
        task, fraction, before = self.task, FRACTIONS[rung], FRACTIONS[done - 1] if done else 0.0
        self.cost += (fraction - before) * _training(task) + _scoring(task, fraction)
        self.examples += task.examples[fraction] - (task.examples[before] if done else 0)
        value = self.score(index, rung)
        if not np.isnan(value):
            self.best = max(self.best, (fraction, value, index))
        return value

    def row(self, name: str) -> dict[str, Any]:
        return row(name, self.landscape, self.best[2], self.cost, self.examples, TRIALS)


def _pruned(name: str, task: Recorded, landscape: Landscape, pruner: Any, seed: int) -> dict[str, Any]:
    """TPE with a pruner on rising shares of the data."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # HyperbandPruner puts a trial into a bracket by a hash of the study's name, which is random where nobody
    # gives one: rows of `hyperband` that were stored before the name was fixed cannot be had again exactly.
    study = optuna.create_study(
        study_name=f"{name} {landscape.name} {seed}",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=pruner,
    )
    climb = Climb(task, landscape)
    for _ in range(TRIALS):
        trial = study.ask()
        index = climb.begin(
            [trial.suggest_int(knob.name, 0, len(knob.values) - 1) for knob in landscape.space]
        )
        state, value = optuna.trial.TrialState.COMPLETE, np.nan
        for rung, fraction in enumerate(FRACTIONS):
            value = climb.go_on(index, rung)
            if np.isnan(value):
                state = optuna.trial.TrialState.FAIL
                break
            trial.report(value, round(100 * fraction))
            if fraction < 1.0 and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        study.tell(trial, None if state != optuna.trial.TrialState.COMPLETE else value, state=state)
    return climb.row(name)


def pasha(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """PASHA until it asks for another config than the first 30."""
    process = OtherProcess("LORACLE_SYNE_TUNE", "pasha_process.py")
    sizes = [len(knob.values) for knob in landscape.space]
    process.say({"sizes": sizes, "epochs": EPOCHS[-1], "seed": seed})
    climb = Climb(task, landscape)
    begun: dict[int, tuple[int, int]] = {}  # by trial: its config, and its last epoch
    while True:
        process.say({})
        asked = process.hear()
        number = asked["trial"]
        if number not in begun and len(begun) == TRIALS:
            return (yield climb.row("pasha"))
        if number not in begun:
            begun[number] = climb.begin(asked["at"]), 0
        index, epoch = begun[number]
        scores = [climb.score(index, rung) for rung in range(len(FRACTIONS))]
        goes_on = True
        while goes_on:
            epoch += 1
            begun[number] = index, epoch
            if epoch in EPOCHS:
                climb.go_on(index, EPOCHS.index(epoch))
            failed = np.isnan(scores[bisect_left(EPOCHS, epoch)])
            value = None if failed else float(np.interp(np.log(epoch), np.log(EPOCHS), scores))
            process.say({"trial": number, "epoch": epoch, "value": value})
            goes_on = process.hear()


def _scoring(task: Recorded, fraction: float) -> float:
    """What scoring all items costs after a training on such a share."""
    return task.costs[fraction, ALL] - fraction / FRACTIONS[-1] * _training(task)


def _training(task: Recorded) -> float:
    """The share of a full training's cost that is not scoring."""
    return (task.costs[1.0, ALL] - task.costs[PROXY, ALL]) / (1.0 - PROXY)


PARTS: dict[str, tuple[Any, ...]] = {
    "searches": (ours, peers),
    "pasha": (pasha,),
    "promotion": (promotion,),
}


def _part(method: str) -> str:
    return "pasha" if method == "pasha" else "promotion" if ", then " in method else "searches"


def _work(job: tuple[str, int, str]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    name, seed, part = job
    task = recorded()[name]
    landscape = visible(task, seed)
    found = (row for maker in PARTS[part] for row in maker(task, landscape, seed))
    return [{"task": name, "seed": seed, **one} for one in found]


# -- tables -----------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing."""
    known = [found for found in _log() if _part(found["method"]) == arguments.part]
    done = {(found["task"], found["seed"]) for found in known}
    pairs = [(task, seed) for seed in range(arguments.seeds) for task in recorded()]
    jobs = [(*pair, arguments.part) for pair in pairs if pair not in done]
    print(f"{len(jobs)} tasks and seeds to do", flush=True)
    if not LOG.exists():  # in a new clone what is stored is not in it
        LOG.write_text("".join(json.dumps(found) + "\n" for found in _log()))
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool, LOG.open("a") as log:
        for rows in pool.imap_unordered(_work, jobs):
            log.write("".join(json.dumps(found) + "\n" for found in rows))
            log.flush()


def _log() -> list[dict[str, Any]]:
    if LOG.exists():
        return [json.loads(line) for line in LOG.read_text().splitlines()]
    return list(json.loads(RESULTS.read_text())["rows"]) if RESULTS.exists() else []


def _table(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method: regret and cost a task, means with an interval, and the difference to the reference."""
    values: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for found in sorted(rows, key=lambda one: (one["task"], one["seed"])):  # intervals are of this order
        values[found["method"]][found["task"], found["seed"]] = found
    tasks = sorted({found["task"] for found in rows})
    table = {}
    for method, own in values.items():
        regrets = {t: [r["regret"] for (task, _), r in own.items() if task == t] for t in tasks}
        costs = {t: float(np.mean([r["cost"] for (task, _), r in own.items() if task == t])) for t in tasks}
        shared = [key for key in own if key in values[REFERENCE]]
        differences: dict[str, list[float]] = defaultdict(list)
        for key in shared:
            differences[key[0]].append(own[key]["regret"] - values[REFERENCE][key]["regret"])
        spent = np.mean([own[key]["examples"] for key in shared])
        of_reference = np.mean([values[REFERENCE][key]["examples"] for key in shared])
        mean, low, high = _interval(differences)
        table[method] = {
            "regret": float(np.mean([np.mean(r) for r in regrets.values() if r])),
            "by_task": {task: float(np.mean(found)) for task, found in regrets.items() if found},
            "cost_by_task": costs,
            "median_cost": float(np.median(list(costs.values()))),
            "worst_cost": float(max(costs.values())),
            "regret_difference": mean,
            "difference_low": low,
            "difference_high": high,
            "samples_saved": float(1 - spent / of_reference),
            "trials": float(np.mean([r["trials"] for r in own.values()])),
            "by_task_difference": {task: _interval({task: found}) for task, found in differences.items()},
        }
    return table


def _interval(differences: dict[str, list[float]]) -> tuple[float, float, float]:
    """Mean over tasks, and its 95 % interval by drawing seeds anew within each."""
    generator = np.random.default_rng(0)
    arrays = [np.array(found) for found in differences.values()]
    drawn = [
        np.mean([generator.choice(found, len(found)).mean() for found in arrays]) for _ in range(REDRAWN)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([found.mean() for found in arrays])), float(low), float(high)


def correlations() -> dict[str, dict[str, float]]:
    """How well each fidelity ranks the configs as all data do: Spearman's rho, of all and the better half."""
    found: dict[str, dict[str, float]] = {}
    for name, task in recorded().items():
        full = np.nan_to_num(task.landscape.values, nan=-1e9)
        top = full >= np.median(full)
        found[name] = {}
        for (fraction, items), values in task.values.items():
            if fraction < 1.0:
                told = np.nan_to_num(values, nan=-1e9)
                key = f"{fraction:g} of the data, {items or 'all'} items"
                found[name][key] = round(float(spearmanr(told, full)[0]), 3)
                found[name][f"{key}, better half"] = round(float(spearmanr(told[top], full[top])[0]), 3)
    return found


def pretrained() -> dict[str, dict[str, list[float]]]:
    """The model of `benchmarks/real`: mean regret on all data after each trial on a third of them.

    Candidates are the few configs that were trained on both; a search begins with each of them in turn.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for part in real_landscapes():
        rows = read_rows(part.name.partition(":")[2], OWN / "real")
        whole = by_config(part.space, [row for row in rows if float(row["fraction"]) == 1.0])
        candidates = np.array([i for i in part.candidates.tolist() if i in whole], dtype=np.int64)
        full = np.array([whole[i][0] for i in candidates.tolist()])
        few = replace(part, candidates=candidates, surface=lambda full=full: full)
        found[part.name] = {}
        for name, decades in (("a part for all", 0.0), ("deviation", float(np.log10(3)))):
            regrets = np.zeros((len(candidates), 10))
            for first, index in enumerate(candidates.tolist()):
                start = Start(few, table_space(few), FACTORY, 0)
                begun = replace(ensemble(start, decades=decades), seed_configs=(few.space.config(index),))
                method = LoracleMethod(start, begun)
                for n in range(regrets.shape[1]):
                    chosen = method.ask()
                    value = part.value(chosen)
                    method.tell(chosen, None if np.isnan(value) else value)
                    regrets[first, n] = regret(few, method.recommend())
            found[part.name][name] = [round(float(mean), 3) for mean in regrets.mean(axis=0)]
    return found


def show(_: argparse.Namespace) -> None:
    """Prints the tables and writes the results."""
    rows = _log()
    table = _table(rows)
    tasks = sorted({found["task"] for found in rows})
    print(
        f"{'method':36} {'cost':>5} {'worst':>5}  {'regret':>6}  less than {REFERENCE} (95 %)    "
        + " ".join(f"{t:>9}" for t in tasks)
    )
    for method, own in sorted(table.items(), key=lambda item: item[1]["median_cost"]):
        ends = (
            f"{own['regret_difference']:+.3f} ({own['difference_low']:+.3f} to {own['difference_high']:+.3f})"
        )
        by = " ".join(f"{own['by_task'].get(task, np.nan):9.3f}" for task in tasks)
        costs = f"{own['median_cost']:5.2f} {own['worst_cost']:5.2f}"
        print(f"{method:36} {costs}  {own['regret']:6.3f}  {ends:28} {by}")
    known = correlations()
    for name, own in known.items():
        print(name, " ".join(f"{key}: {value:.2f}" for key, value in own.items() if "all items" in key))
    names = (
        "median_cost",
        "worst_cost",
        "regret_difference",
        "difference_low",
        "difference_high",
        "samples_saved",
    )
    short = {
        part: {"method": method, "against": REFERENCE}
        | {name: table[method][name] for name in (*names, "by_task_difference")}
        for part, method in SHORT.items()
    }
    content = {
        "about": about("optuna", "scipy") | {"prior_tasks": prior_tasks()},
        **short,
        "methods": table,
        "correlations": known,
        "pretrained": pretrained(),
        "candidates": {name: len(task.landscape.candidates) for name, task in recorded().items()},
    }
    lines = ",\n".join(
        json.dumps(found, separators=(",", ":"))
        for found in sorted(rows, key=lambda r: (r["task"], r["seed"], r["method"]))
    )
    head = json.dumps(content)[:-1]
    RESULTS.write_text(f'{head},\n"rows": [\n{lines}\n]}}\n')


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--seeds", type=int, default=20)
    runner.add_argument("--jobs", type=int, default=1)
    runner.add_argument("--part", choices=PARTS, default="searches", help="to add to what is there")
    runner.set_defaults(action=run)
    commands.add_parser("show").set_defaults(action=show)
    arguments = parser.parse_args(given)
    arguments.action(arguments)


if __name__ == "__main__":
    main()
