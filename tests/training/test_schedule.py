from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loracle.config.settings import TrainingConfig
from loracle.config.training_plan import plan_training
from loracle.training.schedule import example_order, learning_rate

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_warm_up_and_decay(schedule: str) -> None:
    settings = TrainingConfig(schedule=schedule, warmup_fraction=0.1, epochs=2)
    plan = plan_training(CONFIG, settings, 200)
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
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
    assert learning_rate(plan, 0) == CONFIG["learning_rate"]


@given(n=st.integers(1, 50), n_seen=st.integers(1, 200), seed=st.integers(0, 99))
def test_every_epoch_sees_every_example_once(n: int, n_seen: int, seed: int) -> None:
    order = example_order(n, n_seen, seed)
    assert len(order) == n_seen
    for start in range(0, n_seen, n):
        epoch = order[start : start + n]
        assert len(set(epoch)) == len(epoch)
