"""What a run's search begins with, as its config says."""

from __future__ import annotations

from typing import Any

import pytest

from loracle.config.settings import RunConfig
from loracle.records.objective import Report
from loracle.records.space import Config
from loracle.records.trial import History, Outcome, Trial
from loracle.run.prepare import prepare_search
from loracle.search.presets import GOOD_PRACTICE
from loracle.search.propose import propose

OWN = {"rank": 64, "alpha": 64, "dropout": 0.1, "batch_size": 64, "learning_rate": 1e-3}


def first(n: int, **settings: Any) -> list[Config]:
    """The first configs that a run tries."""
    config = RunConfig.model_validate({"model": "m", "data": {"train": "train.jsonl"}, **settings})
    search = prepare_search(config, Report(), lambda event: None)
    indices: list[int] = []
    while len(indices) < n:
        past = History(tuple(Trial(i, index, Outcome(0.1 * i)) for i, index in enumerate(indices)))
        index = search.next(past)
        assert index is not None
        indices.append(index)
    return [search.space.config(index) for index in indices]


def test_a_users_own_standard_is_tried_first() -> None:
    usual, own = first(2), first(2, standard=OWN)
    assert GOOD_PRACTICE[0].items() <= usual[0].items()
    assert OWN.items() <= own[0].items()
    assert GOOD_PRACTICE[0].items() - own[1].items()  # the built-in one is not tried besides


@pytest.mark.parametrize("preset", ["default", "numeric"])
def test_a_standard_beside_the_grid_begins_with_its_neighbour(preset: str) -> None:
    beside = {**OWN, "rank": 20, "alpha": 40, "learning_rate": 1.1e-3}
    (config,) = first(1, standard=beside, search={"preset": preset})
    assert (config["rank"], config["alpha_ratio"], config["learning_rate"]) == (16, 2, 1e-3)


def test_the_good_practice_of_other_presets_stays_behind_a_users_standard() -> None:
    own = first(3, standard=OWN, search={"preset": "numeric"})
    assert OWN.items() <= own[0].items()
    assert own[1:] == first(3, search={"preset": "numeric"})[1:]


def test_seed_configs_that_are_named_come_before_the_standard() -> None:
    seed = {"rank": 8, "alpha": 8, "dropout": 0.0, "batch_size": 32, "learning_rate": 1e-4}
    (config,) = first(1, standard=OWN, search={"seed_configs": [seed]})
    assert seed.items() <= config.items()
    (none,) = first(1, standard=OWN, search={"seed_configs": []})
    assert OWN.items() - none.items()


def test_an_own_trainers_standard_is_tried_first() -> None:
    knobs = {"rank": {"values": [8, 16, 32]}, "warmup": {"values": [0.0, 0.1, 0.2]}}
    (config,) = first(
        1,
        objective={"command": "train {rank} {warmup}", "direction": "maximize"},
        space={"base": "empty", "knobs": knobs},
        standard={"rank": 32, "warmup": 0.2},
    )
    assert config == {"rank": 32, "warmup": 0.2}


def test_the_search_of_a_run_is_propose() -> None:
    config = RunConfig.model_validate({"model": "m", "data": {"train": "train.jsonl"}})
    search = prepare_search(config, Report(), lambda event: None)
    assert search.next(History()) == propose(search.space, History(), search.preset, seed=search.seed)[0]
