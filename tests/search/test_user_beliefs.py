"""What a user holds likely moves the first proposals, and loses its weight where trials say otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loracle import Optimizer, default_space
from loracle.errors import ConfigError, SpaceError
from loracle.records.space import UserBeliefs
from loracle.search.presets import PRESETS

SPACE = default_space()
BEST = {"rank": 16, "alpha_ratio": 2, "dropout": 0.0, "batch_size": 16, "learning_rate": 1e-4}


def score(config: dict[str, Any]) -> float:
    """Best at `BEST`, and worse the farther the learning rate is from it."""
    return -abs(np.log10(config["learning_rate"] / 1e-4)) - 0.05 * abs(np.log2(config["rank"] / 16))


def searched(n: int, **settings: Any) -> Optimizer:
    optimizer = Optimizer(SPACE, **settings)
    for _ in range(n):
        (index,) = optimizer.ask()
        optimizer.tell(index, score(SPACE.config(index)))
    return optimizer


def rates(optimizer: Optimizer) -> list[float]:
    return [float(SPACE.config(trial.index)["learning_rate"]) for trial in optimizer.history.trials]


@pytest.mark.parametrize(("preset", "rate"), [("default", 1e-4), ("default", 2e-3), ("numeric", 1e-4)])
def test_the_first_config_that_is_chosen_goes_by_it(preset: str, rate: float) -> None:
    named = len(PRESETS[preset].seed_configs)
    optimizer = searched(named + 1, preset=preset, beliefs={"learning_rate": f"around {rate}"})
    without = searched(named + 1, preset=preset)
    assert rates(optimizer)[:named] == rates(without)[:named]  # the usual settings stay first
    distances = [abs(np.log10(rates(one)[-1] / rate)) for one in (optimizer, without)]
    assert distances[0] < 0.5
    assert distances[0] <= distances[1]


@pytest.mark.parametrize("preset", ["default", "numeric"])
@pytest.mark.parametrize("rate", [1e-4, 3e-3])
def test_right_or_wrong_ten_trials_find_what_is_good(preset: str, rate: float) -> None:
    optimizer = searched(10, preset=preset, beliefs={"learning_rate": f"around {rate}"})
    assert score(optimizer.recommend()) > -0.2


def test_without_a_prior_and_named_configs_it_is_what_the_first_config_goes_by() -> None:
    preset = replace(PRESETS["numeric"], seed_configs=())
    optimizer = searched(1, preset=preset, beliefs={"learning_rate": "around 1e-4", "rank": "at least 128"})
    config = SPACE.config(optimizer.history.trials[0].index)
    assert (config["learning_rate"], config["rank"]) in {(1e-4, 128), (1e-4, 256)}


def test_good_configs_draw_and_bad_ones_keep_away() -> None:
    good = {"rank": 8, "alpha_ratio": 4, "dropout": 0.0, "batch_size": 16, "learning_rate": 5e-5}
    near = searched(2, beliefs=UserBeliefs.of({}, good=[good]))
    assert rates(near)[-1] < 2e-4
    plain = searched(2)
    second = SPACE.config(plain.history.trials[-1].index)
    away = searched(2, beliefs=UserBeliefs.of({}, bad=[second]))
    assert away.history.trials[-1].index != plain.history.trials[-1].index


def test_no_beliefs_change_nothing() -> None:
    plain, empty = searched(5), searched(5, beliefs={})
    assert plain.history == empty.history


def test_what_makes_no_difference_is_warned_of_once() -> None:
    with pytest.warns(
        UserWarning, match="beliefs.dropout: between 0 and 1 makes no difference, as it"
    ) as told:
        searched(3, beliefs={"dropout": "between 0 and 1", "learning_rate": "around 1e-4"})
    assert len(told) == 1
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="as no candidate is near: the nearest has learning_rate 0.003"):
        searched(1, beliefs=UserBeliefs.of({}, bad=[{"learning_rate": 5}]))


def test_what_it_cannot_be_about_is_refused() -> None:
    with pytest.raises(SpaceError, match="lr is no knob of the space"):
        Optimizer(SPACE, beliefs={"lr": "around 1e-4"})
    with pytest.raises(ConfigError, match="beliefs: this preset reads none; default and numeric do"):
        Optimizer(SPACE, preset="paper", beliefs={"rank": "at least 32"})
