"""The default surrogate: two Gaussian processes on numbers, weighted by how well each explains the trials.

*Informed* starts from what other landscapes taught (`prior.py`): learned features, a mean, kernel scales, for
a model of the user's size; where that is not known there is one for a small model and one for a large.
*Fresh* has the same kernel without the learned features and the mean. Few trials show which of them fits:
weights are posterior probabilities of the two, so a task unlike all others is met by a plain Gaussian process
after about five trials, and nothing is lost.

What the user holds likely (`UserBeliefs`) is one more member of the kind, with a mean that is lower where
it casts doubt, and half of the weight: trials take it away where the user is wrong (`benchmarks/beliefs.py`).

Notation: n observations, N candidates, k numbers. Outputs are transformed first (`transform_outputs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from scipy.linalg import blas, lapack
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from loracle.search.belief import Belief, Floats, Rows, representatives
from loracle.search.kernel import MEAN, N_SCALES, NOISE, STEP, Inputs, covariance, gradient, matern
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import SHIPPED, Prior, load_prior

# Variance of what a score on a tenth of the data deviates by from that on all, for outputs of variance 1
# (`benchmarks/cost.py`). It is as smooth as scores are and grows with the logarithm of the data, as a Wiener
# process does.
_DEVIATION = 7.0
# How much of the weight a member has that believes the user, before the first trial, and by how much a doubt
# of 1 (a config e times less likely) lowers its mean, for outputs of variance 1.
_BELIEVED, _DOUBT = 0.5, 0.3
_NOISE_FLOOR = 1e-3  # of outputs with variance 1: keeps the Cholesky factor exact
_BLOCK = 2**16  # numbers in a block of covariances: a few of them are in a processor's cache at once
_NEGLIGIBLE = 1e-12  # weight of a member that changes nothing but the last digits
_ITERATIONS = 25

# Parameters of a small and of a large model, where nobody says: as in our own landscapes and in others'.
_UNKNOWN = (3e5, 3e9)

# How far the parameters may move from their prior, in natural logarithms (the factor on the mean: as it is).
_SPREAD = {"variances": 0.7, "noise": 0.7, "lengthscales": 0.5, "mean": 0.4}
# Scales of `fresh`, for outputs of variance 1; noise, step direction and lengthscales as below.
_FRESH_VARIANCES = (1e-9, 0.5, 0.4, 0.1)
_FRESH_LENGTHSCALE, _FRESH_DROPOUT = -0.2, 0.5  # logarithms; dropout matters least (fact 32)


class Member:
    """One Gaussian process; its parameters have normal priors in the logarithm and are fitted by MAP."""

    def __init__(self, inputs: Inputs, start: Floats, deviation: Deviation | None = None) -> None:
        self.inputs = inputs  # of all candidates
        self.deviation = deviation  # of observations from what is believed; None: there is none
        self.start = start  # (N_SCALES + k,) prior medians
        self.theta = start
        self.spread = np.full_like(start, _SPREAD["lengthscales"])
        self.spread[:NOISE], self.spread[NOISE] = _SPREAD["variances"], _SPREAD["noise"]
        self.spread[MEAN] = _SPREAD["mean"]
        self.believes = False  # the user
        self._factored: tuple[Floats, Floats, Floats] | None = None  # of all observations: y, and its factor

    def believing(self, doubts: Floats) -> Member:
        """The same before any trial, with a lower mean where the user casts doubt, (N,)."""
        start = self.start.copy()
        start[MEAN] = start[MEAN] or 1.0
        mean = start[MEAN] * self.inputs.mean - _DOUBT * doubts
        member = Member(replace(self.inputs, mean=mean), start, self.deviation)
        member.believes = True
        return member

    def fit(self, rows: Rows, y: Floats) -> None:
        """Fits to transformed outputs y (n,) at `rows`."""
        observed, extra = self.inputs.at(rows), self._extra(rows)

        def loss(theta: Floats) -> tuple[float, Floats]:
            lower, residual = _factor(observed, y, theta, extra)
            return self._negative_log_posterior(lower, residual, theta), self._slope(
                observed, lower, residual, theta
            )

        low, high = (self.start + sign * 4 * self.spread for sign in (-1, 1))
        found = minimize(
            loss,
            self.start,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low.tolist(), high.tolist(), strict=True)),
            options={"maxiter": _ITERATIONS},
        )
        self.theta = found.x

    def log_posterior(self, rows: Rows, y: Floats) -> float:
        """Of the fitted parameters given y (n,) at `rows`, up to a constant. Their factor is kept."""
        lower, residual = _factor(self.inputs.at(rows), y, self.theta, self._extra(rows))
        self._factored = (y, lower, residual)
        return -self._negative_log_posterior(lower, residual, self.theta)

    def _negative_log_posterior(self, lower: Floats, residual: Floats, theta: Floats) -> float:
        solved = blas.dtrsv(lower, residual, lower=1)
        # Rasmussen and Williams (2006), eq. 2.30, and the priors.
        value = 0.5 * float(solved @ solved) + float(np.log(np.diagonal(lower)).sum())
        return value + 0.5 * float((((theta - self.start) / self.spread) ** 2).sum())

    def _slope(self, observed: Inputs, lower: Floats, residual: Floats, theta: Floats) -> Floats:
        """Derivative of `_negative_log_posterior`. Rasmussen and Williams (2006), eq. 5.9."""
        weights = lapack.dpotrs(lower, residual, lower=1)[0]
        inverse = lapack.dpotri(lower, lower=1)[0]
        inverse += np.tril(inverse, -1).T  # LAPACK leaves the other half at 0
        by_covariance = 0.5 * (inverse - np.outer(weights, weights))
        slope = gradient(observed, theta, by_covariance)
        slope[NOISE] = np.exp(theta[NOISE]) * np.trace(by_covariance)
        slope[MEAN] = -float(weights @ observed.mean)
        return slope + (theta - self.start) / self.spread**2

    def belief(self, rows: Rows, y: Floats, pending: Rows, at: Rows) -> tuple[Floats, Floats]:
        """Mean and variance of the latent score at m candidates, (m,) each; see `Ensemble.belief`."""
        if len(rows) == 0 and len(pending) == 0:
            return self._mean(at), np.full(len(at), np.exp(self.theta[:4]).sum())
        if len(pending):
            expected = self._expected(rows, y, pending) if len(rows) else _centred(self._mean(pending))
            rows, y = np.concatenate([rows, pending]), np.concatenate([y, expected])
        return self._predict(rows, y, at)

    def _expected(self, rows: Rows, y: Floats, pending: Rows) -> Floats:
        """What observations of p candidates are expected to be, (p,), their deviation included."""
        expected = self._predict(rows, y, pending)[0]
        if self.deviation is None:
            return expected
        lower, residual = _factor(self.inputs.at(rows), y, self.theta, self._extra(rows))
        weights = lapack.dpotrs(lower, residual, lower=1)[0]
        both = self.deviation.covariance(np.concatenate([pending, rows]))
        return np.asarray(expected + both[: len(pending), len(pending) :] @ weights)

    def joint(self, rows: Rows, y: Floats, at: Rows) -> tuple[Floats, Floats]:
        """Mean, (m,), and covariance, (m, m), of the latent scores at m candidates together."""
        there = self.inputs.at(at)
        mean, spread = self._mean(at), covariance(there, there, self.theta)
        if len(rows) == 0:
            return mean, spread
        observed = self.inputs.at(rows)
        lower, residual = _factor(observed, y, self.theta, self._extra(rows))
        cross = covariance(there, observed, self.theta)  # (m, n)
        mean += cross @ lapack.dpotrs(lower, residual, lower=1)[0]
        solved = blas.dtrsm(1.0, lower, cross.T, lower=1)  # (n, m)
        return mean, spread - solved.T @ solved

    def _extra(self, rows: Rows) -> Floats | None:
        return None if self.deviation is None else self.deviation.covariance(rows)

    def _mean(self, rows: Rows) -> Floats:
        return np.asarray(self.theta[MEAN] * self.inputs.mean[rows])

    def _predict(self, rows: Rows, y: Floats, at: Rows) -> tuple[Floats, Floats]:
        """Rasmussen and Williams (2006), algorithm 2.1, a block of candidates at a time."""
        observed = self.inputs.at(rows)
        known = self._factored
        if known and known[0] is y:
            lower, residual = known[1:]
        else:
            lower, residual = _factor(observed, y, self.theta, self._extra(rows))
        weights = lapack.dpotrs(lower, residual, lower=1)[0]
        mean, variance = self._mean(at), np.full(len(at), np.exp(self.theta[:4]).sum())
        block = max(64, _BLOCK // len(rows))
        for start in range(0, len(at), block):
            part = slice(start, start + block)
            cross = covariance(self.inputs.at(at[part]), observed, self.theta)  # (m, n)
            mean[part] += cross @ weights
            # The transpose is in Fortran's order, so nothing is copied: (n, m).
            solved = blas.dtrsm(1.0, lower, cross.T, lower=1, overwrite_b=1)
            variance[part] -= np.einsum("nm,nm->m", solved, solved)
        return mean, np.maximum(variance, 1e-12)


def _centred(expected: Floats) -> Floats:
    """As transformed outputs are: of one score alone, whatever it is, 0."""
    return np.asarray(expected - expected.mean())


def _factor(observed: Inputs, y: Floats, theta: Floats, extra: Floats | None = None) -> tuple[Floats, Floats]:
    """Cholesky factor of the observations' covariance, (n, n), and y less its expectation, (n,).

    `extra`, (n, n), is the covariance of what they deviate by.
    """
    matrix = covariance(observed, observed, theta)
    if extra is not None:
        matrix += extra
    matrix[np.diag_indices_from(matrix)] += np.exp(theta[NOISE]) + _NOISE_FLOOR
    lower, failed = lapack.dpotrf(matrix.T, lower=1, overwrite_a=1)  # symmetric; in Fortran's order
    if failed:
        raise np.linalg.LinAlgError("the covariance of the observations is not positive definite")
    return lower, y - theta[MEAN] * observed.mean


@dataclass(frozen=True)
class Deviation:
    """What scores of trials deviate by from what is believed: a Gaussian process of its own, not fitted.

    Attributes:
        numbers: of all candidates, (N, k), in units of their lengthscales.
        variance: of outputs of variance 1.
    """

    numbers: Floats
    variance: float

    def covariance(self, rows: Rows) -> Floats:
        """Of n observations, (n, n)."""
        return self.variance * matern(self.numbers[rows])


class Ensemble:
    """A fitted ensemble. Made by `fit_ensemble`.

    Attributes:
        members: the Gaussian processes, the informed ones first.
        weights: probability of each of them.
        informed: probability of the informed ones together.
        believing: probability of those together that believe the user.
    """

    def __init__(
        self, members: Sequence[Member], weights: Floats, rows: Rows, y: Floats, caution: float
    ) -> None:
        self.weights = weights
        self._caution = caution
        self.members = members
        self._rows = rows
        self._y = y

    @property
    def informed(self) -> float:
        learned = [member.inputs.learned.shape[1] > 0 for member in self.members]
        return float(self.weights[learned].sum())

    @property
    def believing(self) -> float:
        return float(self.weights[[member.believes for member in self.members]].sum())

    def belief(self, pending: Sequence[int] = (), at: Rows | None = None) -> Belief:
        """Mean and standard deviation of the mixture; see `belief.Surrogate`. A pending row counts as
        observed at each member's own posterior mean; before any score they are centred, as scores are.
        """
        waiting = np.asarray(pending, dtype=np.int64)
        everything = len(self.members[0].inputs.mean)
        where = np.arange(everything) if at is None else np.asarray(at, dtype=np.int64)
        mean, second = np.zeros((2, len(where)))
        with one_thread():
            for weight, member in zip(self.weights, self.members, strict=True):
                if weight < _NEGLIGIBLE:
                    continue
                m, variance = member.belief(self._rows, self._y, waiting, where)
                mean += weight * m
                second += weight * (variance + m**2)
        return Belief(mean, np.sqrt(np.maximum(second - mean**2, 1e-12)), self._caution)

    def draws(self, at: Rows, n: int, seed: int = 0) -> Floats:
        """Latent scores at m candidates in n functions drawn from the mixture, (n, m).

        Deviations are as large as the belief's `caution` makes them. Takes m cubed steps for each member.
        """
        generator = np.random.default_rng(seed)
        counts = generator.multinomial(n, self.weights)
        drawn = []
        with one_thread():
            for count, member in zip(counts, self.members, strict=True):
                if count:
                    mean, spread = member.joint(self._rows, self._y, at)
                    jitter = 1e-8 * float(np.exp(member.theta[:4]).sum())
                    root = _root(spread, jitter)
                    normal = generator.standard_normal((count, len(at)))
                    drawn.append(mean + self._caution * normal @ root.T)
        return np.concatenate(drawn)

    @property
    def noise(self) -> float:
        """Standard deviation of a score around its latent value, as fitted."""
        variances = [float(np.exp(member.theta[NOISE])) + _NOISE_FLOOR for member in self.members]
        return float(np.sqrt(self.weights @ np.array(variances)))


def _root(spread: Floats, jitter: float) -> Floats:
    """Cholesky factor of a covariance, (m, m), with as much on its diagonal as rounding asks for."""
    for _ in range(8):
        spread[np.diag_indices_from(spread)] += jitter
        lower, failed = lapack.dpotrf(spread.T, lower=1)
        if not failed:
            return np.asarray(np.tril(lower))
        jitter *= 10
    raise np.linalg.LinAlgError("the covariance of the belief is not positive definite")


def prior_alone(settings: EnsembleSettings, numbers: Floats) -> Ensemble:
    """What the prior says before any trial, whatever weight it has."""
    return fit_ensemble(replace(settings, informed=1.0), numbers, np.zeros(0, dtype=np.int64), np.zeros(0))


def fit_ensemble(
    settings: EnsembleSettings, numbers: Floats, rows: Rows, y: Floats, doubts: Floats | None = None
) -> Ensemble:
    """Fits the members to transformed observations and weighs them.

    Args:
        settings: what it is made of.
        numbers: all candidates as `prior.describe` gives them, (N, k).
        rows: candidates that were observed, (n,), n may be 0; a row may repeat.
        y: their transformed values, (n,).
        doubts: of the user, of all candidates, (N,); see `UserBeliefs.doubts`.

    Raises:
        ModelError: the prior's file cannot be read.
    """
    prior = load_prior(settings.prior or SHIPPED)
    made: list[tuple[float, Member]] = []  # with its probability before any trial
    deviation = _deviation(prior, numbers, settings.decades)
    if settings.informed > 0:
        sizes: tuple[float | None, ...] = (settings.parameters,)
        if settings.parameters is None and prior.weights["shift"].any():  # else size makes no difference
            sizes = _UNKNOWN
        for parameters in sizes:
            inputs = _inputs(settings.prior or SHIPPED, parameters, numbers.shape[1], numbers.tobytes())
            made.append((settings.informed / len(sizes), _informed(prior, inputs, deviation)))
    if settings.informed < 1:
        inputs = _inputs(settings.prior or SHIPPED, None, numbers.shape[1], numbers.tobytes())
        made.append((1 - settings.informed, _fresh(prior, inputs, deviation)))
    if doubts is not None:
        made = list(_with_believers(made, doubts))
    chances, members = zip(*made, strict=True)
    log_weights = np.log(chances)
    if len(rows):
        few = representatives(len(y), settings.fitted_on)
        with one_thread():
            for member in members:
                member.fit(rows[few], y[few])
            log_weights = log_weights + [member.log_posterior(rows, y) for member in members]
    weights = np.exp(log_weights - log_weights.max())
    return Ensemble(members, weights / weights.sum(), rows, y, settings.caution)


def _with_believers(made: Sequence[tuple[float, Member]], doubts: Floats) -> Iterator[tuple[float, Member]]:
    """Beside each informed member, or beside the fresh one where there is no other, one that believes."""
    for chance, member in made:
        if member.inputs.learned.shape[1] == 0 and len(made) > 1:
            yield chance, member
        else:
            yield chance * (1 - _BELIEVED), member
            yield chance * _BELIEVED, member.believing(doubts)


def one_thread() -> AbstractContextManager[object]:
    """Lets linear algebra use one thread: for matrices of some thirty rows more only wait for each other.

    One also makes beliefs, and so a run's history, independent of the number of cores.
    """
    limited: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limited


@cache
def _libraries() -> ThreadpoolController:
    """The linear algebra libraries that NumPy and SciPy have loaded."""
    return ThreadpoolController()


@lru_cache(maxsize=4)
def _inputs(prior: Path, parameters: float | None, k: int, numbers: bytes) -> Inputs:
    """All candidates as the kernel sees them: the same in every fit of a run."""
    return load_prior(prior).inputs(np.frombuffer(numbers).copy().reshape(-1, k), parameters)


def _deviation(prior: Prior, numbers: Floats, decades: float) -> Deviation | None:
    if decades == 0:
        return None
    lengthscales = prior.parameters_for(numbers.shape[1])[N_SCALES:]
    return Deviation(numbers / np.exp(lengthscales), _DEVIATION * decades)


def _informed(prior: Prior, inputs: Inputs, deviation: Deviation | None) -> Member:
    return Member(inputs, prior.parameters_for(inputs.numbers.shape[1]), deviation)


def _fresh(prior: Prior, inputs: Inputs, deviation: Deviation | None) -> Member:
    k = inputs.numbers.shape[1]
    start = np.full(N_SCALES + k, _FRESH_LENGTHSCALE)
    start[:4] = np.log(_FRESH_VARIANCES)
    start[NOISE], start[STEP], start[MEAN] = prior.weights["scales"][4], 0.0, 0.0
    start[N_SCALES + 4] = _FRESH_DROPOUT
    nothing = np.zeros_like(inputs.learned[:, :0])
    plain = Inputs(nothing, inputs.numbers, inputs.step, np.zeros_like(inputs.mean))
    return Member(plain, start, deviation)
