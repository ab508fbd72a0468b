"""What do texts say about configs that numbers do not? Predictions after n trials, part by part.

    python benchmarks/language.py --jobs 2      # prints both tables, writes results/language.json

Measures what `results/language.json` does not hold yet, so it can be stopped and started again.

On each of our five tasks, n random configs are observed and all others predicted; a figure is Spearman's rank
correlation of prediction and truth. Texts are read by the real sentence encoder (MiniLM).

* `pre-trained`: a prior fitted to the four other tasks as in `pretrain.py`, then conditioned on the n values,
  its parameters held fixed. Texts come in as 16 whitened principal components.
* `fitted`: the published surrogate, fitted to the n values alone, one part changed at a time.

Two controls: *shuffled* gives every config the vector of another, *random* is a random projection of the five
numbers to as many dimensions as a text has.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from landscape_data import Floats, Landscape, load_landscapes
from pretrain import MOVES, Task, fit
from prior_model import Inputs, Prior, covariance
from scipy.stats import spearmanr
from search import about, observe
from search_language import FEATURES, language_model, random_projection, shuffled, text_features
from search_methods import SAME_SEEDS, Start, table_space
from sklearn.gaussian_process import GaussianProcessRegressor  # type: ignore[import-untyped]
from sklearn.gaussian_process.kernels import (  # type: ignore[import-untyped]
    ConstantKernel,
    Matern,
    WhiteKernel,
)
from torch import Tensor, nn

from loracle.language.features import Features, FixedFeatures, build_features
from loracle.language.prompt import load_prompt
from loracle.search.language_gp import fit_surrogate
from loracle.search.outputs import transform_outputs
from loracle.search.presets import SurrogateSettings
from loracle.search.prior import describe

OUTPUT = Path(__file__).parent / "results" / "language.json"
COUNTS = (3, 6, 10, 20, 30)
TOKEN, FEW_COUNTS = "text, learnable token", (6, 20)  # a fit reads n texts a step: minutes each
COMPONENTS = 16  # of a text's vector
WIDTH, LEARNED = 32, 6  # as in `Prior`
BASE = SurrogateSettings(language=True, numeric=False, learnable_token=False, output="half_rank", priors=True)

Found = dict[str, dict[int, list[float]]]  # correlations by task, by n, by repeat
Predict = Callable[[Landscape, np.ndarray, Floats, int], Floats]  # landscape, rows, y, seed -> all N means


# -- pre-trained on the other tasks -------------------------------------------------------------------


class TextPrior(Prior):
    """A prior on texts, or on numbers and texts: a learned map of its own for each."""

    def __init__(self, numbers: bool, text_mean: bool = True) -> None:
        super().__init__()
        self.reads_numbers, self.text_mean = numbers, text_mean
        self.text = nn.Sequential(nn.Linear(COMPONENTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.text_features = nn.Linear(WIDTH, LEARNED)
        self.expected = nn.Linear(WIDTH, 1)

    def inputs(self, numbers: Tensor, size: Tensor | None = None) -> Inputs:
        hidden = self.text(numbers[..., len(MOVES) :])
        learned, mean = self.text_features(hidden), self.expected(hidden).squeeze(-1)
        if not self.reads_numbers:
            return Inputs(learned, numbers[..., :0], torch.zeros_like(numbers[..., :1]), mean)
        own = super().inputs(numbers[..., : len(MOVES)], size)
        total = own.mean + mean if self.text_mean else own.mean
        return Inputs(torch.cat([own.learned, learned], dim=-1), own.numbers, own.step, total)

    def parameters_for(self, k: int) -> Tensor:
        full = super().parameters_for(len(MOVES))
        return full if self.reads_numbers else full[: -len(MOVES)]


class Variation(NamedTuple):
    """How a prior is fitted: where it starts, the prompt it reads, whether texts are shuffled, the moves."""

    start: Callable[[], Prior] = Prior
    prompt: str | None = None
    shuffle: bool = False
    moves: Sequence[float] = MOVES


_text = partial(TextPrior, numbers=False)
_both = partial(TextPrior, numbers=True)
_refined = partial(TextPrior, numbers=True, text_mean=False)
PRETRAINED: dict[str, Variation] = {
    "numbers": Variation(),
    "numbers, samples not moved": Variation(moves=(0.0,) * len(MOVES)),
    "text, derived": Variation(_text, "derived-v1"),
    "text, domain": Variation(_text, "lora-v1"),
    "text, plain": Variation(_text, "plain-v1"),
    "text, shuffled": Variation(_text, "derived-v1", shuffle=True),
    "both, derived": Variation(_both, "derived-v1"),
    "both, shuffled": Variation(_both, "derived-v1", shuffle=True),
    "both, mean from numbers": Variation(_refined, "derived-v1"),
    "both, mean from numbers, shuffled": Variation(_refined, "derived-v1", shuffle=True),
}


def pretrained(name: str, landscapes: Sequence[Landscape]) -> Iterator[tuple[Landscape, Predict]]:
    """Each landscape, with a prediction by a prior that was fitted to the others."""
    start, prompt, shuffle, moves = PRETRAINED[name]
    inputs = {landscape.name: describe(table_space(landscape)) for landscape in landscapes}
    texts = {}
    if prompt is not None:
        for landscape in landscapes:
            begun = Start(landscape, table_space(landscape), SAME_SEEDS, 0)
            found = text_features(begun, prompt)
            texts[landscape.name] = (shuffled(begun, found) if shuffle else found).matrix.numpy()
    for held in landscapes:
        others = [landscape for landscape in landscapes if landscape.family != held.family]
        numbers = dict(inputs)
        if texts:
            known = np.concatenate([texts[landscape.name] for landscape in others])
            centre = known.mean(axis=0)
            _, sizes, directions = np.linalg.svd(known - centre, full_matrices=False)
            to_parts = directions[:COMPONENTS].T / (sizes[:COMPONENTS] / np.sqrt(len(known)))
            numbers = {n: np.column_stack([inputs[n], (texts[n] - centre) @ to_parts]) for n in inputs}
        tasks = [Task(one.name, one.family, one.parameters, numbers[one.name], one.values) for one in others]
        prior = fit(tasks, start=start, moves=moves)
        yield held, conditioned(prior, torch.from_numpy(numbers[held.name]).float())


@torch.no_grad()
def conditioned(prior: Prior, numbers: Tensor) -> Predict:
    """Mean of a prior, its parameters held fixed, given the n values."""
    everything, theta = prior.inputs(numbers), prior.parameters_for(len(MOVES))

    @torch.no_grad()
    def predict(landscape: Landscape, rows: np.ndarray, y: Floats, seed: int) -> Floats:
        seen = everything.at(torch.from_numpy(rows))
        lower = torch.linalg.cholesky(covariance(seen, seen, theta) + theta[4].exp() * torch.eye(len(rows)))
        residual = (torch.from_numpy(y).float() - seen.mean)[:, None]
        weights = torch.cholesky_solve(residual, lower)
        mean = everything.mean + (covariance(everything, seen, theta) @ weights).squeeze(-1)
        return np.asarray(mean.double().numpy())

    return predict


# -- fitted to the trials of one task -----------------------------------------------------------------


def surrogate(settings: SurrogateSettings, read: Callable[[Start], Features] | None) -> Predict:
    """Mean of the published surrogate with these settings."""

    def predict(landscape: Landscape, rows: np.ndarray, y: Floats, seed: int) -> Floats:
        start = Start(landscape, table_space(landscape), SAME_SEEDS, seed)
        features = read(start) if read else None
        coordinates = start.space.coordinates(start.space.candidates)
        fitted = fit_surrogate(settings, coordinates, features, rows, y, seed)
        return fitted.belief().mean

    return predict


def without_projection(landscape: Landscape, rows: np.ndarray, y: Floats, seed: int) -> Floats:
    """A GP on the text's vector as it is, one lengthscale."""
    x = text_features(Start(landscape, table_space(landscape), SAME_SEEDS, seed), "derived-v1").matrix.numpy()
    kernel = ConstantKernel(1.0) * Matern(0.3, (0.01, 10.0), nu=2.5) + WhiteKernel(0.1, (1e-3, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a scale at its bound is as good an answer as any
        fitted = GaussianProcessRegressor(kernel, random_state=seed).fit(x[rows], y)
    return np.asarray(fitted.predict(x), dtype=np.float64)


def with_token(start: Start) -> Features:
    """Texts with the learnable token at their end, whose embedding the surrogate fits."""
    prompt = load_prompt("derived-v1", start.space, n_examples=start.landscape.n_train)
    folder = FEATURES / f"token-{start.landscape.name.replace(':', '_')}"  # a space does not name candidates
    return build_features(start.space, prompt, language_model(), learnable_token=True, cache_dir=folder)


def texts(prompt: str = "derived-v1", **how: int | str) -> Callable[[Start], FixedFeatures]:
    return lambda start: text_features(start, prompt, **how)  # type: ignore[arg-type]


def _shuffled(start: Start) -> FixedFeatures:
    return shuffled(start, text_features(start, "derived-v1"))


FITTED: dict[str, Predict] = {
    "numbers": surrogate(replace(BASE, language=False, numeric=True), None),
    "text, derived": surrogate(BASE, texts()),
    "text, domain": surrogate(BASE, texts("lora-v1")),
    "text, plain": surrogate(BASE, texts("plain-v1")),
    "text, shuffled": surrogate(BASE, _shuffled),
    "random projection of numbers": surrogate(BASE, random_projection),
    TOKEN: surrogate(replace(BASE, learnable_token=True), with_token),
    "text, layer 3 of 6": surrogate(BASE, texts(layer=3)),
    "text, first token": surrogate(BASE, texts(pooling="first")),
    "text, projection to 8": surrogate(replace(BASE, projection=8), texts()),
    "text, no projection": without_projection,
    "text, no priors": surrogate(replace(BASE, priors=False), texts()),
    "text, standardised outputs": surrogate(replace(BASE, output="standardize"), texts()),
    "both, derived": surrogate(replace(BASE, numeric=True), texts()),
    "both, shuffled": surrogate(replace(BASE, numeric=True), _shuffled),
    "both, random projection": surrogate(replace(BASE, numeric=True), random_projection),
}


# -- measuring ----------------------------------------------------------------------------------------


def correlations(
    landscape: Landscape, predict: Predict, output: str, counts: Sequence[int], repeats: int
) -> dict[int, list[float]]:
    """Rank correlation of prediction and truth on all configs but the n observed, by n and repeat."""
    usable = np.flatnonzero(np.isfinite(landscape.values))
    found: dict[int, list[float]] = {}
    for seed in range(repeats):
        order = np.random.default_rng([seed, 5]).permutation(usable)
        for n in counts:
            rows, rest = order[:n], order[n:]
            values = np.array([observe(landscape, int(landscape.candidates[row]), seed) for row in rows])
            y = transform_outputs(values, np.zeros(n, dtype=bool), output)
            mean = predict(landscape, rows, y, seed)
            constant = np.ptp(mean[rest]) == 0
            rank = 0.0 if constant else float(spearmanr(mean[rest], landscape.values[rest]).statistic)
            found.setdefault(n, []).append(round(rank, 4))
    return found


def _work(job: tuple[str, str, int]) -> tuple[str, str, Found]:
    part, name, repeats = job
    torch.set_num_threads(1)
    landscapes = load_landscapes(["rows"])
    if part == "pre-trained":
        pairs = pretrained(name, landscapes)
        return part, name, {one.name: correlations(one, p, "half_rank", COUNTS, repeats) for one, p in pairs}
    output = "standardize" if "standardised" in name else "half_rank"
    counts = FEW_COUNTS if name == TOKEN else COUNTS[1:]
    repeats = 1 if name == TOKEN else max(1, repeats // 2)
    return (
        part,
        name,
        {one.name: correlations(one, FITTED[name], output, counts, repeats) for one in landscapes},
    )


def table(part: str, results: dict[str, Found]) -> str:
    """Mean over tasks, and the spread between them, in Markdown."""
    known = {n for row in results.values() for cell in row.values() for n in cell}
    lines = [f"| {part} | " + " | ".join(f"n = {n}" for n in sorted(known)) + " |"]
    lines.append("|---" * (len(known) + 1) + "|")
    for name, row in results.items():
        cells = []
        for n in sorted(known):
            means = [float(np.mean(cell[n])) for cell in row.values() if n in cell]
            cells.append(f"{np.mean(means):.2f} ({min(means):.2f} to {max(means):.2f})" if means else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read() -> dict[str, dict[str, Found]]:
    """What has been measured so far, by part and variation."""
    if not OUTPUT.exists():
        return {}
    stored = json.loads(OUTPUT.read_text())["spearman"]
    return {
        part: {
            name: {task: {int(n): x for n, x in cell.items()} for task, cell in row.items()}
            for name, row in rows.items()
        }
        for part, rows in stored.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10, help="of pre-trained; fitted ones get half")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="variations whose name contains this")
    arguments = parser.parse_args()
    results = read()
    jobs = [
        (part, name, arguments.repeats)
        for part, names in (("pre-trained", PRETRAINED), ("fitted", FITTED))
        for name in names
        if name not in results.get(part, {}) and arguments.only in name
    ]
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        for part, name, found in pool.imap(_work, jobs):
            results.setdefault(part, {})[name] = found
            content = {
                "about": about("sentence-transformers") | {"repeats": arguments.repeats},
                "spearman": results,
            }
            OUTPUT.write_text(json.dumps(content, indent=1) + "\n")
            print(table(part, {name: found}).splitlines()[-1], flush=True)
    for part, rows in results.items():
        print("\n" + table(part, rows))


if __name__ == "__main__":
    main()
