"""Fits the surrogate's prior to measured landscapes, as it ships with the package.

    python benchmarks/pretrain.py                          # the prior that ships
    python benchmarks/pretrain.py --without olmo2-reviews  # leaves one family out, for benchmarks

Learns from real trainings alone: our own rows and those tables whose licence allows it (`may_train`);
formulas and all other tables stay unseen. A step takes 16 samples of 4 to 32 configs, each from one task,
transforms their values as a search does, and follows the gradient of their marginal likelihood. Half of the
samples lean to good configs, as the history of a search does. All configs of a sample are moved together by a
random amount (half a decade of learning rate, one doubling of the rest): other models have their optimum
elsewhere, and a prior that has seen it move stays unsure of the place while it knows the shape. How far the
size of a model moves it along the learning rate is learnt with all else. Takes about 30 seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from landscape_data import OWN, Floats, load_landscapes, measured_space, read_rows, real_landscapes
from prior_model import Prior, covariance

from loracle.records.space import SearchSpace
from loracle.search.outputs import transform_outputs
from loracle.search.prior import SHIPPED, describe, size_of

STEPS, SAMPLES, SIZES = 1500, 16, (4, 6, 8, 12, 16, 24, 32)
RATE, DECAY = 5e-3, 1e-2
MOVES = (0.25, 0.25, 0.25, 0.5, 0.0)  # in the units of `describe`
SIZE_MOVES = 0.15  # in units of `size_of`: two models of one size are not alike


@dataclass(frozen=True)
class Task:
    """Runs of one response surface: numbers (n, 5 or more), values (n,), NaN where a run failed."""

    name: str
    family: str
    parameters: float  # of the base model
    numbers: Floats
    values: Floats


def load_tasks() -> list[Task]:
    """All that a prior may learn from; tables of others only where they are at hand."""
    tasks = []
    provenance = json.loads((OWN / "provenance.json").read_text(encoding="utf-8"))
    space = measured_space(provenance["knobs"])
    for name, about in provenance["tasks"].items():
        rows = [row for row in read_rows(name) if float(row["fraction"]) == 1.0]
        indices = [space.index({knob: float(row[knob]) for knob in space.names}) for row in rows]
        values = np.array([float(row["value"]) if row["value"] else np.nan for row in rows])
        numbers = _numbers(space, indices)
        tasks.append(Task(name, about["family"], about["n_parameters"], numbers, values))
    for landscape in [*real_landscapes(spread=True), *load_landscapes(["table"])]:
        if landscape.may_train:
            assert landscape.parameters is not None
            numbers = _numbers(landscape.space, landscape.candidates.tolist())
            tasks.append(
                Task(landscape.name, landscape.family, landscape.parameters, numbers, landscape.values)
            )
    return tasks


def _numbers(space: SearchSpace, indices: Sequence[int]) -> Floats:
    return describe(space)[np.searchsorted(space.candidates, indices)]


def sample(
    task: Task, n: int, random: np.random.Generator, moves: Sequence[float] = MOVES
) -> tuple[Floats, Floats]:
    """Numbers (n, k) and transformed values (n,) of some runs, as a search might have seen them."""
    size, failed = len(task.values), np.isnan(task.values)
    chances = np.ones(size)
    if random.random() < 0.5 and size >= 40:
        ranks = np.argsort(np.argsort(np.where(failed, -np.inf, task.values))) / size
        chances = np.exp(random.uniform(0, 6) * ranks)
    evenly = random.choice(size, int(random.integers(1, min(n, 8) + 1)), replace=False)
    chances[evenly] = 0
    leaning = random.choice(size, n - len(evenly), replace=False, p=chances / chances.sum())
    rows = np.concatenate([evenly, leaning])
    moved = task.numbers[rows]
    moved[:, : len(moves)] += random.normal(size=len(moves)) * moves
    return moved, transform_outputs(task.values[rows], failed[rows], "half_rank")


def fit(
    tasks: Sequence[Task],
    seed: int = 0,
    start: Callable[[], Prior] = Prior,
    moves: Sequence[float] = MOVES,
) -> Prior:
    """Maximises the marginal likelihood of samples; every sweep counts the same.

    Args:
        tasks: to learn from.
        seed: of weights and samples.
        start: gives the prior that is fitted; it reads the tasks' numbers.
        moves: how far samples are moved, standard deviation in each of the first numbers.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    groups: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        groups[sweep_of(task.family)].append(task)
    names = sorted(groups)
    prior = start()
    scales = [prior.step, prior.scales, prior.lengthscales]
    layers = [one for one in prior.parameters() if all(one is not scale for scale in scales)]
    optimizer = torch.optim.AdamW(
        [{"params": layers, "weight_decay": DECAY}, {"params": scales, "weight_decay": 0.0}], lr=RATE
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [RATE, 2 * RATE], total_steps=STEPS)
    offset = prior.scales[3].item()
    for _ in range(STEPS):
        n = int(random.choice(SIZES))
        drawn: list[tuple[Floats, Floats]] = []
        sizes: list[float] = []
        while len(drawn) < SAMPLES:
            group = groups[names[random.integers(len(names))]]
            task = group[random.integers(len(group))]
            if len(task.values) >= n:
                drawn.append(sample(task, n, random, moves))
                sizes.append(size_of(task.parameters) + SIZE_MOVES * float(random.normal()))
        numbers, y = (torch.from_numpy(np.stack(part)).float() for part in zip(*drawn, strict=True))
        inputs = prior.inputs(numbers, torch.tensor(sizes))
        noise = prior.scales[4].exp() * torch.eye(n)
        lower = torch.linalg.cholesky(covariance(inputs, inputs, prior.parameters_for(len(MOVES))) + noise)
        solved = torch.linalg.solve_triangular(lower, (y - inputs.mean)[..., None], upper=False)
        log_determinant = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        loss = (0.5 * solved.square().sum((-2, -1)) + log_determinant).mean() / n
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            prior.scales[3] = offset  # a sample of few configs cannot tell; see Prior
    return prior


def sweep_of(family: str) -> str:
    """The published sweep that a family belongs to; itself where it is none's."""
    return family.partition(":")[0]


def make(path: Path, without: Sequence[str] = (), seed: int = 0) -> None:
    """Fits a prior without some families and writes it."""
    tasks = [task for task in load_tasks() if not {task.family, sweep_of(task.family)} & set(without)]
    torch.set_num_threads(1)
    prior = fit(tasks, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    prior.save(
        path,
        {
            "made by": "benchmarks/pretrain.py",
            "date": time.strftime("%Y-%m-%d"),
            "tasks": [task.name for task in tasks],
            "runs": int(sum(len(task.values) for task in tasks)),
            "left out": list(without),
            "seed": seed,
            "steps": STEPS,
            "versions": {name: version(name) for name in ("loracle", "torch")},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=SHIPPED)
    parser.add_argument("--without", nargs="*", default=[], help="families to leave out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.output, arguments.without, arguments.seed)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
