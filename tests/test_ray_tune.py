"""Ray Tune's searcher, called as Ray Tune calls it; `examples/ray_tune.py` runs it in a cluster."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("ray.tune", reason="Ray Tune is not installed: pip install 'loracle[ray]'")

from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

from loracle.errors import ConfigError
from loracle.ray_tune import LoracleSearch

SPACE = {"lora": {"r": tune.choice([4, 8, 16])}, "lr": tune.loguniform(1e-5, 1e-2)}


def begin(space: object) -> LoracleSearch:
    search = LoracleSearch(seed=0)
    assert search.set_search_properties("loss", "min", space)  # type: ignore[arg-type]
    return search


def tell(search: LoracleSearch, name: str, loss: float) -> None:
    search.on_trial_complete(name, {"loss": loss, "training_iteration": 1})


def test_configs_are_suggested_in_the_users_own_shape() -> None:
    search = begin(SPACE)
    configs = []
    for number in range(8):
        config = search.suggest(str(number))
        tell(search, str(number), abs(math.log10(config["lr"]) + 2.5) + 1 / config["lora"]["r"])
        configs.append((config["lr"], config["lora"]["r"]))
    assert configs[0] == (2e-4, 16)  # the usual settings first: both names are understood
    assert len(set(configs)) == 8
    assert search._ot_study.best_value < 0.3


def test_a_loss_that_is_no_number_has_diverged() -> None:
    search = begin(SPACE)
    search.suggest("a")
    tell(search, "a", math.nan)
    search.suggest("b")
    tell(search, "b", 0.5)
    assert [trial.state for trial in search._ot_study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert search._ot_study.trials[0].user_attrs == {"loracle:failure": "diverged"}


def test_results_that_exceed_a_constraint_are_kept_away_from() -> None:
    """Larger rates score better, and forget."""
    tried = {}
    for name, constraints in (("free", None), ("kept", {"general_loss": 2.0})):
        search = LoracleSearch(seed=0, constraints=constraints)
        assert search.set_search_properties("loss", "min", {"lr": tune.loguniform(1e-5, 1e-2)})  # type: ignore[arg-type]
        rates = []
        for number in range(10):
            rates.append(search.suggest(str(number))["lr"])
            forgets = 2.5 if rates[-1] > 1e-3 else 1.9
            result = {"loss": -math.log10(rates[-1]), "general_loss": forgets, "training_iteration": 1}
            search.on_trial_complete(str(number), result)
        tried[name] = rates
    assert sum(rate > 1e-3 for rate in tried["free"]) > 2 * sum(rate > 1e-3 for rate in tried["kept"])
    assert 3e-4 < search._ot_study.sampler.recommend(search._ot_study)["lr"] <= 1e-3  # type: ignore[attr-defined]


def test_constraints_that_cannot_be_are_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="constraints: general_loss has a number that it may be at most"):
        LoracleSearch(constraints={"general_loss": "2"})  # type: ignore[dict-item]
    search = LoracleSearch(seed=0, constraints={"general_loss": 2.0})
    assert search.set_search_properties("loss", "min", SPACE)  # type: ignore[arg-type]
    search.suggest("a")
    with pytest.raises(ConfigError, match="constraints: the result of trial a has no general_loss"):
        tell(search, "a", 1.0)


def test_the_run_ends_once_everything_has_been_tried() -> None:
    search = begin({"r": tune.choice([4, 8])})
    assert sorted(search.suggest(name)["r"] for name in ("a", "b")) == [4, 8]
    for name in ("a", "b"):
        tell(search, name, 1.0)
    assert search.suggest("c") == Searcher.FINISHED
