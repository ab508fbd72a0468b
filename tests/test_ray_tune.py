"""Ray Tune's searcher, called as Ray Tune calls it; `examples/ray_tune.py` runs it in a cluster."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import pytest

pytest.importorskip("ray.tune", reason="Ray Tune is not installed: pip install 'loracle[ray]'")

from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher

from loracle import LoracleSampler
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
    said = "constraints: the result of trial a has no general_loss; it has loss$"
    with pytest.raises(ConfigError, match=said):  # at the first report, which ends the run
        search.on_trial_result("a", {"loss": 1.0, "training_iteration": 1, "config/lr": 1e-4})
    with pytest.raises(ConfigError, match=said):  # also where Ray Tune takes it for a failure of the trial
        search.suggest("b")


def test_with_ray_tunes_leave_the_last_result_alone_has_to_have_constraints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    search = LoracleSearch(seed=0, constraints={"general_loss": 2.0})
    assert search.set_search_properties("loss", "min", SPACE)  # type: ignore[arg-type]
    search.suggest("a")
    search.on_trial_result("a", {"loss": 2.0, "training_iteration": 1})
    search.on_trial_complete("a", {"loss": 1.0, "general_loss": 1.9, "training_iteration": 2})
    search.suggest("b")
    assert search._ot_study.best_value == 1.0


@pytest.mark.parametrize("domain", [tune.grid_search([1e-4, 1e-3]), tune.randn(0, 1)])
def test_a_space_without_known_limits_is_refused_with_what_to_write(domain: object) -> None:
    with pytest.raises(ConfigError, match=r"^param_space: .*tune.choice in the place of grid_search"):
        begin({"lr": tune.loguniform(1e-5, 1e-2), "x": domain})


def test_beliefs_and_the_size_of_the_model_are_the_samplers() -> None:
    def second(**options: Any) -> float:
        search = LoracleSearch(seed=0, **options)
        assert search.set_search_properties("loss", "min", {"optim": {"lr": tune.loguniform(1e-5, 1e-2)}})  # type: ignore[arg-type]
        search.suggest("a")
        tell(search, "a", 1.0)
        rate: float = search.suggest("b")["optim"]["lr"]
        return rate

    assert second(beliefs={"lr": "at most 3e-5"}) < second(beliefs={"lr": "at least 3e-3"})
    assert second(parameters=7e9) < second(parameters=1e7)
    with pytest.raises(ConfigError, match="beliefs and parameters are the sampler's"):
        LoracleSearch(beliefs={"lr": 1e-4}, sampler=LoracleSampler())


def test_trials_that_raise_are_told_of_with_where_their_cause_is() -> None:
    search = begin({"lr": tune.loguniform(1e-5, 1e-2)})
    failed = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for number in range(14):
            rate = search.suggest(str(number))["lr"]
            if rate > 1e-3:
                failed.append(number)
                search.on_trial_complete(str(number), error=True)
            else:
                tell(search, str(number), (math.log10(rate) + 3.1) ** 2)
    (said,) = (str(one.message) for one in told)
    assert re.search(r"^lr .*or more: all .* what error.txt of Ray Tune's trial [0-9]+ says", said)
    assert len(failed) <= 5


def test_the_run_ends_once_everything_has_been_tried() -> None:
    search = begin({"r": tune.choice([4, 8])})
    assert sorted(search.suggest(name)["r"] for name in ("a", "b")) == [4, 8]
    for name in ("a", "b"):
        tell(search, name, 1.0)
    with pytest.warns(UserWarning, match=r"^all 2 configs .* \(r\) have been tried .*; the run ends here$"):
        assert search.suggest("c") == Searcher.FINISHED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert search.suggest("d") == Searcher.FINISHED
