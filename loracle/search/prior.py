"""What measured searches teach before the first trial: a feature map, a mean, and the scales of a kernel.

`benchmarks/pretrain.py` fits a prior to many landscapes by the marginal likelihood of small samples of them
("few-shot" deep kernel, Wistuba and Grabocka 2021, arXiv 2101.07667); a file of a few kilobytes ships with
the package. The surrogate of `ensemble.py` conditions it on the user's trials.

Notation: n configs, k numbers that describe one, d learned features.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from loracle.errors import ModelError
from loracle.records.space import SearchSpace

SHIPPED = Path(__file__).parent / "priors" / "lora-v1.safetensors"
NUMBERS = ("rank", "alpha / rank", "batch size", "learning rate", "dropout")
N_SCALES = 7  # numbers at the head of a parameter vector, before one lengthscale a number

_WIDTH, _FEATURES = 32, 6  # of the learned map
_FAR = 8.0  # units: 1e-12 as a learning rate, say


def describe(space: SearchSpace) -> npt.NDArray[np.float64]:
    """All candidates as numbers of about unit size, (N, k): the five of `NUMBERS`, then any other knobs.

    The five mean the same in every space, so what was learnt on one holds for another: logarithms, 0 at rank
    16, alpha / rank 4, batch 16 and learning rate 3e-4; one unit is four doublings, or one decade of the
    learning rate. A knob that the space lacks takes the middle. Other knobs count by their place in their
    range.
    """
    values = space.values(space.candidates)
    ones = np.ones(len(space.candidates))
    rank = values.get("rank", 16 * ones)
    ratio = values.get("alpha_ratio", values["alpha"] / rank if "alpha" in values else 4 * ones)
    known = [
        (np.log2(rank) - 4) / 4,
        (np.log2(np.maximum(ratio, 2.0**-6)) - 2) / 4,
        (np.log2(values.get("batch_size", 16 * ones)) - 4) / 4,
        np.log10(np.maximum(values.get("learning_rate", 3e-4 * ones), 1e-300)) + 3.5,
        5 * values.get("dropout", 0.1 * ones).clip(-1e300, 1e300) - 0.5,
    ]
    coordinates = space.coordinates(space.candidates)
    named = ("rank", "alpha_ratio", "alpha", "batch_size", "learning_rate", "dropout")
    others = [2 * coordinates[:, i] - 1 for i, name in enumerate(space.names) if name not in named]
    return np.column_stack([_within_reason(numbers) for numbers in (*known, *others)])


def _within_reason(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers in their order, those beyond 8 units by their logarithm: a dropout of 1e300 would leave no
    digits for any other difference."""
    beyond = np.maximum(np.abs(numbers) - _FAR, 0.0)
    return np.asarray(np.where(beyond > 0, np.sign(numbers) * (_FAR + np.log1p(beyond)), numbers))


@dataclass(frozen=True)
class Inputs:
    """Configs as the kernel sees them; leading dimensions are free.

    Attributes:
        learned: (..., n, d) learned features; d is 0 without a prior.
        numbers: (..., n, k).
        step: (..., n, 1) size of a training's steps, a learned direction among the numbers.
        mean: (..., n) expected score in transformed units, before any trial.
    """

    learned: Tensor
    numbers: Tensor
    step: Tensor
    mean: Tensor

    def at(self, rows: Tensor | slice) -> Inputs:
        """Those of some configs."""
        return Inputs(self.learned[rows], self.numbers[rows], self.step[rows], self.mean[rows])


def covariance(a: Inputs, b: Inputs, parameters: Tensor) -> Tensor:
    """Prior covariance of two sets of configs, (..., n, m).

    A sum of Matern-5/2 kernels on learned features, numbers and step, and a constant. `parameters` is
    (N_SCALES + k,): logarithms of the four variances in this order, log noise variance, log lengthscale of
    the step, factor on the mean, log lengthscales of the numbers.
    """
    learned, numbers, step, offset = parameters[:4].exp()
    scale = parameters[N_SCALES:].exp()
    total: Tensor = offset + numbers * _matern(a.numbers / scale, b.numbers / scale)
    total = total + step * _matern(a.step / parameters[5].exp(), b.step / parameters[5].exp())
    if a.learned.shape[-1]:
        total = total + learned * _matern(a.learned, b.learned)
    return total


@torch.no_grad()
def cross_covariance(a: Inputs, b: Inputs, parameters: Tensor) -> Tensor:
    """`covariance` of n and m configs, (n, m), without gradient: three times as fast for many candidates."""
    learned, numbers, step, offset = parameters[:4].exp()
    scale = parameters[N_SCALES:].exp()
    total = _add_matern(offset, numbers, a.numbers / scale, b.numbers / scale)
    scale = parameters[5].exp()
    total = _add_matern(total, step, a.step / scale, b.step / scale)
    if a.learned.shape[-1]:
        total = _add_matern(total, learned, a.learned, b.learned)
    return total


def _add_matern(total: Tensor, variance: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`total` + variance x `_matern`, in place: what is in the processor's cache is not fetched again."""
    ones = torch.ones(max(len(a), len(b)), 1, dtype=a.dtype)
    left = torch.cat([-10 * a, 5 * a.square().sum(-1, keepdim=True), ones[: len(a)]], dim=-1)
    right = torch.cat([b, ones[: len(b)], 5 * b.square().sum(-1, keepdim=True)], dim=-1)
    r2 = (left @ right.mT).clamp_(min=1e-12)  # 5 |a - b|^2, as in `_matern`
    r = r2.sqrt()
    polynomial = r2.div_(3).add_(r).add_(1)
    return polynomial.mul_(torch.sub(variance.log(), r, out=r).exp_()).add_(total)


def _matern(a: Tensor, b: Tensor) -> Tensor:
    """Matern-5/2 with lengthscale 1, (..., n, m). Rasmussen and Williams (2006), eq. 4.17."""
    # |a - b|^2 by one matrix product: three times as fast as all differences for 45,360 candidates.
    squared = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
    r2 = 5 * squared.clamp(min=0) + 1e-12  # the offset keeps the gradient finite at 0
    r = r2.sqrt()
    return (1 + r + r2 / 3) * (-r).exp()


class Prior(nn.Module):
    """The learned parts; float64 once loaded."""

    def __init__(self) -> None:
        super().__init__()
        k = len(NUMBERS)
        self.hidden = nn.Sequential(nn.Linear(k, _WIDTH), nn.Tanh(), nn.Linear(_WIDTH, _WIDTH), nn.Tanh())
        self.features = nn.Linear(_WIDTH, _FEATURES)
        self.mean = nn.Linear(_WIDTH, 1)
        # Published exponents to start from (facts 12 and 26): rank 0.45, alpha / rank 0.62, batch -0.57.
        doublings = 4 * math.log10(2)
        exponents = [0.45 * doublings, 0.62 * doublings, -0.57 * doublings, 1.0, 0.0]
        self.step = nn.Parameter(torch.tensor(exponents))
        # A history of good configs says little about the level of all others, hence the large offset.
        self.scales = nn.Parameter(torch.tensor([1.0, 0.37, 0.37, 0.5, 0.05]).log())
        self.lengthscales = nn.Parameter(torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0]))  # logarithms
        self.provenance: dict[str, Any] = {}

    def inputs(self, numbers: Tensor) -> Inputs:
        """Configs by their numbers, (..., n, k), as the kernel sees them."""
        known = numbers[..., : len(NUMBERS)]
        hidden = self.hidden(known)
        step = (known * self.step).sum(-1, keepdim=True)
        return Inputs(self.features(hidden), numbers, step, self.mean(hidden).squeeze(-1))

    def parameters_for(self, k: int) -> Tensor:
        """The kernel's parameters for configs of k numbers; knobs never met get a long lengthscale."""
        others = torch.full((k - len(NUMBERS),), 0.5, dtype=self.scales.dtype)
        fixed = torch.tensor(
            [0.0, 1.0], dtype=self.scales.dtype
        )  # log lengthscale of the step, factor on the mean
        return torch.cat([self.scales, fixed, self.lengthscales, others])

    def save(self, path: Path, provenance: dict[str, Any]) -> None:
        """Writes a safetensors file that says how it was made."""
        tensors = {name: tensor.detach().float().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, path, metadata={"provenance": json.dumps(provenance)})


@cache
def load_prior(path: Path = SHIPPED) -> Prior:
    """Reads a prior; do not change it, it is shared.

    Raises:
        ModelError: the file is missing, damaged, or of another layout.
    """
    prior = Prior()
    try:
        with safe_open(str(path), framework="pt") as file:
            prior.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            prior.provenance = json.loads((file.metadata() or {}).get("provenance", "{}"))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"prior: {path} cannot be read ({reason}); make it with benchmarks/pretrain.py"
        ) from None
    return prior.double().requires_grad_(False).eval()
