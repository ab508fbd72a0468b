"""Ray Tune's searcher, called as Ray Tune calls it; `examples/ray_tune.py` runs it in a cluster."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("ray.tune", reason="Ray Tune is not installed: pip install 'loracle[ray]'")

from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

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


def test_the_run_ends_once_everything_has_been_tried() -> None:
    search = begin({"r": tune.choice([4, 8])})
    assert sorted(search.suggest(name)["r"] for name in ("a", "b")) == [4, 8]
    for name in ("a", "b"):
        tell(search, name, 1.0)
    assert search.suggest("c") == Searcher.FINISHED
