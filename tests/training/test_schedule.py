from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import SchedulerType, get_scheduler

from loracle.config.settings import TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.config.training.schedules import BY_MEASUREMENTS, SCHEDULES, scheduler_arguments
from loracle.errors import ConfigError
from loracle.training.schedule import example_order, learning_rates

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_warm_up_and_decay(schedule: str) -> None:
    settings = TrainingConfig(schedule=schedule, warmup_fraction=0.1, epochs=2)
    plan = plan_training(CONFIG, settings, 200)
    rate = learning_rates(plan)
    rates = [rate(step) for step in range(plan.steps)]
    assert len(rates) == 50
    assert plan.warmup_steps == 5
    assert 0 < rates[0] < rates[4] < rates[5] == CONFIG["learning_rate"]
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] > 0
    assert (rates[-1] == rates[5]) == (schedule == "constant")


def test_epochs_may_be_fractional_and_batches_no_larger_than_the_data() -> None:
    assert plan_training(CONFIG, TrainingConfig(epochs=0.5), 40).n_seen == 20
    plan = plan_training(CONFIG | {"batch_size": 256, "epochs": 2.5}, TrainingConfig(), 40)
    assert (plan.batch_size, plan.n_seen, plan.steps) == (40, 100, 3)
    plan = plan_training(CONFIG, TrainingConfig(warmup_fraction=0), 40)
    assert learning_rates(plan)(0) == CONFIG["learning_rate"]


NEEDED: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    "warmup_stable_decay": {"decay_fraction": 0.2, "decay_type": "linear"},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {"power": 2.0},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_after_the_warm_up_are_those_of_transformers(schedule: str) -> None:
    given = NEEDED.get(schedule, {})
    settings = TrainingConfig(schedule=schedule, schedule_arguments=given, warmup_fraction=0.1, epochs=4)
    plan = plan_training(CONFIG, settings, 200)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=plan.learning_rate)
    arguments = scheduler_arguments(given, plan.steps, plan.warmup_steps)
    name = SCHEDULES[schedule].transformers
    theirs = get_scheduler(name, optimizer, plan.warmup_steps, plan.steps, arguments)
    expected = []
    for _ in range(plan.steps):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    rate = learning_rates(plan)
    rates = [rate(step) for step in range(plan.steps)]
    assert rates[plan.warmup_steps :] == pytest.approx(expected[plan.warmup_steps :], rel=1e-12)
    assert SCHEDULES[schedule].own_warmup or 0 < rates[0] < rates[plan.warmup_steps - 1]
    assert all(0 <= one <= plan.learning_rate for one in rates)


def test_every_schedule_of_transformers_is_known_or_refused_by_its_name() -> None:
    known = {schedule.transformers for schedule in SCHEDULES.values()}
    assert known | set(BY_MEASUREMENTS) | {"constant"} == {name.value for name in SchedulerType}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "cosin"}, "input should be 'cosine', "),
        ({"schedule": "reduce_lr_on_plateau"}, "goes by what is measured on the way"),
        ({"schedule": "cosine_with_min_lr"}, "cosine_with_min_lr needs min_lr_rate"),
        ({"schedule_arguments": {"power": 2}}, "cosine has no argument 'power' here; it knows none"),
        (
            {"schedule": "polynomial", "schedule_arguments": {"power": -1}},
            "power of polynomial is a number above 0; got -1",
        ),
    ],
)
def test_wrong_schedules_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingConfig.model_validate(settings)


def test_a_training_has_so_many_steps_of_whole_batches() -> None:
    settings = TrainingConfig(max_steps=30)
    plan = plan_training(CONFIG, settings, 100)
    assert (plan.steps, plan.n_seen) == (30, 240)
    assert plan_training(CONFIG, settings, 10, share=0.1).steps == 3  # as often over a tenth of the data


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 1, "max_steps": 5}, "epochs and max_steps both"),
        ({"epochs": None}, "needs epochs or max_steps"),
        ({"max_steps": 0}, "greater than 0"),
    ],
)
def test_epochs_and_max_steps_are_one_or_the_other(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingConfig.model_validate(settings)
    with pytest.raises(ConfigError, match="epochs and max_steps both"):
        plan_training(CONFIG | {"epochs": 2}, TrainingConfig(max_steps=5), 10)


@given(n=st.integers(1, 50), n_seen=st.integers(1, 200), seed=st.integers(0, 99))
def test_every_epoch_sees_every_example_once(n: int, n_seen: int, seed: int) -> None:
    order = example_order(n, n_seen, seed)
    assert len(order) == n_seen
    for start in range(0, n_seen, n):
        epoch = order[start : start + n]
        assert len(set(epoch)) == len(epoch)
