"""The prior as a model that learns, in torch; `loracle/search/prior.py` reads what it writes, without.

`tests/search/test_prior.py` holds the two to the same features, covariances and gradients.

Notation: n configs, k numbers that describe one, d learned features; leading dimensions are free.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from loracle.search.kernel import N_SCALES
from loracle.search.prior import FEATURES, NUMBERS, RATE, WIDTH


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


def _matern(a: Tensor, b: Tensor) -> Tensor:
    """Matern-5/2 with lengthscale 1, (..., n, m). Rasmussen and Williams (2006), eq. 4.17."""
    # |a - b|^2 by one matrix product: three times as fast as all differences for 45,360 candidates.
    squared = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT
    r2 = 5 * squared.clamp(min=0) + 1e-12  # the offset keeps the gradient finite at 0
    r = r2.sqrt()
    return (1 + r + r2 / 3) * (-r).exp()


class Prior(nn.Module):
    """The learned parts."""

    def __init__(self) -> None:
        super().__init__()
        k = len(NUMBERS)
        self.hidden = nn.Sequential(nn.Linear(k, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.features = nn.Linear(WIDTH, FEATURES)
        self.mean = nn.Linear(WIDTH, 1)
        # Published exponents to start from (facts 12 and 26): rank 0.45, alpha / rank 0.62, batch -0.57.
        doublings = 4 * math.log10(2)
        exponents = [0.45 * doublings, 0.62 * doublings, -0.57 * doublings, 1.0, 0.0]
        self.step = nn.Parameter(torch.tensor(exponents))
        # A history of good configs says little about the level of all others, hence the large offset.
        self.scales = nn.Parameter(torch.tensor([1.0, 0.37, 0.37, 0.5, 0.05]).log())
        self.lengthscales = nn.Parameter(torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0]))  # logarithms
        self.shift = nn.Parameter(
            torch.tensor([0.4])
        )  # decades of learning rate that a unit of size is worth

    def inputs(self, numbers: Tensor, size: Tensor | None = None) -> Inputs:
        """Configs by their numbers, (..., n, k), as the kernel sees them.

        `size` is that of their models, (...,); None: 0.
        """
        known = numbers[..., : len(NUMBERS)]
        moved = known
        if size is not None:
            rate = nn.functional.one_hot(torch.tensor(RATE), len(NUMBERS))
            moved = known + (size[..., None] * self.shift * rate)[..., None, :]
        hidden = self.hidden(moved)
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
