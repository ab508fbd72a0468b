"""Acquisition values against BoTorch, against integration, and where they would underflow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from botorch.acquisition import ExpectedImprovement, LogExpectedImprovement
from botorch.models.model import Model
from botorch.posteriors import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from loracle.search.acquisition import ACQUISITIONS, expected_improvement, log_expected_improvement

ANY = settings(deadline=None, max_examples=100)


class Known(Model):
    """A BoTorch model whose belief at point i is given."""

    num_outputs = 1
    batch_shape = torch.Size([])

    def __init__(self, mean: torch.Tensor, sd: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.sd = mean, sd

    def posterior(self, X: torch.Tensor, *args: object, **kwargs: object) -> GPyTorchPosterior:
        rows = X[..., 0, 0].long()
        covariance = self.sd[rows].square()[:, None, None]
        return GPyTorchPosterior(MultivariateNormal(self.mean[rows][:, None], covariance))


def beliefs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(200, generator=generator, dtype=torch.float64) * 3
    sd = torch.rand(200, generator=generator, dtype=torch.float64) * 2 + 1e-3
    return mean, sd


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("expected_improvement", ExpectedImprovement), ("log_expected_improvement", LogExpectedImprovement)],
)
@pytest.mark.parametrize("best", [-2.0, 0.0, 3.0])
@pytest.mark.filterwarnings("ignore:ExpectedImprovement has known numerical issues")
def test_equals_botorch(name: str, theirs: type, best: float) -> None:
    mean, sd = beliefs()
    points = torch.arange(len(mean), dtype=torch.float64)[:, None, None]
    expected = theirs(Known(mean, sd), best_f=best)(points)
    found = ACQUISITIONS[name](mean.numpy(), sd.numpy(), best)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("mean", "sd", "best"), [(0, 1, 0), (1, 0.5, 0), (-2, 1, 0.5), (0.3, 3, 1), (-3, 1, 1)]
)
def test_equals_the_integral_that_defines_it(mean: float, sd: float, best: float) -> None:
    integral, _ = quad(lambda f: (f - best) * norm.pdf(f, mean, sd), best, max(mean, best) + 12 * sd)
    value = expected_improvement(*one(mean, sd), best).item()
    assert value == pytest.approx(integral, rel=1e-7)
    assert log_expected_improvement(*one(mean, sd), best).item() == pytest.approx(
        math.log(integral), rel=1e-7
    )


def one(mean: float, sd: float) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(mean)]), np.array([float(sd)])


@ANY
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e2), st.floats(-1e3, 1e3))
def test_log_is_the_logarithm_where_that_can_be_taken(mean: float, sd: float, best: float) -> None:
    plain = expected_improvement(*one(mean, sd), best).item()
    logarithm = log_expected_improvement(*one(mean, sd), best).item()
    assert math.isfinite(logarithm)
    if (mean - best) / sd > -5:  # further out, the plain form cancels
        assert logarithm == pytest.approx(math.log(plain), rel=1e-6, abs=1e-9)


@ANY
@given(st.floats(-50, 50), st.floats(0, 10), st.floats(0.01, 10), st.floats(-50, 50))
def test_more_mean_is_never_worse(mean: float, more: float, sd: float, best: float) -> None:
    low, high = (log_expected_improvement(*one(m, sd), best).item() for m in (mean, mean + more))
    assert high >= low - 1e-9 * max(1.0, abs(low))


@ANY
@given(st.floats(-50, 50), st.floats(0.01, 10), st.floats(0, 10), st.floats(-50, 50))
def test_more_uncertainty_is_never_worse(mean: float, sd: float, more: float, best: float) -> None:
    low, high = (log_expected_improvement(*one(mean, s), best).item() for s in (sd, sd + more))
    assert high >= low - 1e-9 * max(1.0, abs(low))


@ANY
@given(st.floats(-50, 50), st.floats(0.01, 10), st.floats(-50, 50), st.floats(0, 10))
def test_a_better_incumbent_leaves_less_to_gain(mean: float, sd: float, best: float, more: float) -> None:
    low, high = (log_expected_improvement(*one(mean, sd), b).item() for b in (best + more, best))
    assert high >= low - 1e-9 * max(1.0, abs(low))


def test_far_tails_are_finite_and_ordered() -> None:
    distance = np.concatenate([np.linspace(0, 60, 601), np.logspace(2, 15, 300)])  # in standard deviations
    mean = -distance
    log_value = log_expected_improvement(mean, np.ones_like(mean), 0.0)
    assert np.isfinite(log_value).all()
    assert (np.diff(log_value) < 0).all()
    # log phi(u) - 2 log|u| is the leading term far out.
    u = distance[-250:]
    leading = -0.5 * u**2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(u)
    np.testing.assert_allclose(log_value[-250:], leading, rtol=1e-6)
    # The plain form has underflowed there, which is why the other exists.
    assert expected_improvement(mean, np.ones_like(mean), 0.0)[-1] == 0


def test_certain_improvement_is_the_difference() -> None:
    mean, sd = np.array([5.0, 1e6]), np.array([1e-6, 1e-6])
    np.testing.assert_allclose(expected_improvement(mean, sd, 2.0), mean - 2)
    np.testing.assert_allclose(log_expected_improvement(mean, sd, 2.0), np.log(mean - 2))
