"""Acquisition functions on a finite set: every candidate gets an exact score, no inner optimiser.

Notation: mean and sd are the belief at each candidate, `best` the value to improve on, all in the
surrogate's output units, shapes (m,).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, ndtr

Floats = npt.NDArray[np.float64]

_LEAST = 1e-150  # a smaller sd counts as this: what is certain has the improvement of its mean
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def expected_improvement(mean: Floats, sd: Floats, best: float) -> Floats:
    """E[max(f - best, 0)] under N(mean, sd^2); shape (m,). Jones, Schonlau and Welch (1998), eq. 15."""
    sd = np.maximum(sd, _LEAST)
    with np.errstate(over="ignore"):
        return np.asarray(sd * _h((mean - best) / sd))


def log_expected_improvement(mean: Floats, sd: Floats, best: float) -> Floats:
    """Logarithm of `expected_improvement`, accurate where that underflows to 0; shape (m,).

    Ament et al. (2023), arXiv 2310.20708, eq. 9: log(sd) + log h(u) with h(u) = phi(u) + u Phi(u). For
    u < -1 it is written as log phi(u) + log(1 - |u| Phi(u) / phi(u)), with Phi(u) / phi(u) as a scaled erfc:
    a difference of logarithms would lose all digits where both are huge.
    """
    sd = np.maximum(sd, _LEAST)
    u = (mean - best) / sd
    far = np.clip(u, -1e6, -1.0)  # below -1e6 the last term is -2 log|u| to machine precision
    with np.errstate(over="ignore"):
        log_h_near = np.log(_h(np.maximum(u, -1.0)))
        log_phi = -0.5 * u**2 - _LOG_ROOT_2PI
    ratio = math.sqrt(math.pi / 2) * -far * erfcx(-far / math.sqrt(2))
    log_rest = np.where(u > -1e6, np.log1p(-ratio), -2 * np.log(np.maximum(-u, 1.0)))
    return np.asarray(np.log(sd) + np.where(u > -1.0, log_h_near, log_phi + log_rest))


def _h(u: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * u**2 - _LOG_ROOT_2PI) + u * ndtr(u))


def lower_bound(mean: Floats, sd: Floats, best: float) -> Floats:
    """What a config is worth at least, as likely as not to be missed by half a deviation; shape (m,).

    For the first trials: nothing shows yet whether the boldest guess is right.
    """
    return np.asarray(mean - 0.5 * sd)


ACQUISITIONS = {
    "expected_improvement": expected_improvement,
    "log_expected_improvement": log_expected_improvement,
}
