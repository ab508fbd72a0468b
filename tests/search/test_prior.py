"""The prior that ships, what it reads, and the kernel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel

from loracle.errors import ModelError
from loracle.records.space import Knob, SearchSpace, paper_space
from loracle.search.kernel import N_SCALES, Inputs, covariance, gradient
from loracle.search.prior import EARLIER, NUMBERS, SHIPPED, describe, load_prior, size_of


def test_numbers_mean_the_same_in_every_space() -> None:
    ratio = SearchSpace((Knob("rank", (16, 64), "log2"), Knob("alpha_ratio", (2, 4), "log2")))
    alpha = SearchSpace((Knob("rank", (16, 64), "log2"), Knob("alpha", (32, 256), "log2")))
    first, second = describe(ratio), describe(alpha)
    assert first.shape == (4, len(NUMBERS))
    np.testing.assert_allclose(first[0], second[0])  # rank 16, alpha 32
    np.testing.assert_allclose(first[3], second[3])  # rank 64, alpha 256
    np.testing.assert_allclose(describe(paper_space()).std(axis=0).clip(0.3, 1.1), 0.7, atol=0.4)


def test_other_knobs_follow_and_a_ratio_of_zero_is_a_number() -> None:
    space = SearchSpace(
        (Knob("alpha_ratio", (0, 1)), Knob("learning_rate", (1e-4, 1e-3), "log10"), Knob("epochs", (1, 2, 3)))
    )
    numbers = describe(space)
    assert numbers.shape == (7, len(NUMBERS) + 1)  # a ratio of 0 trains nothing: one candidate
    assert np.isfinite(numbers).all()
    assert sorted(set(numbers[:, -1])) == [-1, 0, 1]


def inputs_of(generator: np.random.Generator, n: int, d: int = 3) -> Inputs:
    return Inputs(*(generator.normal(size=(n, width)) for width in (d, 4, 1)), mean=generator.normal(size=n))


def test_covariance_is_the_stated_sum_of_matern_kernels() -> None:
    generator = np.random.default_rng(0)
    inputs, parameters = inputs_of(generator, 5), generator.normal(size=N_SCALES + 4)
    variances, scales = np.exp(parameters[:4]), np.exp(parameters[N_SCALES:])
    matern = MaternKernel(nu=2.5).double()
    matern.lengthscale = 1.0
    shares = [inputs.learned, inputs.numbers / scales, inputs.step / np.exp(parameters[5])]
    parts = [matern(torch.from_numpy(x)).to_dense().detach().numpy() for x in shares]
    expected = variances[3] + sum(v * part for v, part in zip(variances, parts, strict=False))
    np.testing.assert_allclose(covariance(inputs, inputs, parameters), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [0, 3])
def test_covariance_and_gradient_are_those_of_the_model_that_learns(d: int) -> None:
    import prior_model

    generator = np.random.default_rng(1)
    inputs, parameters = inputs_of(generator, 6, d), generator.normal(size=N_SCALES + 4)
    weights = generator.normal(size=(6, 6))
    weights += weights.T
    theirs = prior_model.Inputs(*map(torch.from_numpy, vars(inputs).values()))
    theta = torch.from_numpy(parameters).requires_grad_()
    matrix = prior_model.covariance(theirs, theirs, theta)
    np.testing.assert_allclose(
        covariance(inputs, inputs, parameters), matrix.detach().numpy(), rtol=0, atol=1e-7
    )
    (expected,) = torch.autograd.grad((torch.from_numpy(weights) * matrix).sum(), theta)
    np.testing.assert_allclose(gradient(inputs, parameters, weights), expected.numpy(), rtol=0, atol=1e-5)


def test_the_shipped_prior_says_what_it_learnt_from() -> None:
    told = load_prior().provenance
    assert told["runs"] > 4000
    assert told["left out"] == []
    assert "sorting" in told["tasks"]
    assert SHIPPED.stat().st_size < 50_000


def test_the_shipped_prior_knows_that_extremes_fail() -> None:
    """A step that is far too small or far too large scores below a usual one, before any trial."""
    space = paper_space()
    prior = load_prior()
    mean = prior.inputs(describe(space)).mean
    usual = {"rank": 16, "alpha_ratio": 2, "dropout": 0.05, "batch_size": 16, "learning_rate": 5e-4}
    tiny = usual | {"rank": 1, "alpha_ratio": 0.5, "learning_rate": 1e-6, "batch_size": 256}
    huge = usual | {"rank": 256, "alpha_ratio": 128, "learning_rate": 5e-3, "batch_size": 2}
    values = [float(mean[np.searchsorted(space.candidates, space.index(c))]) for c in (usual, tiny, huge)]
    assert values[0] > values[1] + 0.5
    assert values[0] > values[2] + 0.5


def test_a_larger_model_moves_the_prior_to_lower_rates_and_nothing_else() -> None:
    space = paper_space()
    numbers = describe(space)
    rates = space.values(space.candidates)["learning_rate"]

    def best_rate(parameters: float) -> float:
        mean = load_prior().inputs(numbers, parameters).mean
        return float(np.exp(np.log(rates[np.argsort(-mean)[:50]]).mean()))

    small, middle, large = map(best_rate, (1e5, 3e8, 7e10))
    assert small > middle > large
    known, unknown = load_prior().inputs(numbers, 7e9), load_prior().inputs(numbers)
    np.testing.assert_array_equal(known.numbers, unknown.numbers)
    np.testing.assert_array_equal(known.step, unknown.step)
    assert [size_of(1), size_of(1e15)] == [size_of(1e5), size_of(1e12)]  # no further than it has seen


def test_an_earlier_prior_is_read_and_knows_no_size() -> None:
    earlier, numbers = load_prior(EARLIER), describe(paper_space())[:50]
    np.testing.assert_array_equal(earlier.inputs(numbers, 7e9).mean, earlier.inputs(numbers).mean)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_a_damaged_prior_is_one_clear_line(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"prior.safetensors cannot be read .* benchmarks/pretrain.py"
    ) as error:
        load_prior(path)
    assert "\n" not in str(error.value)


def test_saving_and_loading_gives_the_same_prior(tmp_path: Path) -> None:
    import prior_model

    torch.manual_seed(0)
    prior = prior_model.Prior()
    prior.save(tmp_path / "p.safetensors", {"made by": "a test"})
    again = load_prior(tmp_path / "p.safetensors")
    assert again.provenance == {"made by": "a test"}
    numbers = torch.randn(4, len(NUMBERS)).double()
    size = torch.tensor(size_of(7e9), dtype=torch.float64)
    theirs, ours = prior.double().inputs(numbers, size), again.inputs(numbers.numpy(), 7e9)
    for name in ("learned", "numbers", "step", "mean"):
        expected = getattr(theirs, name).detach().numpy()
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=0, atol=1e-12)
    expected = prior.parameters_for(7).detach().numpy()
    np.testing.assert_allclose(again.parameters_for(7), expected, rtol=0, atol=1e-12)


def test_pretraining_learns_and_leaves_families_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn: pip install 'loracle[bench]'")
    import pretrain

    monkeypatch.setattr(pretrain, "STEPS", 40)
    family = "llama-letters"
    pretrain.make(tmp_path / "p.safetensors", [family])
    told = load_prior(tmp_path / "p.safetensors").provenance
    assert "sorting" not in told["tasks"]
    assert told["left out"] == [family]
    assert json.dumps(told)
