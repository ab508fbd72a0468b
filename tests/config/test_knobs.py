from __future__ import annotations

import pytest

from loracle.config.knobs import ALPHA, KNOBS, TrainerKnob, check_knobs, complete_problem
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.errors import ConfigError
from loracle.records.space import with_alpha

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rank", "alpha", "learning_rate", "batch_sise"], "no knob 'batch_sise'; did you mean 'batch_size'"),
        (["rank", "alpha", "batch_size"], "needs a knob for learning_rate"),
        (["rank", "learning_rate", "batch_size"], r"needs a knob for alpha_ratio \(or alpha\)"),
        (["zzz"], "no knob 'zzz'; it knows rank"),
    ],
)
def test_knobs_are_checked(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_knobs(names)


def test_knob_values_are_checked() -> None:
    check_knobs([*CONFIG, "epochs", "weight_decay", "warmup_fraction"])
    with pytest.raises(ConfigError, match=r"knob epochs: .*greater than 0; got -1"):
        plan_training(CONFIG | {"epochs": -1}, TrainingConfig(), 10)


def test_a_knob_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no knob 'divergence_factor'"):
        plan_training(CONFIG | {"divergence_factor": 7.0}, TrainingConfig(), 10)
    monkeypatch.setitem(KNOBS, "divergence_factor", TrainerKnob(is_setting=True))
    plan = plan_training(CONFIG | {"divergence_factor": 7.0}, TrainingConfig(), 10)
    assert plan.settings.divergence_factor == 7.0
    with pytest.raises(ConfigError, match=r"knob divergence_factor: .*greater than 1; got 0.5"):
        plan_training(CONFIG | {"divergence_factor": 0.5}, TrainingConfig(), 10)


def test_knobs_in_the_place_of_settings_have_their_names() -> None:
    settings = {name for name, knob in KNOBS.items() if knob.is_setting}
    assert settings <= set(TrainingConfig.model_fields)
    assert not (set(KNOBS) - settings) & set(TrainingConfig.model_fields)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"rank": 1.5}, "rank is a whole number from 1 up; got 1.5"),
        ({"batch_size": 0}, "batch_size is a whole number from 1 up; got 0"),
        ({"learning_rate": 0}, "learning_rate is above 0; got 0"),
        ({"dropout": 1}, "dropout is from 0 up to, but not including, 1; got 1"),
        ({"alpha_ratio": 2}, "needs either alpha or alpha_ratio"),
    ],
)
def test_a_whole_config_has_a_value_for_every_knob(changes: dict[str, float], problem: str | None) -> None:
    assert complete_problem(CONFIG | changes) == problem


def test_the_standard_settings_are_a_whole_config() -> None:
    standard = RunConfig.model_validate({"model": "m", "data": {"train": "none"}}).standard
    assert standard is not None
    assert complete_problem(standard) is None
    without = {name: value for name, value in standard.items() if name not in ALPHA}
    assert complete_problem(without) == "needs either alpha or alpha_ratio"


def test_alpha_follows_from_rank_and_ratio_by_one_rule() -> None:
    ratio = {name: value for name, value in CONFIG.items() if name != "alpha"} | {"alpha_ratio": 0.3}
    assert plan_training(ratio, TrainingConfig(), 10).alpha == with_alpha(ratio)["alpha"] == 4 * 0.3


def test_the_least_value_of_a_knob_is_one_that_it_may_have() -> None:
    for knob in KNOBS.values():
        assert knob.least is None or knob.problem(knob.least) is None
