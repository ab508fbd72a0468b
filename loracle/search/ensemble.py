"""The default surrogate: two Gaussian processes on numbers, weighted by how well each explains the trials.

*Informed* starts from what other landscapes taught (`prior.py`): learned features, a mean, kernel scales.
*Fresh* has the same kernel without the learned features and the mean. Few trials show which of them fits:
weights are posterior probabilities of the two, so a task unlike all others is met by a plain Gaussian process
after about five trials, and nothing is lost.

Notation: n observations, N candidates, k numbers. Outputs are transformed first (`transform_outputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController
from torch import Tensor

from loracle.search.language_gp import Belief, representatives, torch_threads
from loracle.search.prior import N_SCALES, SHIPPED, Inputs, Prior, covariance, cross_covariance, load_prior

_NOISE_FLOOR = 1e-3  # of outputs with variance 1: keeps the Cholesky factor exact
_BLOCK = 2**18  # numbers in a block of covariances, about what a processor's cache holds
_NEGLIGIBLE = 1e-12  # weight of a member that changes nothing but the last digits
_ITERATIONS = 25

# How far the parameters may move from their prior, in natural logarithms (the factor on the mean: as it is).
_SPREAD = {"variances": 0.7, "noise": 0.7, "lengthscales": 0.5, "mean": 0.4}
# Scales of `fresh`, for outputs of variance 1; noise, step direction and lengthscales as below.
_FRESH_VARIANCES = (1e-9, 0.5, 0.4, 0.1)
_FRESH_LENGTHSCALE, _FRESH_DROPOUT = -0.2, 0.5  # logarithms; dropout matters least (fact 32)


@dataclass(frozen=True)
class EnsembleSettings:
    """What the ensemble is made of.

    Attributes:
        informed: probability, before the first trial, that a task is like those the prior was fitted to; 0
            leaves `fresh` alone.
        prior: the file; None is the one that ships with the package.
        output: transform of the observed values.
        caution: of beliefs. Parameters are fitted, not integrated over, and the config with the luckiest
            belief is chosen: without it, 80 % intervals held 68 % of the values that then came
            (`benchmarks/calibration.py`). Expected improvement does without: with it, regret was larger.
        fitted_on: observations that parameters are fitted to, at most; beliefs are exact given the parameters
            and all observations, however many. A fit to n takes n^3 steps some 30 times over.
    """

    informed: float = 0.8
    prior: Path | None = None
    output: str = "half_rank"
    caution: float = 1.3
    fitted_on: int = 150


class _Member:
    """One Gaussian process; its parameters have normal priors in the logarithm and are fitted by MAP."""

    def __init__(self, inputs: Inputs, start: Tensor) -> None:
        self.inputs = inputs  # of all candidates
        self.start = start  # (N_SCALES + k,) prior medians
        self.theta = start
        spread = torch.full_like(start, _SPREAD["lengthscales"])
        spread[:4], spread[4], spread[6] = _SPREAD["variances"], _SPREAD["noise"], _SPREAD["mean"]
        self.spread = spread
        self._factored: tuple[Tensor, Tensor, Tensor] | None = None  # of all observations: y, and its factor

    def fit(self, rows: Tensor, y: Tensor) -> None:
        """Fits to transformed outputs y (n,) at `rows`."""
        observed = self.inputs.at(rows)

        def loss(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            theta = torch.from_numpy(point).requires_grad_()
            noise = (theta[4].exp() + _NOISE_FLOOR) * torch.eye(len(y), dtype=y.dtype)
            lower = torch.linalg.cholesky(covariance(observed, observed, theta) + noise)
            value = self._negative_log_posterior(lower, y - theta[6] * observed.mean, theta)
            (gradient,) = torch.autograd.grad(value, theta)
            return float(value.detach()), gradient.numpy()

        low, high = (self.start + sign * 4 * self.spread for sign in (-1, 1))
        # Its dozen numbers would keep as many threads spinning as there are cores: 0.17 s instead of 0.001.
        with _libraries().limit(limits=1, user_api="blas"):
            found = minimize(
                loss,
                self.start.numpy(),
                jac=True,
                method="L-BFGS-B",
                bounds=list(zip(low.tolist(), high.tolist(), strict=True)),
                options={"maxiter": _ITERATIONS},
            )
        self.theta = torch.from_numpy(found.x)

    @torch.no_grad()
    def log_posterior(self, rows: Tensor, y: Tensor) -> float:
        """Of the fitted parameters given y (n,) at `rows`, up to a constant. Their factor is kept."""
        self._factored = (y, *self._factor(rows, y))
        return -float(self._negative_log_posterior(*self._factored[1:], self.theta))

    def _negative_log_posterior(self, lower: Tensor, residual: Tensor, theta: Tensor) -> Tensor:
        solved = torch.linalg.solve_triangular(lower, residual[:, None], upper=False)
        # Rasmussen and Williams (2006), eq. 2.30, and the priors.
        value: Tensor = 0.5 * solved.square().sum() + lower.diagonal().log().sum()
        return value + 0.5 * ((theta - self.start) / self.spread).square().sum()

    def belief(self, rows: Tensor, y: Tensor, pending: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the latent score at m candidates, (m,) each; see `Ensemble.belief`."""
        if len(rows) == 0 and len(pending) == 0:
            return self._mean(at), self.theta[:4].exp().sum().expand(len(at))
        if len(pending):
            expected = self._predict(rows, y, pending)[0] if len(rows) else self._mean(pending)
            rows, y = torch.cat([rows, pending]), torch.cat([y, expected])
        return self._predict(rows, y, at)

    def _mean(self, rows: Tensor) -> Tensor:
        return self.theta[6] * self.inputs.mean[rows]

    def _predict(self, rows: Tensor, y: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Rasmussen and Williams (2006), algorithm 2.1, a block of candidates at a time."""
        observed = self.inputs.at(rows)
        known = self._factored
        lower, residual = known[1:] if known and known[0] is y else self._factor(rows, y)
        weights = torch.cholesky_solve(residual[:, None], lower).squeeze(-1)
        mean, variance = self._mean(at), self.theta[:4].exp().sum().repeat(len(at))
        block = max(64, _BLOCK // len(rows))
        for start in range(0, len(at), block):
            part = slice(start, start + block)
            cross = cross_covariance(observed, self.inputs.at(at[part]), self.theta)  # (n, m)
            mean[part] += weights @ cross
            solved = torch.linalg.solve_triangular(lower, cross, upper=False)
            variance[part] -= solved.square_().sum(dim=0)
        return mean, variance.clamp_(min=1e-12)

    def _factor(self, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factor of the observations' covariance, (n, n), and y less its expectation, (n,)."""
        observed = self.inputs.at(rows)
        matrix = cross_covariance(observed, observed, self.theta)
        matrix.diagonal().add_(self.theta[4].exp() + _NOISE_FLOOR)
        lower: Tensor = torch.linalg.cholesky(matrix)
        return lower, y - self._mean(rows)


class Ensemble:
    """A fitted ensemble. Made by `fit_ensemble`.

    Attributes:
        weights: probability of each member, `informed` first; (1,) without it.
    """

    def __init__(
        self,
        members: Sequence[_Member],
        weights: npt.NDArray[np.float64],
        rows: Tensor,
        y: Tensor,
        caution: float,
    ) -> None:
        self.weights = weights
        self._caution = caution
        self._members = members
        self._rows = rows
        self._y = y

    @torch.no_grad()
    def belief(
        self, pending: Sequence[int] = (), at: Sequence[int] | npt.NDArray[np.int64] | None = None
    ) -> Belief:
        """Belief at all N candidates, or `at` m of them: mean and standard deviation of the mixture.

        A pending row counts as observed at each member's own posterior mean ("kriging believer", Ginsbourger
        et al. 2010).
        """
        waiting = torch.as_tensor(list(pending), dtype=torch.int64)
        everything = len(self._members[0].inputs.mean)
        where = torch.arange(everything) if at is None else torch.as_tensor(np.asarray(at, dtype=np.int64))
        mean, second = torch.zeros(2, len(where), dtype=torch.float64)
        with torch_threads():
            for weight, member in zip(self.weights, self._members, strict=True):
                if weight < _NEGLIGIBLE:
                    continue
                m, variance = member.belief(self._rows, self._y, waiting, where)
                mean += weight * m
                second += weight * (variance + m.square())
        return Belief(mean, (second - mean.square()).clamp(min=1e-12).sqrt(), self._caution)


def fit_ensemble(
    settings: EnsembleSettings,
    numbers: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    y: npt.NDArray[np.float64],
) -> Ensemble:
    """Fits the members to transformed observations and weighs them.

    Args:
        settings: what it is made of.
        numbers: all candidates as `prior.describe` gives them, (N, k).
        rows: candidates that were observed, (n,), n may be 0; a row may repeat.
        y: their transformed values, (n,).

    Raises:
        ModelError: the prior's file cannot be read.
    """
    prior = load_prior(settings.prior or SHIPPED)
    inputs = _inputs(settings.prior or SHIPPED, numbers.shape[1], numbers.tobytes())
    chances = [settings.informed, 1 - settings.informed]
    makers = [_informed, _fresh]
    members = [make(prior, inputs) for make, chance in zip(makers, chances, strict=True) if chance > 0]
    positions, target = torch.from_numpy(rows), torch.from_numpy(y)
    log_weights = np.log([chance for chance in chances if chance > 0])
    if len(rows):
        few = torch.from_numpy(representatives(len(y), settings.fitted_on))
        with torch_threads():
            for member in members:
                member.fit(positions[few], target[few])
            log_weights = log_weights + [member.log_posterior(positions, target) for member in members]
    weights = np.exp(log_weights - log_weights.max())
    return Ensemble(members, weights / weights.sum(), positions, target, settings.caution)


@cache
def _libraries() -> ThreadpoolController:
    """The linear algebra libraries beside torch's own, which SciPy has loaded."""
    return ThreadpoolController()


@lru_cache(maxsize=2)
def _inputs(prior: Path, k: int, numbers: bytes) -> Inputs:
    """All candidates as the kernel sees them: the same in every fit of a run."""
    with torch.no_grad(), torch_threads():
        return load_prior(prior).inputs(torch.from_numpy(np.frombuffer(numbers).copy().reshape(-1, k)))


def _informed(prior: Prior, inputs: Inputs) -> _Member:
    return _Member(inputs, prior.parameters_for(inputs.numbers.shape[-1]))


def _fresh(prior: Prior, inputs: Inputs) -> _Member:
    k = inputs.numbers.shape[-1]
    start = torch.full((N_SCALES + k,), _FRESH_LENGTHSCALE, dtype=torch.float64)
    start[:4] = torch.tensor(_FRESH_VARIANCES).log()
    start[4], start[5], start[6] = prior.scales[4], 0.0, 0.0
    start[N_SCALES + 4] = _FRESH_DROPOUT
    nothing = torch.zeros_like(inputs.learned[:, :0])
    return _Member(Inputs(nothing, inputs.numbers, inputs.step, torch.zeros_like(inputs.mean)), start)
