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
from loracle.search.kernel import N_SCALES, Inputs, covariance
from loracle.search.prior import NUMBERS, SHIPPED, Prior, describe, load_prior


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


def test_covariance_is_the_stated_sum_of_matern_kernels() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, width, generator=generator).double() for width in (3, 4, 1)]
    inputs = Inputs(*parts, mean=torch.zeros(5).double())
    parameters = torch.randn(N_SCALES + 4, generator=generator).double()
    variances, scales = parameters[:4].exp(), parameters[N_SCALES:].exp()
    matern = MaternKernel(nu=2.5).double()
    matern.lengthscale = 1.0
    shares = [parts[0], parts[1] / scales, parts[2] / parameters[5].exp()]
    expected = variances[3] + sum(v * matern(x).to_dense() for v, x in zip(variances, shares, strict=False))
    torch.testing.assert_close(covariance(inputs, inputs, parameters), expected, rtol=1e-5, atol=1e-5)


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
    mean = prior.inputs(torch.from_numpy(describe(space))).mean
    usual = {"rank": 16, "alpha_ratio": 2, "dropout": 0.05, "batch_size": 16, "learning_rate": 5e-4}
    tiny = usual | {"rank": 1, "alpha_ratio": 0.5, "learning_rate": 1e-6, "batch_size": 256}
    huge = usual | {"rank": 256, "alpha_ratio": 128, "learning_rate": 5e-3, "batch_size": 2}
    values = [float(mean[np.searchsorted(space.candidates, space.index(c))]) for c in (usual, tiny, huge)]
    assert values[0] > values[1] + 0.5
    assert values[0] > values[2] + 0.5


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
    torch.manual_seed(0)
    prior = Prior()
    prior.save(tmp_path / "p.safetensors", {"made by": "a test"})
    again = load_prior(tmp_path / "p.safetensors")
    assert again.provenance == {"made by": "a test"}
    numbers = torch.randn(4, len(NUMBERS)).double()
    torch.testing.assert_close(prior.double().inputs(numbers).learned, again.inputs(numbers).learned)


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
