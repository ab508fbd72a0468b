"""The surrogate against GPyTorch itself, the published starting point, and its treatment of outputs."""

from __future__ import annotations

import math
from dataclasses import replace

import gpytorch
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loracle.language.features import Features, FixedFeatures
from loracle.search.belief import representatives
from loracle.search.language_gp import DeepKernelGP, LanguageGP, fit_surrogate, log_posterior, priors_of
from loracle.search.outputs import transform_outputs
from loracle.search.presets import PRESETS, SurrogateSettings

PAPER, LANGUAGE = (PRESETS[name].surrogate for name in ("paper", "language"))
assert isinstance(PAPER, SurrogateSettings)
assert isinstance(LANGUAGE, SurrogateSettings)
NUMERIC = replace(LANGUAGE, language=False)
N, D, K = 40, 12, 3  # candidates, features, knobs


class TokenFeatures:
    """Features that a learnable token of 4 numbers bends, as a language model would."""

    dimension = D
    shortlist: int | None = None

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(N, D, generator=generator)
        self.mix = torch.randn(N, 4, D, generator=generator)
        self.token: Tensor | None = torch.full((4,), 0.1)

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        assert token is not None
        bend = torch.einsum("e,ned->nd", token.float(), self.mix[positions])
        return torch.tanh(self.matrix[positions] + bend)

    def all(self, token: Tensor | None) -> Tensor:
        with torch.no_grad():
            return self.rows(torch.arange(N), token)


def fixed_features() -> FixedFeatures:
    return FixedFeatures(torch.randn(N, D, generator=torch.Generator().manual_seed(1)))


def observations(n: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of all candidates, observed rows and their outputs."""
    generator = np.random.default_rng(seed)
    coordinates = generator.random((N, K))
    rows = generator.choice(N, size=n, replace=False)
    values = np.sin(4 * coordinates[rows, 0]) + coordinates[rows, 1] ** 2
    return coordinates, rows, transform_outputs(values, np.zeros(n, dtype=bool), "standardize")


def fitted(config: SurrogateSettings, features: Features | None, seed: int = 0) -> LanguageGP:
    coordinates, rows, y = observations()
    return fit_surrogate(config, coordinates, features, rows, y, seed)


CASES = {
    "paper": (PAPER, TokenFeatures()),
    "paper, frozen": (PAPER, fixed_features()),
    "language": (LANGUAGE, fixed_features()),
    "numeric": (NUMERIC, None),
}


# -- belief -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_belief_equals_gpytorchs_posterior_of_the_same_model(case: str) -> None:
    surrogate = fitted(*CASES[case])
    belief = surrogate.belief()
    model = surrogate.model
    model.set_train_data(surrogate.inputs[surrogate.rows], surrogate.y, strict=False)
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        posterior = model.eval()(surrogate.inputs)
        torch.testing.assert_close(belief.mean, posterior.mean.numpy(), rtol=0, atol=1e-6)
        torch.testing.assert_close(belief.sd**2, posterior.variance.numpy(), rtol=0, atol=1e-6)
    assert belief.mean.shape == belief.sd.shape == (N,)
    assert (belief.sd > 0).all()


@pytest.mark.parametrize("case", CASES)
def test_pending_shrinks_the_uncertainty_and_keeps_the_mean(case: str) -> None:
    surrogate = fitted(*CASES[case])
    before, pending = surrogate.belief(), [3, 17, 3]
    after = surrogate.belief(pending)
    torch.testing.assert_close(after.mean, before.mean, rtol=0, atol=1e-9)
    assert (after.sd <= before.sd + 1e-9).all()
    assert (after.sd[pending] < before.sd[pending]).all()
    assert np.array_equal(surrogate.belief().sd, before.sd)  # nothing stays behind


def test_beliefs_in_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate = fitted(LANGUAGE, fixed_features())
    whole = surrogate.belief()
    monkeypatch.setattr("loracle.search.language_gp.BLOCK", 7)
    torch.testing.assert_close(surrogate.belief().mean, whole.mean)
    torch.testing.assert_close(surrogate.belief().sd, whole.sd)


def test_the_fit_learns_from_the_data() -> None:
    coordinates, rows, y = observations(n=20)
    mean = fit_surrogate(NUMERIC, coordinates, None, rows, y, 0).belief().mean
    truth = np.sin(4 * coordinates[:, 0]) + coordinates[:, 1] ** 2
    unseen = np.setdiff1d(np.arange(N), rows)
    assert np.corrcoef(mean[unseen], truth[unseen])[0, 1] > 0.9


@pytest.mark.parametrize("case", CASES)
def test_the_same_arguments_give_the_same_belief(case: str) -> None:
    first = fitted(*CASES[case]).belief()
    torch.manual_seed(1234)  # the global generator has no say
    assert np.array_equal(fitted(*CASES[case]).belief().mean, first.mean)
    if CASES[case][1] is not None:
        assert not np.array_equal(fitted(*CASES[case], seed=1).belief().mean, first.mean)


def test_fitting_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    fitted(NUMERIC, None)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("case", CASES)
def test_what_the_fit_maximises_is_gpytorchs_marginal_likelihood(case: str) -> None:
    config, features = CASES[case]
    coordinates, rows, y = observations()
    source = features if config.language else None
    model = DeepKernelGP(config, source, K if config.numeric else 0, len(rows), seed=0).train()
    for parameter in model.parameters():
        parameter.requires_grad_(True).data += 0.1
    positions, target = torch.from_numpy(rows), torch.from_numpy(y)
    read = source.rows(positions, model.token) if source else None
    x = model.inputs(read, torch.from_numpy(coordinates)[positions] if config.numeric else None).detach()
    model.set_train_data(x, target, strict=False)
    theirs = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)(model(x), target) * len(y)
    ours = log_posterior(model, priors_of(model), x, target)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # some of GPyTorch's priors are float32
    kernel = [*model.covar_module.parameters(), *model.likelihood.parameters(), model.mean_module.constant]
    for mine, known in zip(
        torch.autograd.grad(ours, kernel), torch.autograd.grad(theirs, kernel), strict=True
    ):
        torch.testing.assert_close(mine, known, rtol=0, atol=1e-6)


def test_many_observations_are_fitted_by_some_and_believed_in_full() -> None:
    coordinates, rows, y = observations(n=30)
    few = replace(NUMERIC, fitted_on=12)
    belief = fit_surrogate(few, coordinates, None, rows, y, 0).belief()
    whole = fit_surrogate(NUMERIC, coordinates, None, rows, y, 0).belief()
    assert np.isfinite(belief.mean).all()
    assert (
        np.corrcoef(belief.mean[rows], whole.mean[rows])[0, 1] > 0.99
    )  # it knows those it was not fitted to
    assert np.array_equal(
        fit_surrogate(replace(NUMERIC, fitted_on=30), coordinates, None, rows, y, 0).belief().mean, whole.mean
    )
    assert representatives(30, 12).tolist() == [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]
    assert representatives(3, 12).tolist() == [0, 1, 2]


# -- little data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("values", [[0.3], [0.1, 0.1, 0.1], [math.nan, math.nan], [math.nan, 0.5]])
def test_little_data_gives_a_finite_belief(case: str, values: list[float]) -> None:
    config, features = CASES[case]
    array = np.array(values)
    y = transform_outputs(array, np.isnan(array), config.output)
    rows = np.arange(len(values))
    belief = fit_surrogate(config, observations()[0], features, rows, y, 0).belief([20])
    assert np.isfinite(belief.mean).all()
    assert np.isfinite(belief.sd).all()


def test_a_config_may_be_observed_twice() -> None:
    coordinates, rows, _ = observations()
    rows[1] = rows[0]
    y = transform_outputs(np.arange(9.0), np.zeros(9, dtype=bool), "standardize")
    belief = fit_surrogate(NUMERIC, coordinates, None, rows, y, 0).belief()
    assert np.isfinite(belief.mean).all()


def test_features_are_checked() -> None:
    with pytest.raises(ValueError, match="`features` are needed"):
        fitted(PAPER, None)
    with pytest.raises(ValueError, match="features have 50 rows, but there are 40 candidates"):
        fitted(PAPER, FixedFeatures(torch.randn(50, D)))


# -- the learnable token ------------------------------------------------------------------------------


def test_the_learnable_token_is_fitted_and_its_source_is_left_alone() -> None:
    features = TokenFeatures()
    token = fitted(PAPER, features).model.token
    assert token is not None
    assert (token.detach() - features.token).abs().min() > 1e-4
    assert torch.equal(features.token, torch.full((4,), 0.1))


def test_the_token_can_be_left_out() -> None:
    assert fitted(replace(PAPER, learnable_token=False), fixed_features()).model.token is None
    assert fitted(PAPER, fixed_features()).model.token is None  # features that have none


def test_the_token_moves_to_where_the_likelihood_is_larger() -> None:
    features, (_, rows, y) = TokenFeatures(), observations()
    positions, target = torch.from_numpy(rows), torch.from_numpy(y)

    def loss(token: Tensor) -> float:
        """Negative log marginal likelihood at the published start."""
        model = DeepKernelGP(PAPER, features, 0, len(rows), seed=0).train()
        x = model.inputs(features.rows(positions, token), None)
        model.set_train_data(x, target, strict=False)
        return -gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)(model(x), target).item()

    assert features.token is not None
    slopes = []
    for step in torch.eye(4) * 1e-2:
        slopes.append(loss(features.token + step) - loss(features.token - step))
    token = fitted(replace(PAPER, rate_decay=1e-12), features).model.token  # one step of AdamW: the sign
    assert torch.equal((token - features.token).sign(), -torch.tensor(slopes).sign().double())


# -- a shortlist --------------------------------------------------------------------------------------


class ShortlistedFeatures(TokenFeatures):
    """Those, but all rows only with the start token; it notes which rows are read exactly."""

    def __init__(self, shortlist: int) -> None:
        super().__init__()
        self.shortlist = shortlist
        self.read: list[int] = []

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        self.read = positions.tolist()
        return super().rows(positions, token)

    def all(self, token: Tensor | None) -> Tensor:
        return super().all(self.token)


def test_beliefs_on_the_shortlist_are_exact() -> None:
    few = ShortlistedFeatures(8)
    near, exact = fitted(PAPER, few), fitted(PAPER, TokenFeatures())
    shortlist, observed = few.read, observations()[1]
    assert set(observed) < set(shortlist)
    assert len(shortlist) == len(set(shortlist)) == len(observed) + 8
    off = [row for row in range(N) if row not in shortlist]
    for pending in ([], shortlist[:1], [off[0], shortlist[0], off[0], off[5]]):
        listed = sorted({*shortlist, *pending})
        found, expected = near.belief(pending), exact.belief(pending)
        torch.testing.assert_close(found.mean[listed], expected.mean[listed], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.sd[listed], expected.sd[listed], rtol=0, atol=1e-9)
    assert not np.allclose(near.belief().mean, exact.belief().mean)


def test_the_shortlist_holds_the_most_promising_candidates() -> None:
    few = ShortlistedFeatures(8)
    surrogate = fitted(PAPER, few)
    listed, observed = set(few.read), set(observations()[1].tolist())
    start = LanguageGP(surrogate.model, surrogate.inputs, surrogate.y, surrogate.rows).belief()
    bound = start.mean + 2 * start.sd
    others = [i for i in range(N) if i not in listed]
    assert bound[sorted(listed - observed)].min() >= bound[others].max()
    belief = surrogate.belief()  # off the list: all with the start token, like with like
    assert np.array_equal(belief.mean[others], start.mean[others])
    assert np.array_equal(belief.sd[others], start.sd[others])
    assert np.array_equal(fitted(PAPER, ShortlistedFeatures(8)).belief().mean, belief.mean)


def test_a_shortlist_as_long_as_the_space_leaves_nothing_out() -> None:
    found, exact = fitted(PAPER, ShortlistedFeatures(99)).belief(), fitted(PAPER, TokenFeatures()).belief()
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=1e-9)


def test_without_a_learnable_token_there_is_no_shortlist() -> None:
    features = FixedFeatures(fixed_features().matrix)
    features.shortlist = 8
    config = replace(PAPER, learnable_token=False)
    assert np.array_equal(
        fitted(config, features).belief().mean, fitted(config, fixed_features()).belief().mean
    )


# -- the published start ------------------------------------------------------------------------------


def test_the_paper_preset_starts_as_published() -> None:
    model = DeepKernelGP(PAPER, FixedFeatures(torch.zeros(5, 3584)), 0, 2, seed=0)
    assert model.covar_module.base_kernel.lengthscale.item() == pytest.approx(math.log(2))
    assert model.covar_module.outputscale.item() == pytest.approx(math.log(2))
    assert model.likelihood.noise.item() == pytest.approx(math.log(2) + 1e-4)
    assert model.covar_module.base_kernel.nu == 2.5
    assert model.covar_module.base_kernel.ard_num_dims is None
    assert model.mean_module.constant.item() == 0
    assert list(model.named_priors()) == []
    assert model.projection.weight.shape == (64, 3584)
    assert torch.equal(model.projection.bias, torch.full((64,), 0.01, dtype=torch.float64))
    bound = math.sqrt(6 / (3584 + 64))
    assert 0.99 * bound < model.projection.weight.abs().max() <= bound
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_the_paper_preset_learns_at_the_published_rates() -> None:
    assert (PAPER.projection_rate, PAPER.kernel_rate) == (0.002, 0.2)
    assert (PAPER.rate_decay, PAPER.weight_decay) == (0.95, 1e-3)
    # With a rate that is gone after the first step, that step is all: AdamW's first step is the rate itself.
    model = fitted(replace(PAPER, rate_decay=1e-12), TokenFeatures()).model
    moved = {
        "lengthscale": model.covar_module.base_kernel.raw_lengthscale.abs().item(),
        "outputscale": model.covar_module.raw_outputscale.abs().item(),
        "noise": model.likelihood.raw_noise.abs().item(),
        "mean": model.mean_module.constant.abs().item(),
    }
    assert moved == pytest.approx(dict.fromkeys(moved, 0.2), rel=1e-3)
    bias = (model.projection.bias - 0.01).abs().max().item()
    assert bias == pytest.approx(0.002, rel=0.02)
    assert (model.token - 0.1).abs().max().item() == pytest.approx(0.002, rel=0.1)


def test_projected_features_are_scaled_by_the_observed_ones() -> None:
    surrogate = fitted(PAPER, fixed_features())
    observed = surrogate.inputs[surrogate.rows]
    assert observed.min().item() == pytest.approx(-0.95)  # GPyTorch keeps 5 % of the range free
    assert observed.max().item() == pytest.approx(0.95)
    assert surrogate.inputs.abs().max() <= 0.95 + 1e-6


# -- outputs ------------------------------------------------------------------------------------------


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Values to three decimals, NaN where diverged; at least one success."""
    values = draw(st.lists(st.none() | st.integers(-(10**6), 10**6), min_size=1, max_size=25))
    values.append(draw(st.integers(-(10**6), 10**6)))
    array = np.array([math.nan if v is None else v / 1000 for v in values])
    return array, np.isnan(array)


@settings(deadline=None, max_examples=150)
@given(outcomes(), st.sampled_from(["standardize", "half_rank"]))
def test_outputs_keep_the_order_and_are_standardised(
    data: tuple[np.ndarray, np.ndarray], output: str
) -> None:
    values, diverged = data
    y = transform_outputs(values, diverged, output)
    assert np.isfinite(y).all()
    assert abs(y.mean()) < 1e-6
    successes = y[~diverged][np.argsort(values[~diverged], kind="stable")]
    ordered = np.sort(values[~diverged])
    assert (np.diff(successes)[np.diff(ordered) > 0] > 0).all()
    assert np.allclose(np.diff(successes)[np.diff(ordered) == 0], 0, atol=1e-9)
    if np.ptp(np.where(diverged, ordered[0], values)) > 0:
        assert y.std(ddof=1) == pytest.approx(1)
    if diverged.any():
        assert np.ptp(y[diverged]) < 1e-9
        gap = successes[0] - y[diverged].max()
        assert gap > 1e-9 if output == "half_rank" else abs(gap) < 1e-6


@settings(deadline=None, max_examples=100)
@given(outcomes(), st.integers(1, 50), st.integers(-1000, 1000))
def test_half_rank_does_not_depend_on_the_units(
    data: tuple[np.ndarray, np.ndarray], factor: int, shift: int
) -> None:
    values, diverged = data
    y = transform_outputs(values, diverged, "half_rank")
    if np.unique(values[~diverged]).size > 1 and len(np.unique(y)) > 2:
        again = transform_outputs(values * factor + shift, diverged, "half_rank")
        upper = values[~diverged] >= np.median(values[~diverged])
        if np.ptp(values[~diverged][upper]) > 0:
            np.testing.assert_allclose(again, y, atol=1e-5)


def test_half_rank_keeps_the_plateau_apart_from_the_cliff() -> None:
    values = np.array([0.0, 50, 51, 52, 53])
    raw = transform_outputs(values, np.zeros(5, dtype=bool), "standardize")
    half = transform_outputs(values, np.zeros(5, dtype=bool), "half_rank")
    assert np.ptp(raw[2:]) < 0.2  # a cliff flattens the plateau ...
    assert np.ptp(half[2:]) > 0.8  # ... and no longer does
    np.testing.assert_allclose(np.diff(half[2:]), np.diff(half[2:])[0])  # the upper half is only scaled


def test_half_rank_with_mostly_failures() -> None:
    values = np.array([math.nan] * 9 + [0.4])
    y = transform_outputs(values, np.isnan(values), "half_rank")
    assert y[9] > y[0]
    np.testing.assert_array_equal(
        transform_outputs(np.full(3, math.nan), np.ones(3, dtype=bool), "half_rank"), -1
    )


def test_equal_values_say_nothing() -> None:
    for value in (0.0, 0.1, 1e6 + 0.1, -3e-9):
        for output in ("standardize", "half_rank"):
            y = transform_outputs(np.full(7, value), np.zeros(7, dtype=bool), output)
            np.testing.assert_allclose(y, 0, atol=1e-6)


def test_tiny_differences_count_as_much_as_large_ones() -> None:
    large = transform_outputs(np.array([1.0, 2, 4]), np.zeros(3, dtype=bool), "standardize")
    tiny = transform_outputs(np.array([1e-14, 2e-14, 4e-14]), np.zeros(3, dtype=bool), "standardize")
    np.testing.assert_allclose(tiny, large)


def test_values_that_are_not_finite_must_be_marked() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            transform_outputs(np.array([1.0, value]), np.array([False, False]), "standardize")


@pytest.mark.parametrize("output", ["standardize", "half_rank"])
@pytest.mark.parametrize(
    "values",
    [
        [0.5, 0.6, 0.7, 1e160],
        [0.5, 0.6, 0.7, 1e308],
        [0.5, 0.6, 0.7, -1e308],
        [1e308, 1e308, -1e308, 1.7e308],
        [1e-320, 2e-320, 3e-320, 5e-324],
        [1e-320, 1e308, 0.0, -1e308, -1e-320],
    ],
)
def test_any_finite_values_are_standardised_in_their_order(output: str, values: list[float]) -> None:
    for data in (np.array(values), np.array([*values, math.nan])):
        y = transform_outputs(data, np.isnan(data), output)
        assert np.isfinite(y).all()
        assert y.std(ddof=1) == pytest.approx(1)
        assert (np.diff(y[: len(values)][np.argsort(values)]) >= 0).all()
        assert y[np.argmax(values)] == y.max()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e160, 1e308, -1e308, 1e-320]),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["standardize", "half_rank"]),
)
def test_no_finite_values_break_the_outputs(values: list[float], output: str) -> None:
    array = np.array(values)
    y = transform_outputs(array, np.zeros(len(array), dtype=bool), output)
    assert np.isfinite(y).all()
    assert abs(y.mean()) < 1e-9
    assert (np.diff(y[np.argsort(array, kind="stable")]) >= -1e-9).all()


def test_one_absurd_value_leaves_the_others_apart() -> None:
    values = np.array([*np.linspace(0.1, 0.9, 9), 1e160])
    y = transform_outputs(values, np.zeros(10, dtype=bool), "half_rank")
    assert (np.diff(y) > 0.1).all()


def test_failures_stay_apart_from_equal_successes() -> None:
    values = np.array([0.0, 0.3, 0.1 + 0.2])  # the last two are equal to rounding
    y = transform_outputs(values, np.zeros(3, dtype=bool), "half_rank")
    assert y[0] < y[1] - 1
    assert y[1] == pytest.approx(y[2])
