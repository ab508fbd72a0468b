"""Acquisition functions on a finite set: every candidate gets an exact score, no inner optimiser.

Notation: mean and sd are the belief at each candidate, `best` the value to improve on, all in the
surrogate's output units, shapes (m,).
"""

from __future__ import annotations

import math

import torch
from botorch.utils.probability.utils import log_phi, ndtr, phi
from botorch.utils.safe_math import log1mexp
from torch import Tensor

_LEAST = 1e-150  # a smaller sd counts as this: what is certain has the improvement of its mean


def expected_improvement(mean: Tensor, sd: Tensor, best: float) -> Tensor:
    """E[max(f - best, 0)] under N(mean, sd^2); shape (m,). Jones, Schonlau and Welch (1998), eq. 15."""
    sd = sd.clamp(min=_LEAST)
    u = (mean - best) / sd
    improvement: Tensor = sd * (phi(u) + u * ndtr(u))
    return improvement


def log_expected_improvement(mean: Tensor, sd: Tensor, best: float) -> Tensor:
    """Logarithm of `expected_improvement`, accurate where that underflows to 0; shape (m,).

    Ament et al. (2023), arXiv 2310.20708, eq. 9: log(sd) + log h(u) with h(u) = phi(u) + u Phi(u). For
    u < -1 it is written as log phi(u) + log(1 - |u| Phi(u) / phi(u)), with Phi(u) / phi(u) as a scaled erfc:
    a difference of logarithms would lose all digits where both are huge.
    """
    sd = sd.clamp(min=_LEAST)
    u = (mean - best) / sd
    near = u.clamp(min=-1.0)
    log_h_near = (phi(near) + near * ndtr(near)).log()
    far = u.clamp(min=-1e6, max=-1.0)  # below -1e6 the last term is -2 log|u| to machine precision
    log_ratio = (math.sqrt(math.pi / 2) * far.abs() * torch.special.erfcx(-far / math.sqrt(2))).log()
    log_h_far = log_phi(u) + torch.where(u > -1e6, log1mexp(log_ratio), -2 * u.clamp(max=-1.0).abs().log())
    return sd.log() + torch.where(u > -1.0, log_h_near, log_h_far)


ACQUISITIONS = {
    "expected_improvement": expected_improvement,
    "log_expected_improvement": log_expected_improvement,
}
