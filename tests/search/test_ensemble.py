"""The default surrogate: exact beliefs, weights that follow the evidence, and what the prior is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from threadpoolctl import threadpool_info, threadpool_limits

from loracle.records.space import Knob, SearchSpace
from loracle.search import ensemble
from loracle.search.ensemble import fit_ensemble
from loracle.search.kernel import covariance
from loracle.search.outputs import transform_outputs
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import describe, load_prior

SPACE = SearchSpace(
    (
        Knob("rank", (4, 16, 64), "log2"),
        Knob("alpha_ratio", (1, 4, 16), "log2"),
        Knob("batch_size", (8, 32), "log2"),
        Knob("learning_rate", (1e-5, 1e-4, 3e-4, 1e-3, 1e-2), "log10"),
    )
)
NUMBERS = describe(SPACE)
SETTINGS = EnsembleSettings(parameters=10**7.5)  # where a model's size moves nothing
UNKNOWN = replace(SETTINGS, parameters=None)
FRESH = replace(SETTINGS, informed=0.0)


def like_lora() -> np.ndarray:
    """What the prior expects, seen as the truth."""
    return np.asarray(load_prior().inputs(NUMBERS).mean)


def unlike_lora() -> np.ndarray:
    """The prior's expectation turned over."""
    return -like_lora()


def observe(values: np.ndarray, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(seed).choice(len(values), n, replace=False)
    return rows, transform_outputs(values[rows], np.zeros(n, dtype=bool), "half_rank")


@pytest.mark.parametrize("settings", [SETTINGS, UNKNOWN, FRESH])
def test_belief_is_the_textbook_mixture_of_the_members_posteriors(settings: EnsembleSettings) -> None:
    rows, y = observe(like_lora(), 8)
    ensemble = fit_ensemble(settings, NUMBERS, rows, y)
    mean, second = np.zeros((2, len(NUMBERS)))
    for weight, member in zip(ensemble.weights, ensemble.members, strict=True):
        theta, inputs = member.theta, member.inputs
        at = np.concatenate([rows, np.arange(len(NUMBERS))])
        joint = covariance(inputs.at(at), inputs.at(at), theta)
        n = len(rows)
        m0 = theta[6] * inputs.mean[at]
        noise = np.eye(n) * (np.exp(theta[4]) + 1e-3)
        solve = np.linalg.inv(joint[:n, :n] + noise)
        m = m0[n:] + joint[n:, :n] @ solve @ (y - m0[:n])
        v = joint[n:, n:].diagonal() - (joint[n:, :n] @ solve * joint[n:, :n]).sum(1)
        mean, second = mean + weight * m, second + weight * (v + m**2)
    belief = ensemble.belief()
    np.testing.assert_allclose(belief.mean, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(belief.sd**2, second - mean**2, rtol=0, atol=1e-8)
    assert belief.caution == 1.3


def test_before_any_trial_the_belief_is_the_prior() -> None:
    none = (np.array([], dtype=np.int64), np.array([]))
    belief = fit_ensemble(SETTINGS, NUMBERS, *none).belief()
    np.testing.assert_allclose(belief.mean, 0.8 * like_lora())
    waiting = fit_ensemble(SETTINGS, NUMBERS, *none).belief([7])
    assert abs(waiting.mean[7]) < 0.25 < abs(belief.mean[7])  # as a first score of whatever size would count
    assert waiting.sd[7] < belief.sd[7]


def test_pending_shrinks_the_uncertainty_and_keeps_the_mean() -> None:
    ensemble = fit_ensemble(SETTINGS, NUMBERS, *observe(like_lora(), 8))
    before, pending = ensemble.belief(), [3, 17, 3]
    after = ensemble.belief(pending)
    np.testing.assert_allclose(after.mean, before.mean, rtol=0, atol=1e-9)
    assert (after.sd[pending] < before.sd[pending]).all()
    assert np.array_equal(ensemble.belief().sd, before.sd)  # nothing stays behind


def test_the_prior_predicts_from_few_trials_where_it_is_right() -> None:
    rows, y = observe(like_lora(), 4)
    informed = fit_ensemble(SETTINGS, NUMBERS, rows, y).belief().mean
    fresh = fit_ensemble(FRESH, NUMBERS, rows, y).belief().mean
    correlation = [np.corrcoef(mean, like_lora())[0, 1] for mean in (informed, fresh)]
    assert correlation[0] > max(0.9, correlation[1])


def test_a_wrong_prior_costs_little() -> None:
    for seed in range(4):
        rows, y = observe(unlike_lora(), 16, seed)
        means = [fit_ensemble(settings, NUMBERS, rows, y).belief().mean for settings in (SETTINGS, FRESH)]
        ours, fresh = (np.corrcoef(mean, unlike_lora())[0, 1] for mean in means)
        assert ours > fresh - 0.1


def test_weights_follow_the_evidence() -> None:
    rate = 1.0 * NUMBERS[:, 0] - NUMBERS[:, 2]  # nothing but rank and batch matter
    strange = fit_ensemble(SETTINGS, NUMBERS, *observe(rate, 30))
    usual = fit_ensemble(SETTINGS, NUMBERS, *observe(like_lora(), 30))
    assert strange.weights.sum() == pytest.approx(1)
    assert strange.informed < 0.3 < 0.9 < usual.informed


def test_where_the_size_of_a_model_is_not_known_the_trials_tell_it() -> None:
    for size, place in ((3e5, 0), (3e9, 1)):
        mean = np.asarray(load_prior().inputs(NUMBERS, size).mean)
        ensemble = fit_ensemble(UNKNOWN, NUMBERS, *observe(mean, 16))
        assert len(ensemble.members) == 3
        assert np.argmax(ensemble.weights) == place
        assert ensemble.informed == pytest.approx(ensemble.weights[:2].sum())


def test_repeated_and_equal_values_are_no_trouble() -> None:
    rows = np.array([3, 3, 3, 9])
    for y in (np.zeros(4), np.array([1.0, -1.0, 0.5, -0.5])):
        belief = fit_ensemble(SETTINGS, NUMBERS, rows, y).belief()
        assert np.isfinite(belief.mean).all()
        assert (belief.sd > 0).all()


def test_a_fit_keeps_no_second_thread_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    during: set[int] = set()

    def minimize(loss: Callable[..., object], *args: object, **options: object) -> object:
        during.update(threads())
        return scipy.optimize.minimize(loss, *args, **options)

    monkeypatch.setattr(ensemble, "minimize", minimize)
    rows, y = observe(like_lora(), 10)
    with threadpool_limits(2, "blas"):
        before = threads()
        fit_ensemble(SETTINGS, NUMBERS, rows, y)
        assert threads() == before
    assert during <= {1}
