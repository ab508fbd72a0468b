"""How near could an answer come? What hindsight, an oracle, a hand's knowledge and a prior that cheats reach.

    OMP_NUM_THREADS=1 python benchmarks/bounds.py      # five minutes on one core; writes results/bounds.json

Regret: 0 is the best config of a landscape, 1 the median one.

* `one config`: the one answer for all landscapes that is best in hindsight, on the median family, on the
  worst and on the mean; with the learning rate the same for all, and moved by the size of the model by as
  much as is best in hindsight. No answer that knows nothing else of a landscape does better.
* `oracle`: knows what every config of our own trainings is worth without the noise of its seed, tries the
  best so many, and recommends what scored best. Truth is the forest of `landscape_data.py`; scores are drawn
  around it with the noise of repeated trainings, and the best of all of them is what regret is measured from,
  as it is where the trainings themselves are judged.
* `told`: `default` on the tables of others, told what a sweep by hand begins with (`beliefs`: the highest
  rank, learning rates around 3e-4), beside the sweep and `default`; priors without the sweep.
* `seen`: trials on a tenth of the data and 30 items, as in `cost.py`, with the prior that ships, which was
  fitted to these very tasks, beside one without the task's family; and the best config among those that were
  tried, which none but the training on all data tells.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from cost import PROXY, tuned
from expert_methods import USUAL_RATE, HandMethod, nearest_rows
from landscape_data import Floats, Landscape, load_landscapes, own_landscapes, row_landscapes
from recorded_tasks import recorded, visible
from search import about, replayed
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space
from search_report import interval
from suggestions import family_of

from loracle.records.space import Config, UserBeliefs, paper_space, with_alpha
from loracle.search.presets import with_beliefs
from loracle.search.prior import SHIPPED

RESULTS = Path(__file__).parent / "results" / "bounds.json"
POOL = 6000  # configs of the published space, drawn at random
SLOPES = (0.0, 0.1, 0.2, 0.3, 0.4)  # decades of learning rate for ten times as many parameters
REFERENCE_SIZE = 1e8  # whose learning rate is not moved
CLIPPED = 5.0  # regret, so that no landscape alone decides
DRAWS = 500
TRIED = (1, 3, 5, 10, 30)
JUDGED = (3, 5, 8)
TRIALS = (2, 3, 5, 7, 10)


# -- hindsight --------------------------------------------------------------------------------------


def one_config() -> dict[str, Any]:
    """Regret of the best single answers, by what they are best at; a family counts with its mean."""
    space = paper_space()
    pool = np.random.default_rng(0).choice(space.candidates, POOL, replace=False)
    configs = [with_alpha(space.config(int(index))) for index in pool]
    landscapes = load_landscapes(["rows", "real", "table"])
    regrets = np.concatenate([_by_family(landscapes, configs, slope) for slope in SLOPES], axis=1)
    slopes = np.repeat(SLOPES, POOL)
    scores = {"median": np.median(regrets, axis=0), "worst": regrets.max(0), "mean": regrets.mean(0)}
    found: dict[str, Any] = {"families": list(_families(landscapes))}
    for moved, part in (("the same", slopes == 0), ("by size", slopes >= 0)):
        for name, score in scores.items():
            best = int(np.flatnonzero(part)[np.argmin(score[part])])
            found[f"{name}, {moved}"] = {
                "config": dict(configs[best % POOL]),
                "decades": float(slopes[best]),
                **{other: round(float(values[best]), 3) for other, values in scores.items()},
            }
    return found


def _families(landscapes: Sequence[Landscape]) -> dict[str, list[Landscape]]:
    groups: dict[str, list[Landscape]] = defaultdict(list)
    for landscape in landscapes:
        groups[family_of(landscape)].append(landscape)
    return groups


def _by_family(landscapes: Sequence[Landscape], configs: Sequence[Config], slope: float) -> Floats:
    """Regret in each family, (families, configs), the learning rate moved by the size of the model."""
    return np.array(
        [
            np.mean([_regrets(one, configs, slope) for one in group], axis=0)
            for group in _families(landscapes).values()
        ]
    )


def _regrets(landscape: Landscape, configs: Sequence[Config], slope: float) -> Floats:
    """Of the candidate that is nearest to each config, (n,)."""
    decades = -slope * np.log10((landscape.parameters or REFERENCE_SIZE) / REFERENCE_SIZE)
    moved = [{**one, "learning_rate": float(one["learning_rate"]) * 10**decades} for one in configs]
    return np.minimum(landscape.regrets[nearest_rows(table_space(landscape), moved)], CLIPPED)


# -- an oracle --------------------------------------------------------------------------------------


def oracle() -> dict[str, dict[int, float]]:
    """Regret of the best score among the truly best configs, by task and how many are tried."""
    surfaces = {landscape.name: landscape for landscape in own_landscapes()}
    random = np.random.default_rng(0)
    found = {}
    for rows in row_landscapes():
        task = rows.name.partition(":")[0]
        truth = np.array([surfaces[task].value(int(index)) for index in rows.candidates])
        truth = np.sort(truth[np.isfinite(truth)])[::-1]
        scores = truth + random.normal(0, rows.noise_sd, (DRAWS, len(truth)))
        best, median = scores.max(axis=1), np.median(scores, axis=1)
        found[task] = {
            n: round(float(np.mean((best - scores[:, :n].max(axis=1)) / (best - median))), 4) for n in TRIED
        }
    return found


# -- what a hand knows ------------------------------------------------------------------------------


def told(seeds: int) -> list[dict[str, Any]]:
    """Regret on the tables of others after few trials, and its difference from that of a sweep by hand."""
    by: dict[str, dict[str, list[dict[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for landscape in load_landscapes(["table"]):
        ranks = table_space(landscape).values(landscape.candidates).get("rank")
        words = {"learning_rate": f"around {USUAL_RATE}"}
        if ranks is not None and ranks.min() < ranks.max():
            words["rank"] = f"at least {ranks.max():g}"
        for seed in range(seeds):
            start = Start(landscape, table_space(landscape), FACTORY, seed)
            preset = ensemble(start)
            for name, method in (
                ("default", LoracleMethod(start, preset)),
                ("default, told", LoracleMethod(start, with_beliefs(preset, UserBeliefs.of(words)))),
                ("hand", HandMethod(start)),
            ):
                by[name][landscape.name].append(replayed(landscape, method, seed, JUDGED))
    found = []
    for name, landscapes in by.items():
        for n in JUDGED:
            level = [np.array([one[n] for one in own]) for own in landscapes.values()]
            less = [
                np.array([one[n] - other[n] for one, other in zip(own, by["hand"][key], strict=True)])
                for key, own in landscapes.items()
            ]
            mean, low, high = interval(less)
            row = {"difference": mean, "low": low, "high": high}
            regret = float(np.mean([one.mean() for one in level]))
            plain = {key: round(value, 4) for key, value in (row | {"regret": regret}).items()}
            found.append({"method": name, "trials": n, **plain})
    return found


# -- a prior that has seen the task -----------------------------------------------------------------


def seen(seeds: int) -> list[dict[str, Any]]:
    """Regret on all data of what is recommended after small trials, and of the best among those tried."""
    by: dict[tuple[str, int], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for task_name, task in recorded().items():
        for seed in range(seeds):
            landscape = visible(task, seed)
            start = Start(landscape, table_space(landscape), FACTORY, seed)
            regrets = dict(zip(landscape.candidates.tolist(), landscape.regrets.tolist(), strict=True))
            for name, prior in (("without the family", None), ("has seen the task", SHIPPED)):
                found, leaders = tuned(task, start, (PROXY, 30), prior=prior, trials=max(TRIALS))
                tried = [regrets[trial.index] for trial in found.history.trials]
                for n in TRIALS:
                    by[name, n][task_name].append((regrets[leaders[n - 1]], min(tried[:n])))
    rows = []
    for (name, n), tasks in by.items():
        means = {task: np.mean(found, axis=0) for task, found in tasks.items()}
        recommended, best = np.mean(list(means.values()), axis=0)
        rows.append(
            {
                "prior": name,
                "trials": n,
                "recommended": round(float(recommended), 4),
                "best tried": round(float(best), 4),
                "by task": {task: round(float(mean[0]), 4) for task, mean in means.items()},
            }
        )
    return rows


def show(content: dict[str, Any]) -> None:
    """Prints what was found."""
    for name, own in content["one config"].items():
        if name != "families":
            numbers = f"median {own['median']:.3f}, worst {own['worst']:.3f}, mean {own['mean']:.3f}"
            print(f"one config, best {name}: {numbers}, {own['decades']} decades, {own['config']}")
    tasks = content["oracle"].values()
    print("oracle:", {n: round(float(np.mean([task[n] for task in tasks])), 4) for n in TRIED})
    for row in content["told"]:
        less = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        print(f"{row['method']:14} {row['trials']} trials: {row['regret']:.3f}, less hand {less}")
    for row in content["seen"]:
        numbers = f"recommended {row['recommended']:.3f}, best tried {row['best tried']:.3f}"
        print(f"prior {row['prior']}, {row['trials']} trials: {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    content = {
        "about": about(),
        "seeds": seeds,
        "one config": one_config(),
        "oracle": oracle(),
        "told": told(seeds),
        "seen": seen(seeds),
    }
    show(content)
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
