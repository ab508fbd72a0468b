"""The language-guided Gaussian process: what the search believes about every candidate's score.

The kernel is a sum of one or two Matern-5/2 parts, as the settings say:

    language:  outputscale * M52(scale(elu(W features + b))), one lengthscale
    numeric:   outputscale * M52(knobs on their own scales in [0, 1]), one lengthscale a knob

W, b and the embedding of the learnable token are fitted together with the kernel parameters by marginal
likelihood (deep kernel learning). Notation: n observations, N candidates, d features, k knobs, p projected
dimensions. The GP is float64. Outputs are transformed first (`transform_outputs`); beliefs stay in the
transformed units.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gpytorch
import numpy as np
import numpy.typing as npt
import torch
from botorch.optim.stopping import ExpMAStoppingCriterion
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import AdditiveKernel, Kernel, MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from gpytorch.priors import LogNormalPrior
from gpytorch.utils.grid import ScaleToBounds
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from loracle.language.features import Features
from loracle.search.belief import Belief, Rows, representatives
from loracle.search.presets import SurrogateSettings

_NOISE = 0.02  # prior median of the noise variance, outputs having variance 1
BLOCK = 8192  # candidates scored at a time: bounds memory at about 8192 x (d + n) doubles


@dataclass(frozen=True)
class _Shortlist:
    """Candidates whose inputs are exact, where those of the others use features of the start token.

    Attributes:
        rows: (m,) the candidates, increasing; all observed ones are among them.
        inputs: (m, p + k) theirs.
        read: exact inputs of any other rows.
    """

    rows: npt.NDArray[np.int64]
    inputs: Tensor
    read: Callable[[npt.NDArray[np.int64]], Tensor]

    def at(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Exact inputs of some rows, (len(rows), p + k); those that are not listed are read now."""
        listed = np.isin(rows, self.rows)
        found = torch.empty(len(rows), self.inputs.shape[1], dtype=self.inputs.dtype)
        found[listed] = self.inputs[np.searchsorted(self.rows, rows[listed])]
        if not listed.all():
            found[~listed] = self.read(rows[~listed])
        return found


class LanguageGP:
    """A fitted surrogate: condition it on more rows, or ask what it believes. Made by `fit_surrogate`.

    Attributes:
        model: the fitted GP.
        inputs: (N, p + k) every candidate as the kernel sees it.
        y: (n,) transformed values of the observations.
        rows: (n,) their rows in `inputs`.
        shortlist: candidates whose inputs are exact; None: all are.
    """

    def __init__(
        self,
        model: DeepKernelGP,
        inputs: Tensor,
        y: Tensor,
        rows: npt.NDArray[np.int64],
        shortlist: _Shortlist | None = None,
    ) -> None:
        self.model = model
        self.inputs = inputs  # (N, p + k): every candidate as the kernel sees it
        self.y = y  # (n,)
        self.rows = rows  # (n,) rows of `inputs`
        self.shortlist = shortlist

    @torch.no_grad()
    def belief(self, pending: Sequence[int] = (), at: Rows | None = None) -> Belief:
        """Belief at all N candidates, or `at` some rows, given the observations and `pending` rows.

        A pending row counts as observed at its own posterior mean ("kriging believer", Ginsbourger et al.
        2010): the mean stays, the uncertainty around it shrinks. One Cholesky factor of n rows serves all
        candidates, which are taken in blocks. Rasmussen and Williams (2006), algorithm 2.1.

        With features that are exact on a shortlist, candidates on it are compared with observations and
        pending rows under the fitted token, the others with the same rows under the start token: distances
        are then between like and like, and a shift that all candidates share falls out.
        """
        extra = np.asarray(pending, dtype=np.int64)
        mean, sd = self._posterior(self.inputs[self.rows], self.inputs[extra], self.inputs)
        if self.shortlist is not None:
            listed = np.union1d(self.shortlist.rows, extra)
            inputs = self.shortlist.at(listed)
            observed, waiting = (inputs[np.searchsorted(listed, rows)] for rows in (self.rows, extra))
            mean[listed], sd[listed] = self._posterior(observed, waiting, inputs)
        rows = slice(None) if at is None else at
        return Belief(mean.numpy()[rows], sd.numpy()[rows])

    def _posterior(self, x: Tensor, pending: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd at m candidates, given n observed inputs and those pending; (m,) each."""
        y = self.y
        mean, sd = torch.empty(2, len(candidates), dtype=y.dtype)
        with torch_threads():
            if len(pending):
                y = torch.cat([y, self._predict(self._factor(x, y), x, pending)[0]])
                x = torch.cat([x, pending])
            factor = self._factor(x, y)
            for start in range(0, len(candidates), BLOCK):
                block = slice(start, start + BLOCK)
                mean[block], sd[block] = self._predict(factor, x, candidates[block])
        return mean, sd

    def _factor(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factor L of K + noise I, (n, n), and weights (K + noise I)^-1 (y - mean), (n,)."""
        covariance = self.model.covar_module(x).to_dense()
        noise = self.model.likelihood.noise
        lower = torch.linalg.cholesky(covariance + noise * torch.eye(len(x), dtype=x.dtype))
        residual = (y - self.model.mean_module(x)).unsqueeze(-1)
        return lower, torch.cholesky_solve(residual, lower).squeeze(-1)

    def _predict(self, factor: tuple[Tensor, Tensor], observed: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        lower, weights = factor
        cross = self.model.covar_module(observed, x).to_dense()  # (n, m)
        mean = self.model.mean_module(x) + weights @ cross
        solved = torch.linalg.solve_triangular(lower, cross, upper=False)
        variance = self.model.covar_module(x, diag=True) - solved.square().sum(dim=0)
        return mean, variance.clamp(min=1e-12).sqrt()


def fit_surrogate(
    settings: SurrogateSettings,
    coordinates: npt.NDArray[np.float64],
    features: Features | None,
    rows: npt.NDArray[np.int64],
    y: npt.NDArray[np.float64],
    seed: int,
) -> LanguageGP:
    """Fits the surrogate to transformed observations.

    Where `features` are exact on a shortlist only, the list is drawn up after the fit: all observed rows, and
    the candidates that the features of the start token give the largest mean + 2 sd. Their features are
    computed with the fitted token. The list refines beliefs and fences nothing in: any candidate may be
    chosen, but one off the list has a lower bound of this kind than all that are on it.

    Args:
        settings: what it is made of.
        coordinates: knob values of all candidates on their own scales, (N, k).
        features: language features of all candidates; needed if `settings.language`.
        rows: candidates that were observed, (n,); a row may repeat.
        y: their transformed values, (n,).
        seed: of the projection's first weights.

    Raises:
        ValueError: the settings want language features, and there are none or those of another space.
    """
    if settings.language and features is None:
        raise ValueError("these settings use the language kernel, so `features` are needed")
    numbers = torch.from_numpy(coordinates) if settings.numeric else None
    source = features if settings.language else None
    positions = torch.from_numpy(rows)
    target = torch.from_numpy(y)
    n_knobs = coordinates.shape[1] if settings.numeric else 0
    few = torch.from_numpy(representatives(len(y), settings.fitted_on or len(y)))
    model = DeepKernelGP(settings, source, n_knobs, len(few), seed)
    _maximise_marginal_likelihood(model, settings, source, positions[few], numbers, target[few])
    model.eval()
    with torch.no_grad():
        matrix = source.all(model.token) if source else None
        if matrix is not None and len(matrix) != len(coordinates):
            raise ValueError(
                f"features have {len(matrix)} rows, but there are {len(coordinates)} candidates; "
                "build them for this space"
            )
        inputs = model.inputs(matrix, numbers)
    surrogate = LanguageGP(model, inputs, target, rows)
    if source is None or source.shortlist is None or model.token is None:
        return surrogate
    return LanguageGP(model, inputs, target, rows, _draw_up_shortlist(surrogate, source, numbers))


def _draw_up_shortlist(surrogate: LanguageGP, features: Features, numbers: Tensor | None) -> _Shortlist:
    """The observed rows and `features.shortlist` others, with the fitted token; the lowest rows of equals."""
    model, observed = surrogate.model, surrogate.rows

    @torch.no_grad()
    def read(rows: npt.NDArray[np.int64]) -> Tensor:
        positions = torch.from_numpy(rows)
        return model.inputs(
            features.rows(positions, model.token), None if numbers is None else numbers[positions]
        )

    belief = surrogate.belief()
    bound = belief.mean + 2 * belief.sd
    bound[observed] = np.inf
    best = np.argsort(-bound, kind="stable")[: len(np.unique(observed)) + (features.shortlist or 0)]
    rows = np.sort(best)
    return _Shortlist(rows, read(rows), read)


@contextmanager
def torch_threads(number: int = 1) -> Iterator[None]:
    """Lets torch use one thread (or `number`): for a GP; a language model takes as many as allowed.

    Kernel matrices have about 30 rows: more threads only wait for each other, up to seconds each time. One
    also makes beliefs of given features, and so a run's history, independent of the number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DeepKernelGP(gpytorch.models.ExactGP):  # type: ignore[misc]
    """Exact GP whose inputs are projected features beside scaled knobs."""

    def __init__(
        self, settings: SurrogateSettings, features: Features | None, n_knobs: int, n: int, seed: int
    ) -> None:
        likelihood = GaussianLikelihood(
            noise_constraint=GreaterThan(1e-4),
            noise_prior=LogNormalPrior(math.log(_NOISE), 1.0) if settings.priors else None,
        )
        first_knob = settings.projection if features else 0
        width = first_knob + n_knobs
        super().__init__(torch.zeros(n, width, dtype=torch.float64), torch.zeros(n).double(), likelihood)
        self.mean_module = ConstantMean()
        self.projection: torch.nn.Linear | None = None
        self.token: torch.nn.Parameter | None = None
        self.to_bounds = ScaleToBounds(-1.0, 1.0)
        kernels: list[Kernel] = []
        if features is not None:
            self.projection = _projection(features.dimension, settings.projection, seed)
            if settings.learnable_token and features.token is not None:
                self.token = torch.nn.Parameter(features.token.clone())
            # Features lie in [-1, 1] of p dimensions, knobs in [0, 1]: typical distances differ.
            typical = 0.5 * math.sqrt(settings.projection)
            kernels.append(_matern(settings, range(first_knob), typical, share=0.3, ard=False))
        if n_knobs:
            knobs = range(first_knob, first_knob + n_knobs)
            kernels.append(_matern(settings, knobs, 0.6, share=0.7, ard=True))
        self.covar_module = kernels[0] if len(kernels) == 1 else AdditiveKernel(*kernels)
        self.double()

    def inputs(self, features: Tensor | None, numbers: Tensor | None) -> Tensor:
        """What the kernel compares: (m, d) features beside (m, k) knobs, float64."""
        parts = []
        if features is not None and self.projection is not None:
            # In the features' own dtype: float32 halves the time of 45,360 x 3,584 and loses nothing here.
            weight, bias = (p.to(features.dtype) for p in (self.projection.weight, self.projection.bias))
            projected = torch.nn.functional.elu(torch.nn.functional.linear(features, weight, bias))
            parts.append(self.to_bounds(projected.double()))
        if numbers is not None:
            parts.append(numbers)
        return torch.cat(parts, dim=-1)

    def forward(self, x: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))


def _projection(dimension: int, width: int, seed: int) -> torch.nn.Linear:
    """Linear layer with Xavier-uniform weights and bias 0.01, as published."""
    layer = torch.nn.Linear(dimension, width, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.xavier_uniform_(layer.weight, generator=generator)
    torch.nn.init.constant_(layer.bias, 0.01)
    return layer


def _matern(settings: SurrogateSettings, dims: range, typical: float, *, share: float, ard: bool) -> Kernel:
    """Scaled Matern-5/2 on some columns, by priors around a typical lengthscale and a share of the variance.

    Without priors it starts at softplus(0) = 0.693, as published.
    """
    prior: dict[str, Any] = {}
    scale_prior = None
    if settings.priors:
        prior["lengthscale_prior"] = LogNormalPrior(math.log(typical), 0.6)
        scale_prior = LogNormalPrior(math.log(share), 0.7)
    base = MaternKernel(nu=2.5, ard_num_dims=len(dims) if ard else None, active_dims=tuple(dims), **prior)
    kernel = ScaleKernel(base, outputscale_prior=scale_prior)
    if settings.priors:
        base.lengthscale = typical
        kernel.outputscale = share
    return kernel


def _maximise_marginal_likelihood(
    model: DeepKernelGP,
    settings: SurrogateSettings,
    features: Features | None,
    positions: Tensor,
    numbers: Tensor | None,
    target: Tensor,
) -> None:
    """AdamW with two rates that decay every step, until BoTorch's default stopping rule."""
    learned = [*model.projection.parameters()] if model.projection is not None else []
    if model.token is not None:
        learned.append(model.token)
    known = {id(parameter) for parameter in learned}
    kernel = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": kernel, "lr": settings.kernel_rate}]
    if learned:
        groups.append({"params": learned, "lr": settings.projection_rate})
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    priors = priors_of(model)
    stop = ExpMAStoppingCriterion()
    observed_numbers = None if numbers is None else numbers[positions]
    frozen = None
    if features is not None and model.token is None:
        frozen = features.rows(positions, None).double()
    model.train()
    many = torch.get_num_threads()
    with torch_threads():
        while True:
            optimizer.zero_grad()
            read, observed = None, frozen
            if features is not None and model.token is not None:
                with torch_threads(many):
                    read = features.rows(positions, model.token)
                observed = read.detach().requires_grad_()
            x = model.inputs(observed, observed_numbers)
            loss = -log_posterior(model, priors, x, target) / len(target)
            if stop(loss.detach()):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            if read is not None and observed is not None:
                with torch_threads(many):
                    torch.autograd.backward(read, observed.grad)
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= settings.rate_decay


def log_posterior(model: DeepKernelGP, priors: Sequence[_LogNormal], x: Tensor, y: Tensor) -> Tensor:
    """Log marginal likelihood of y (n,) at x (n, p + k) and log density of the priors.

    What GPyTorch's ExactMarginalLogLikelihood computes, times n, in a third of the time: for thirty
    observations almost all of that is spent around the arithmetic.
    """
    matrix = _covariance(model.covar_module, x)
    noise = model.likelihood.noise
    lower = psd_safe_cholesky(matrix + noise * torch.eye(len(x), dtype=x.dtype))
    residual = (y - model.mean_module.constant).unsqueeze(-1)
    solved = torch.linalg.solve_triangular(lower, residual, upper=False)
    # Rasmussen and Williams (2006), eq. 2.30.
    value: Tensor = (
        -0.5 * solved.square().sum() - lower.diagonal().log().sum() - 0.5 * len(y) * math.log(2 * math.pi)
    )
    for prior in priors:
        value = value + prior.log_density()
    return value


def _covariance(kernel: Kernel, x: Tensor) -> Tensor:
    """Covariance matrix of the kernels that `_matern` makes, (n, n). Rasmussen and Williams, eq. 4.17."""
    if isinstance(kernel, AdditiveKernel):
        return torch.stack([_covariance(part, x) for part in kernel.kernels]).sum(dim=0)
    matern = kernel.base_kernel
    a = x[:, matern.active_dims] / matern.lengthscale
    a = a - a.mean(dim=0)  # differences of small numbers
    norms = a.square().sum(-1)
    r2 = 5 * (norms[:, None] + norms - 2 * a @ a.mT).clamp(min=0) + 1e-30
    r = r2.sqrt()
    found: Tensor = kernel.outputscale * (1 + r + r2 / 3) * (-r).exp()
    return found


@dataclass(frozen=True)
class _LogNormal:
    """A log-normal prior on one of the model's positive parameters."""

    parameter: Callable[[], Tensor]
    location: Tensor
    spread: Tensor

    def log_density(self) -> Tensor:
        """Summed over the parameter's numbers."""
        logarithm = self.parameter().log()
        deviation = (logarithm - self.location) / self.spread
        constant = self.spread.log() + 0.5 * math.log(2 * math.pi)
        return -(0.5 * deviation.square() + logarithm + constant).sum()


def priors_of(model: DeepKernelGP) -> list[_LogNormal]:
    """The priors on the model's parameters, with what they are on."""
    return [
        _LogNormal(functools.partial(value, module), prior.loc, prior.scale)
        for _, module, prior, value, _ in model.named_priors()
    ]
