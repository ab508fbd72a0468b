"""What is left of the lead where others have the same prior?

    OMP_NUM_THREADS=1 python benchmarks/prior_peers.py --out benchmarks/results/prior_peers.json

Every search starts as it comes and has the prior that has not seen the landscape's family:

* `mean`: BoTorch's SingleTaskGP and log EI, with the prior's mean as its mean, times a factor and plus a
  constant, which are fitted with all else (the factor from 1, with a normal prior of 0.5 around it). It sees
  the outputs that `default` sees (half-rank), in whose units the mean is. Its first trial is the mean's best.
* `pibo`: BoTorch's SingleTaskGP and piBO (Hvarfner et al. 2022, arXiv 2204.11051): log EI + beta / n log pi,
  with beta 10, as published; pi is how often a config is the best one in 2,000 functions drawn from the
  prior, one more spread over all configs. Its first three trials are drawn from pi, as its authors begin.

`default` and BoTorch without a prior (`botorch`) are those of the same seeds in `results/search.json`.

On landscapes of which all configs were trained, so that functions can be drawn at all of them: our own
(`rows`), of a pretrained model (`real`), and tables of others (`table`). Nothing of `mean` and `pibo` was
chosen by what they find. Differences of regret from `default`, paired, with 95 % intervals from draws of
landscapes and of their seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.means import Mean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import NormalPrior
from landscape_data import Landscape, load_landscapes
from search import about, checkpoints, replayed
from search_methods import (
    FACTORY,
    Method,
    Start,
    _Observed,
    ensemble,
    table_space,
    unseen_prior,
)
from search_report import interval

from loracle.search.acquisition import log_expected_improvement
from loracle.search.ensemble import prior_alone
from loracle.search.outputs import transform_outputs
from loracle.search.prior import describe

SOURCES = ("rows", "real", "table")
BETA, DRAWS, FIRST = 10.0, 2000, 3


class _PriorMean(Mean):  # type: ignore[misc]
    """A factor times what the last input says, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("factor", torch.nn.Parameter(torch.ones((), dtype=torch.float64)))
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
        self.register_prior("factor_prior", NormalPrior(1.0, 0.5), "factor")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x[..., -1] + self.constant


class _Informed(_Observed):
    """A Gaussian process of BoTorch that knows our prior in some way."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.alone = prior_alone(ensemble(start).surrogate, describe(start.space))

    def known(self) -> tuple[list[int], np.ndarray]:
        """Rows of the candidates that have a value, and their values."""
        found = [(self.start.landscape.place(i), v) for i, v in self.tried.items() if v is not None]
        return [row for row, _ in found], np.array([v for _, v in found])

    def score(self, model: SingleTaskGP, inputs: np.ndarray, best: float) -> np.ndarray:
        """Log expected improvement of all untried candidates; what the model was told is standardised."""
        with torch.no_grad():
            found = model.posterior(torch.from_numpy(inputs[self.open_rows()])[:, None, :])
        mean, variance = found.mean[:, 0, 0].numpy(), found.variance[:, 0, 0].numpy()
        return np.asarray(log_expected_improvement(mean, np.sqrt(np.maximum(variance, 1e-12)), best))

    def best_open(self, scores: np.ndarray) -> int:
        return int(self.space.candidates[self.open_rows()[int(np.argmax(scores))]])


class MeanMethod(_Informed):
    """See `mean` above."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.mean = self.alone.belief().mean

    def choose(self) -> int:
        rows, values = self.known()
        if not rows:
            return self.best_open(self.mean[self.open_rows()])
        y = transform_outputs(values, np.zeros(len(values), dtype=bool), "half_rank")
        inputs = np.column_stack([self.coordinates, self.mean])
        d = self.coordinates.shape[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior

            model = SingleTaskGP(
                torch.from_numpy(inputs[rows]),
                torch.from_numpy(y)[:, None],
                covar_module=get_covar_module_with_dim_scaled_prior(d, active_dims=list(range(d))),
                mean_module=_PriorMean(),
                outcome_transform=None,
            )
            if len(rows) >= FIRST:  # before, all is as its priors have it
                fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            return self.best_open(self.score(model.eval(), inputs, float(y.max())))


class PiboMethod(_Informed):
    """See `pibo` above."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        n = len(start.space.candidates)
        drawn = self.alone.draws(np.arange(n), DRAWS, seed=start.seed)
        counts = np.bincount(drawn.argmax(axis=1), minlength=n) + 1 / n
        self.pi = counts / counts.sum()

    def choose(self) -> int:
        rows, values = self.known()
        if len(rows) < FIRST:
            open_rows = self.open_rows()
            share = self.pi[open_rows] / self.pi[open_rows].sum()
            return int(self.space.candidates[self.rng.choice(open_rows, p=share)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SingleTaskGP(torch.from_numpy(self.coordinates[rows]), torch.from_numpy(values)[:, None])
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            scores = self.score(model.eval(), self.coordinates, float(values.max()))
        return self.best_open(scores + BETA / len(rows) * np.log(self.pi[self.open_rows()]))


METHODS = {"mean": MeanMethod, "pibo": PiboMethod}
STORED = Path(__file__).parent / "results" / "search.json"
BESIDE = ("default", "botorch")


_LANDSCAPES: dict[str, Landscape] = {}


def search(job: tuple[str, str, int]) -> dict[str, Any]:
    """Regret of the config to use after so many trials."""
    torch.set_num_threads(1)
    landscape, name, seed = _LANDSCAPES[job[0]], job[1], job[2]
    method: Method = METHODS[name](Start(landscape, table_space(landscape), FACTORY, seed))
    found = replayed(landscape, method, seed, checkpoints(landscape))
    return {
        "landscape": landscape.name,
        "source": landscape.source,
        "method": name,
        "seed": seed,
        "regret": {str(n): round(value, 4) for n, value in found.items()},
    }


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By source and method: mean regret, and its difference from `default` with an interval."""
    done = {(row["landscape"], row["seed"]): row["source"] for row in rows}
    flat = [
        (row["source"], row["method"], row["landscape"], row["seed"], int(n), value)
        for row in rows
        for n, value in row["regret"].items()
    ]
    for row in json.loads(STORED.read_text())["rows"]:
        key = (row["landscape"], row["seed"])
        if row["regime"] == FACTORY and row["method"] in BESIDE and key in done:
            flat.append((done[key], row["method"], *key, row["n"], row["regret"]))
    ours = {(place, seed, n): value for _, name, place, seed, n, value in flat if name == "default"}
    found = []
    for source in SOURCES:
        for name in ("default", *METHODS, "botorch"):
            chosen = [row for row in flat if row[:2] == (source, name) and row[2:5] in ours]
            for n in sorted({row[4] for row in chosen}):
                pairs = defaultdict(list)
                for _, _, place, seed, at, value in chosen:
                    if at == n:
                        pairs[place].append((value, value - ours[place, seed, n]))
                parts = [np.array(some) for some in pairs.values()]
                mean, low, high = interval([part[:, 1] for part in parts])
                level = float(np.mean([part[:, 0].mean() for part in parts]))
                numbers = {"regret": level, "difference": mean, "low": low, "high": high}
                plain = {key: round(value, 4) for key, value in numbers.items()}
                found.append({"source": source, "method": name, "trials": n, **plain})
    return found


def show(summary: list[dict[str, Any]]) -> None:
    """Prints a table a source."""
    for source in dict.fromkeys(row["source"] for row in summary):
        own = [row for row in summary if row["source"] == source]
        trials = sorted({row["trials"] for row in own})
        print(f"\n{source}\n\n| method | " + " | ".join(f"{n} trials" for n in trials) + " |")
        print("|---" * (1 + len(trials)) + "|")
        for name in ("default", *METHODS, "botorch"):
            cells = [
                f"{row['regret']:.3f}"
                + f" ({row['difference']:+.3f}: {row['low']:+.3f} to {row['high']:+.3f})"
                * (name != "default")
                for row in sorted(own, key=lambda row: row["trials"])
                if row["method"] == name
            ]
            print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path, help="prints the tables of a file that was written")
    arguments = parser.parse_args()
    if arguments.show:
        show(json.loads(arguments.show.read_text())["summary"])
        return
    landscapes = load_landscapes(arguments.sources.split(","))
    for landscape in landscapes:
        unseen_prior(Start(landscape, table_space(landscape), FACTORY, 0))  # made before processes split
        _LANDSCAPES[landscape.name] = landscape
    jobs = [
        (one, name, seed)
        for seed in range(arguments.first, arguments.seeds)
        for one in _LANDSCAPES
        for name in METHODS
    ]
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        for row in pool.imap(search, jobs, chunksize=4):
            rows.append(row)
            if arguments.out and len(rows) % 100 == 0:
                write(rows, arguments.out)
    if arguments.out:
        write(rows, arguments.out)
    show(table(rows))


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes rows that were done, and what they say: of whole seeds alone."""
    missing = len(_LANDSCAPES) * len(METHODS)
    whole = rows[: len(rows) // missing * missing]
    if whole:
        whole = sorted(whole, key=lambda row: (row["source"], row["landscape"], row["method"], row["seed"]))
        content = ",\n".join(json.dumps(row, separators=(",", ":")) for row in whole)
        made, summary = json.dumps(about("botorch", "gpytorch")), json.dumps(table(whole))
        path.write_text(f'{{"about": {made},\n"summary": {summary},\n"rows": [\n{content}\n]}}\n')


if __name__ == "__main__":
    main()
