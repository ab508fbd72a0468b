"""What a proposal costs, from 50 trials to 1,000, and that its approximation costs no quality.

    OMP_NUM_THREADS=1 python benchmarks/proposals.py cost      # 1,000 trials of a function, 6,300 candidates
    OMP_NUM_THREADS=1 python benchmarks/proposals.py first     # one proposal of a fresh process; a minute
    OMP_NUM_THREADS=1 python benchmarks/proposals.py spaces    # on 45,360 and on 1,000,000 candidates
    OMP_NUM_THREADS=1 python benchmarks/proposals.py regret    # against a fit to all trials; 12 minutes

`cost` runs whole searches, one trial at a time, and states the processor seconds of a proposal: other work on
the machine does not count. The reference in the same run is the arithmetic that no exact posterior at 1,000
trials can do without: one Cholesky factor and one triangular solve for all candidates. `regret` runs the
recorded landscapes with the fit as it is (150 trials, beliefs exact) and with a fit to all trials. `spaces`
states one proposal after 30 trials and the peak memory of its process. All write their part of
`results/proposals.json`.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from loracle.language.features import FixedFeatures
from loracle.records.space import Config, Knob, SearchSpace, paper_space
from loracle.records.trial import History, Outcome, Trial
from loracle.search.optimizer import Optimizer
from loracle.search.optuna_sampler.sampler import LoracleSampler
from loracle.search.presets import PRESETS, EnsembleSettings, Preset
from loracle.search.propose import propose

RESULTS = Path(__file__).parent / "results" / "proposals.json"
AT = (50, 200, 400, 800, 1000)  # trials before a proposal
REPEATS = 5  # proposals that a figure is the mean of
DIMENSION = 3584  # of features, as those of Qwen2-7B
ALL = 10**6  # observations fitted on: all of them

SPACE = SearchSpace(  # 6,300 candidates
    (
        Knob("rank", (4, 8, 16, 32, 64, 128, 256), "log2"),
        Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16), "log2"),
        Knob("dropout", (0.0, 0.05, 0.1)),
        Knob("batch_size", (8, 16, 32, 64, 128), "log2"),
        Knob("learning_rate", (1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 3e-3), "log10"),
    )
)


def score(config: Config, seed: int = 0) -> float:
    """The function that is searched: a ridge in the step size, dropout that does not help, noise."""
    step = math.log10(config["learning_rate"]) + 0.62 * math.log10(config["alpha_ratio"])
    step += 0.45 * math.log10(config["rank"]) - 0.5 * math.log10(config["batch_size"])
    noise = np.random.default_rng([seed, SPACE.index(config)]).normal()
    return float(math.exp(-((step + 3.3) ** 2) / 1.5) - config["dropout"] + 0.02 * noise)


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def reference(n: int = 1000) -> float:
    """Processor seconds of one factor of n trials and one solve for all candidates, the best of three."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    matrix = (-torch.cdist(x, x)).exp() + 0.1 * torch.eye(n, dtype=torch.float64)
    right = torch.rand(n, len(SPACE.candidates), generator=generator, dtype=torch.float64)

    def work() -> None:
        torch.linalg.solve_triangular(torch.linalg.cholesky(matrix), right, upper=False)

    return min(seconds(work) for _ in range(3))


def searched(preset: Preset, trials: int, features: FixedFeatures | None = None) -> dict[str, Any]:
    """A whole search; mean processor seconds of the proposals after so many trials."""
    optimizer = Optimizer(SPACE, preset, features)
    spent = []
    for _ in range(trials + REPEATS):
        began = time.process_time()
        (index,) = optimizer.ask()
        spent.append(time.process_time() - began)
        optimizer.tell(index, score(SPACE.config(index)))
    assert len({trial.index for trial in optimizer.history.trials}) == trials + REPEATS
    best = max(score(SPACE.config(int(index))) for index in SPACE.candidates)
    return {
        "seconds": {n: statistics.mean(spent[n : n + REPEATS]) for n in AT if n <= trials},
        "seconds_in_all": sum(spent),
        "best_found_of_best": max(t.outcome.value for t in optimizer.history.trials if t.outcome) / best,
    }


def history(n: int, seed: int = 1) -> History:
    """So many random trials."""
    rows = np.random.default_rng(seed).choice(SPACE.size, n, replace=False)
    return History(tuple(Trial(i, int(k), Outcome(score(SPACE.config(int(k))))) for i, k in enumerate(rows)))


def single(preset: Preset, sizes: tuple[int, ...], features: FixedFeatures | None = None) -> dict[int, float]:
    """Processor seconds of one proposal after so many random trials, the best of two."""
    preset = replace(preset, seed_configs=())

    def once(n: int, seed: int) -> float:  # another seed: the last fit is kept
        past = history(n)
        return seconds(lambda: propose(SPACE, past, preset, features=features, seed=seed))

    return {n: min(once(n, seed) for seed in range(2)) for n in sizes}


def first(name: str, n: int, seed: int) -> float:
    """Processor seconds of the first proposal that a fresh process makes after n random trials.

    Imports are not counted; threads are as the process was started with.
    """
    code = (
        "from dataclasses import replace; import proposals as p;"
        # What `propose` imports when it needs it.
        "from loracle.search import acquisition, ensemble, outputs;"
        f"past = p.history({n}, {seed}); preset = replace(p.PRESETS[{name!r}], seed_configs=());"
        "print(p.seconds(lambda: p.propose(p.SPACE, past, preset)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(ran.stdout)


def firsts(repeats: int = 5) -> dict[str, Any]:
    """`first` after 1,000 trials, a repeat a history: all figures, and their median in references."""
    unit = reference()
    found = {}
    for name in ("default", "numeric"):
        spent = [first(name, 1000, seed) for seed in range(repeats)]
        found[name] = {
            "seconds": [round(s, 3) for s in spent],
            "median": round(statistics.median(spent), 3),
            "times_the_reference": round(statistics.median(spent) / unit, 2),
        }
        print(name, found[name], flush=True)
    return {"reference_seconds": round(unit, 4), "presets": found}


def million() -> SearchSpace:
    """A space of 1,000,000 candidates: the knobs of the default one on a finer grid."""
    return SearchSpace(
        (
            Knob("rank", tuple(range(1, 21)), "log2"),
            Knob("alpha_ratio", tuple((2.0 ** np.linspace(-2, 4, 10)).tolist()), "log2"),
            Knob("dropout", tuple(np.linspace(0, 0.3, 10).tolist())),
            Knob("batch_size", tuple(2**i for i in range(10)), "log2"),
            Knob("learning_rate", tuple((10.0 ** np.linspace(-6, -2, 50)).tolist()), "log10"),
        )
    )


LARGE = {"45,360": paper_space, "1,000,000": million}


def on_space(name: str) -> None:
    """Prints seconds and bytes of one proposal after 30 random trials, the first of this process."""
    space = LARGE[name]()
    chosen = np.random.default_rng(0).choice(space.candidates, 30, replace=False).tolist()
    values = [-((math.log10(space.config(index)["learning_rate"]) + 3.3) ** 2) for index in chosen]
    told = [
        Trial(n, index, Outcome(value)) for n, (index, value) in enumerate(zip(chosen, values, strict=True))
    ]
    preset = replace(PRESETS["default"], seed_configs=())
    took = seconds(lambda: propose(space, History(tuple(told)), preset))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"candidates": len(space.candidates), "seconds": took, "peak_memory_bytes": peak}))


def spaces(repeats: int = 3) -> dict[str, Any]:
    """`on_space` of fresh processes: the median time, the largest memory."""
    found = {}
    for name in LARGE:
        command = [sys.executable, __file__, "spaces", "--of", name]
        runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(repeats)]
        found[name] = {
            "candidates": runs[0]["candidates"],
            "seconds": [round(run["seconds"], 3) for run in runs],
            "median": round(statistics.median(run["seconds"] for run in runs), 3),
            "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
        }
        print(name, found[name], flush=True)
    return {"trials": 30, "spaces": found}


def sampler(trials: int) -> float:
    """Processor seconds that a trial of an Optuna study takes after so many, the mean of five."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(SPACE, seed=0))
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        knob.name: optuna.distributions.CategoricalDistribution(knob.values) for knob in SPACE
    }
    for trial in history(trials).trials:
        config = SPACE.config(trial.index)
        params = {name: config[name] for name in SPACE.names}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=score(config)))

    def objective(trial: optuna.Trial) -> float:
        return score({knob.name: trial.suggest_categorical(knob.name, knob.values) for knob in SPACE})

    study.optimize(objective, n_trials=1)
    return seconds(lambda: study.optimize(objective, n_trials=REPEATS)) / REPEATS


def cost(trials: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    features = FixedFeatures(torch.randn(len(SPACE.candidates), DIMENSION, generator=generator))
    exact = replace(PRESETS["default"], surrogate=EnsembleSettings(fitted_on=ALL))
    unit = reference()
    found: dict[str, Any] = {
        "default": searched(PRESETS["default"], trials),
        "numeric": searched(PRESETS["numeric"], trials),
        "default, a trial of Optuna": {"seconds": {trials: sampler(trials)}},
        "default, fitted to all": {"seconds": single(exact, (50, 200, 400, 800))},
        "language": {"seconds": single(PRESETS["language"], (30, 50, 200, 400, 1000), features)},
        "paper": {"seconds": single(PRESETS["paper"], (30, 50, 200, 400), features)},
    }
    unit = min(unit, reference())
    for name, row in found.items():
        row["times_the_reference"] = {n: round(s / unit, 2) for n, s in row["seconds"].items()}
        row["seconds"] = {n: round(s, 3) for n, s in row["seconds"].items()}
        print(f"{name:>28}", *(f"{n}: {s:.2f} s ({s / unit:.1f})" for n, s in row["seconds"].items()))
    return {"candidates": len(SPACE.candidates), "reference_seconds": round(unit, 4), "presets": found}


def regret(minutes: float, trials: int, candidates: int, at_a_time: int) -> Iterator[dict[str, Any]]:
    """Regret of the recommended config on the recorded landscapes, with both fits; a row a checkpoint.

    One seed of every landscape, then the next, until the time is over. Both fits see the same part of the
    candidates, so the best of these is what regret is measured against in both.
    """
    from landscape_data import load_landscapes
    from search import observe
    from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

    torch.set_num_threads(1)
    began = time.monotonic()
    landscapes = load_landscapes(("own",))
    for seed, landscape in ((s, one) for s in itertools.count() for one in landscapes):
        if time.monotonic() - began > 60 * minutes:
            return
        start = Start(landscape, table_space(landscape), FACTORY, seed)
        n_all = len(start.space.candidates)
        allowed = np.zeros(n_all, dtype=bool)
        allowed[np.random.default_rng(seed).choice(n_all, min(candidates, n_all), replace=False)] = True
        values = np.array([landscape.value(int(index)) for index in start.space.candidates[allowed]])
        values[np.isnan(values)] = np.nanmin(values)
        best, middle = values.max(), np.median(values)
        common = LoracleMethod(start, ensemble(start))
        for name, fitted_on in (("as it is", 150), ("fitted to all", ALL)):
            method = LoracleMethod(start, ensemble(start, fitted_on=fitted_on))
            method.history = common.history  # up to 150 trials they are the same
            while (n := len(method.history.trials)) < trials:
                chosen = propose(
                    start.space, method.history, method.preset, n=at_a_time, seed=seed, allowed=allowed
                )
                for index in chosen:
                    method.tell(index, observe(landscape, index, seed))
                n += at_a_time
                if n == 150:
                    common.history = method.history
                if n in (150, 200, 250, 300, 400):
                    value = landscape.value(method.recommend())
                    found = float((best - (values.min() if np.isnan(value) else value)) / (best - middle))
                    yield {
                        "landscape": landscape.name,
                        "seed": seed,
                        "fit": name,
                        "n": n,
                        "regret": round(found, 4),
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["cost", "first", "spaces", "regret"])
    parser.add_argument("--of", choices=LARGE, help="of spaces: one of them, in this process")
    parser.add_argument("--trials", type=int, help="of a search: 1,000 for cost, 300 for regret")
    parser.add_argument("--minutes", type=float, default=12, help="of regret; a search begun is finished")
    parser.add_argument("--candidates", type=int, default=6000, help="of regret, drawn by the seed")
    parser.add_argument("--at-a-time", type=int, default=10, help="trials of regret that are chosen together")
    options = parser.parse_args()
    if options.of:
        on_space(options.of)
        return
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    about = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, threads: {threads}",
        "versions": {name: version(name) for name in ("loracle", "torch", "numpy", "scipy", "optuna")}
        | {"python": platform.python_version()},
    }
    if options.part == "cost":
        _write("cost", about | cost(options.trials or 1000))
        return
    if options.part == "first":
        _write(f"first proposal, threads: {threads}", about | firsts())
        return
    if options.part == "spaces":
        _write("one proposal on large spaces", about | spaces())
        return
    about |= {"candidates": options.candidates, "at_a_time": options.at_a_time}
    rows: list[dict[str, Any]] = []
    for row in regret(options.minutes, options.trials or 300, options.candidates, options.at_a_time):
        print(row, flush=True)
        rows.append(row)
        _write("regret", about | {"rows": rows})


def _write(part: str, content: dict[str, Any]) -> None:
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known[part] = content
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
