"""The kernel of the default surrogate, with its derivative; on arrays alone, so a driver loads no torch.

A sum of Matern-5/2 kernels on learned features, numbers and step, and a constant. Its parameters are one
vector of N_SCALES + k: logarithms of the four variances (learned, numbers, step, constant), log noise
variance, log lengthscale of the step, factor on the mean, log lengthscales of the numbers.

Notation: n, m configs, k numbers that describe one, d learned features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

N_SCALES = 7  # numbers at the head of a parameter vector, before one lengthscale a number
NOISE, STEP, MEAN = 4, 5, 6  # places in a parameter vector


@dataclass(frozen=True)
class Inputs:
    """Configs as the kernel sees them.

    Attributes:
        learned: (n, d) learned features; d is 0 without a prior.
        numbers: (n, k).
        step: (n, 1) size of a training's steps, a learned direction among the numbers.
        mean: (n,) expected score in transformed units, before any trial.
    """

    learned: Floats
    numbers: Floats
    step: Floats
    mean: Floats

    def at(self, rows: npt.NDArray[np.int64]) -> Inputs:
        """Those of some configs."""
        return Inputs(self.learned[rows], self.numbers[rows], self.step[rows], self.mean[rows])


def covariance(a: Inputs, b: Inputs, parameters: Floats) -> Floats:
    """Prior covariance of n and m configs, (n, m)."""
    learned, numbers, step, constant = parameters[:4]
    scale = np.exp(parameters[N_SCALES:])
    total = np.full((len(a.mean), len(b.mean)), np.exp(constant))
    _add_matern(total, numbers, a.numbers / scale, b.numbers / scale)
    scale = np.exp(parameters[STEP])
    _add_matern(total, step, a.step / scale, b.step / scale)
    if a.learned.shape[1]:
        _add_matern(total, learned, a.learned, b.learned)
    return total


def gradient(a: Inputs, parameters: Floats, weights: Floats) -> Floats:
    """Sum over i, j of weights[i, j] times the derivative of `covariance(a, a)`[i, j] by each parameter.

    Those by noise and mean are left at 0.

    Args:
        a: n configs.
        parameters: where the derivative is taken.
        weights: (n, n), symmetric.
    """
    learned, numbers, step, constant = np.exp(parameters[:4])
    found = np.zeros(len(parameters))
    found[3] = constant * weights.sum()
    if a.learned.shape[1]:
        found[0] = learned * np.vdot(weights, _matern(_squared_distances(a.learned, a.learned)))
    for place, variance, x, scales in (
        (1, numbers, a.numbers, slice(N_SCALES, None)),
        (2, step, a.step, slice(STEP, STEP + 1)),
    ):
        x = x / np.exp(parameters[scales])
        squared = _squared_distances(x, x)
        r = np.sqrt(squared)
        slope = weights * (1 + r)
        slope *= np.exp(np.negative(r, out=r), out=r)  # r holds exp(-r) from here on
        found[place] = variance * (slope.sum() + np.vdot(weights, squared * r) / 3)
        # d k / d log l_i = variance 5/3 (1 + r) exp(-r) (x_i - x'_i)^2 / l_i^2
        squares = 2 * (slope.sum(axis=1) @ x**2 - np.einsum("ni,ni->i", x, slope @ x))
        found[scales] = 5 / 3 * variance * squares
    return found


def matern(x: Floats) -> Floats:
    """Matern-5/2 with lengthscale 1 and variance 1, of n points with themselves, (n, n)."""
    return _matern(_squared_distances(x, x))


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """5 |a - b|^2, (n, m)."""
    # |a - b|^2 by one matrix product: three times as fast as all differences for 45,360 candidates.
    left = np.column_stack([-10 * a, 5 * (a**2).sum(axis=1), np.ones(len(a))])
    right = np.column_stack([b, np.ones(len(b)), 5 * (b**2).sum(axis=1)])
    squared = left @ right.T
    np.maximum(squared, 1e-12, out=squared)  # rounding leaves a little below 0
    return np.asarray(squared)


def _matern(squared: Floats) -> Floats:
    """Matern-5/2 with lengthscale 1, from 5 |a - b|^2. Rasmussen and Williams (2006), eq. 4.17."""
    r = np.sqrt(squared)
    return np.asarray((1 + r + squared / 3) * np.exp(-r))


def _add_matern(total: Floats, log_variance: float, a: Floats, b: Floats) -> None:
    """Adds variance x `_matern` in place: what is in the processor's cache is not fetched again."""
    polynomial = _squared_distances(a, b)
    r = np.sqrt(polynomial)
    polynomial *= 1 / 3
    polynomial += r
    polynomial += 1
    np.subtract(log_variance, r, out=r)
    polynomial *= np.exp(r, out=r)
    total += polynomial
