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

Loracle's searches run through the loop of `loracle tune` in virtual time (`simulator.py`); `workers`, another
part, has 1, 2 and 4 trials at a time. `promotion`, a third: a few
trials on few data, then the best of them by the belief once more on more
data, from the start; the best one there is recommended (`search.finalists` where these are all data).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import warnings
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from fidelities import FRACTIONS
from landscape_data import OWN, Landscape, by_config, read_rows, real_landscapes
from other_process import OtherProcess
from recorded_tasks import ALL, STANDARD, Fidelity, Recorded, recorded, visible
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
    unseen_prior,
)
from simulator import Replayed, Simulated, simulate

from loracle.config.settings import NO_DATA, RunConfig, SearchConfig
from loracle.records.events import Event, TrialFinished
from loracle.records.trial import History
from loracle.run.search import Search
from loracle.run.stopping import Budget
from loracle.search.prior import describe, load_prior

RESULTS = Path(__file__).parent / "results" / "cost.json"
LOG = RESULTS.with_suffix(".jsonl")
PROXY, TRIALS, BUDGETS = 0.1, 30, (0.5, 0.8, 1.0, 2.0)
EPOCHS = (1, 3, 9, 27)  # of PASHA, at the recorded shares
REFERENCE = "thorough"
SHORT = {"summary": "30 items, budget 1", "half": "30 items, 5 trials"}  # near the default, and half of it
AT_A_TIME = (1, 2, 4)
REDRAWN = 2000  # bootstrap samples
PROMOTIONS = (
    ((0.1, 30), 5, (0.3, 30), 2),
    ((0.1, 30), 3, (0.3, 30), 2),
    ((0.03, 30), 5, (0.3, 30), 2),
    ((0.03, 30), 10, (0.3, 30), 2),
    ((0.1, 30), 5, (1.0, ALL), 2),
    ((0.1, 30), 10, (1.0, ALL), 3),
)


# -- one search -------------------------------------------------------------------------------------


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
    task: Recorded, landscape: Landscape, method: Method, fidelity: Fidelity, last: int
) -> Iterator[tuple[int, float, int]]:
    """Runs a method at one fidelity; after each trial how many there were, their cost, and examples."""
    told = task.values[fidelity]
    for n in range(1, last + 1):
        index = method.ask()
        value = float(told[task.landscape.place(index)])
        method.tell(index, None if np.isnan(value) else value)
        yield n, n * task.costs[fidelity], n * task.examples[fidelity[0]]


def tuned(
    task: Recorded,
    start: Start,
    fidelity: Fidelity,
    *,
    decades: float | None = None,
    prior: Path | None = None,
    workers: int = 1,
    **limits: Any,
) -> tuple[Simulated, list[int]]:
    """A search as `loracle tune` does it; with what it would recommend after each trial.

    Args:
        task: of which trials are recorded.
        start: its candidates, and the seed.
        fidelity: of trials.
        decades: of data between trials and the training they stand for; None: as the run knows them.
        prior: that it starts from; None: one without the family.
        workers: trials at a time, in virtual time.
        limits: settings of `search`.
    """
    leaders: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished):
            leaders.append((event.recommended or event.trial).index)

    def adjusted(search: Search) -> Search:
        assert search.preset.informed is not None
        known = {"prior": prior or unseen_prior(start)} | ({} if decades is None else {"decades": decades})
        preset = replace(search.preset, surrogate=replace(search.preset.informed, **known))
        return replace(search, space=start.space, preset=preset)

    tables = task.outcomes(fidelity), task.outcomes((1.0, ALL))
    objective = Replayed(start.space, *tables, told=task.report(fidelity))
    with tempfile.TemporaryDirectory() as folder:
        own = SearchConfig(seed=start.seed, **limits)
        config = RunConfig(model="recorded", data=NO_DATA, search=own, output=Path(folder) / "run")
        found = simulate(config, objective, workers=workers, adjusted=adjusted, listen=listen)
    return found, leaders


def affordable(found: Simulated, budget: float) -> int | None:
    """After how many trials a budget ends this search of one worker, which chooses the same until then; None
    where it does not."""
    trials, rule = found.history.trials, Budget(budget)
    numbers = range(1, len(trials) + 1)
    return next((n for n in numbers if rule.overspent(History(trials[:n]), TRIALS)), None)


def ours(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """The default preset at several fidelities, and the prior alone."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    expected = load_prior(unseen_prior(start)).inputs(describe(start.space), landscape.parameters).mean
    yield row("suggest", landscape, int(landscape.candidates[np.argmax(expected)]), 0.0, 0, 0)
    for name, fidelity, last, decades in (
        ("thorough", (PROXY, ALL), TRIALS, None),
        ("100 items", (PROXY, 100), TRIALS, None),
        ("30 items", (PROXY, 30), TRIALS, None),
        ("3 % of the data, 30 items", (0.03, 30), TRIALS, None),
        ("30 % of the data, 100 items", (0.3, 100), TRIALS, None),
        ("taken for all data", (PROXY, ALL), TRIALS, 0.0),
        ("30 items, taken for all data", (PROXY, 30), TRIALS, 0.0),
        ("30 % of the data, 100 items, taken for all data", (0.3, 100), TRIALS, 0.0),
        ("all data", (1.0, ALL), 10, None),
        ("all data, taken for ten times as much", (1.0, ALL), 10, 1.0),
    ):
        found, leaders = tuned(task, start, fidelity, decades=decades, trials=last)
        cost, examples = task.costs[fidelity], task.examples[fidelity[0]]
        ends = {f"{name}, {n} trials": n for n in (3, 5, 10, last) if n < TRIALS}
        ends |= {name: last} if last == TRIALS else {}
        for budget in BUDGETS:
            if cost <= budget and (n := affordable(found, budget)) is not None:
                ends[f"{name}, budget {budget:g}"] = n
        for one, n in ends.items():
            yield row(one, landscape, leaders[n - 1], n * cost, n * examples, n)


def workers(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """The default preset with several trials at a time: what it finds, and how long it takes in virtual time.

    `time`: in trainings on all data with the standard settings, one after the other; `busy`: the share of it
    that a worker trains.
    """
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    whole = task.outcomes((1.0, ALL))[landscape.space.index(STANDARD)].seconds
    for items in (30, 100):
        for at_a_time in AT_A_TIME:
            limits = {"trials": TRIALS, "budget": 1.0}
            found, _ = tuned(task, start, (PROXY, items), workers=at_a_time, **limits)
            n = len(found.history.trials)
            size = n * task.costs[PROXY, items], n * task.examples[PROXY], n
            name = f"{items} items, budget 1, {at_a_time} at a time"
            yield row(name, landscape, found.ranked[0], *size) | {
                "time": round(found.seconds / whole, 4),
                "busy": round(found.busy / (at_a_time * found.seconds), 4),
            }


def promotion(task: Recorded, landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """The default preset on few data, and the best of its trials once more on more data."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    for low, first, high, kept in PROMOTIONS:
        found, _ = tuned(task, start, low, trials=first)
        best = found.ranked[:kept]
        scores = [float(task.values[high][task.landscape.place(index)]) for index in best]
        name = f"{low[0]:.0%}, {low[1]} items, {first} trials, then {high[0]:.0%} for the best {kept}"
        yield row(
            name,
            landscape,
            best[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))],
            first * task.costs[low] + len(best) * task.costs[high],
            first * task.examples[low[0]] + len(best) * task.examples[high[0]],
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
    "workers": (workers,),
}


def _part(method: str) -> str:
    if method.endswith(" at a time"):
        return "workers"
    return "pasha" if method == "pasha" else "promotion" if ", then " in method else "searches"


def _work(job: tuple[str, int, str]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
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


def _several(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of searches with several trials at a time: means over tasks, and what they lose against one."""
    by: dict[str, dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for found in sorted(rows, key=lambda one: (one["task"], one["seed"])):
        if _part(found["method"]) == "workers":
            by[found["method"]][found["task"], found["seed"]] = found
    table = []
    for method, own in by.items():
        alone = by[f"{method.rpartition(', ')[0]}, 1 at a time"]
        lost, ratios = defaultdict(list), defaultdict(list)
        for (task, seed), found in own.items():
            lost[task].append(found["regret"] - alone[task, seed]["regret"])
            ratios[task].append(found["time"] / alone[task, seed]["time"])
        mean, low, high = _interval(lost)
        table.append(
            {
                "method": method,
                "trials": _by_task(own, "trials"),
                "time": _by_task(own, "time"),
                "of_one": float(np.mean([np.mean(found) for found in ratios.values()])),
                "busy": _by_task(own, "busy"),
                "regret": _by_task(own, "regret"),
                "lost": mean,
                "lost_low": low,
                "lost_high": high,
                "lost_by_task": {task: _interval({task: found}) for task, found in lost.items()},
            }
        )
    return table


def _by_task(rows: dict[tuple[str, int], dict[str, Any]], name: str) -> float:
    """The mean over tasks of a number's mean over seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for (task, _), one in rows.items():
        found[task].append(one[name])
    return float(np.mean([np.mean(values) for values in found.values()]))


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
    several = _several(rows)
    for own in several:
        lost = f"{own['lost']:+.3f} ({own['lost_low']:+.3f} to {own['lost_high']:+.3f})"
        shown = f"time {own['time']:.2f} ({own['of_one']:.2f} of one's), busy {own['busy']:.2f}"
        print(f"{own['method']:36} trials {own['trials']:.1f}, {shown}, regret {own['regret']:.3f}, {lost}")
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
        "at_a_time": several,
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
