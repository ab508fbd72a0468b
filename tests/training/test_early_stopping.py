from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import copy_rows

from loracle.config.loading import load_config
from loracle.config.settings import TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.config.training.settings import EarlyStoppingConfig
from loracle.report.recipe import recipe
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base
from loracle.training.objective import TrainingObjective
from loracle.training.validation_loss import Best, Watched, evaluated_steps, watched_for_curve

CONFIG = {"rank": 8, "alpha": 32, "dropout": 0.0, "batch_size": 4, "learning_rate": 3e-2}


def rows(base: Base, n: int, seed: int) -> Encoded:
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(n, 6, seed=seed))]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


def test_losses_are_measured_at_equal_distances() -> None:
    settings = EarlyStoppingConfig(patience=1, evaluations=4)
    assert evaluated_steps(settings, 20) == [5, 10, 15, 20]
    assert evaluated_steps(settings, 3) == [1, 2, 3]
    assert evaluated_steps(settings, 7)[-1] == 7


def test_the_best_is_kept_until_patience_ends() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    best = Best(EarlyStoppingConfig(patience=2, minimum_gain=0.1), [parameter])
    for step, (loss, ends) in enumerate(
        [(1.0, False), (0.5, False), (0.45, False), (math.nan, True)], start=1
    ):
        with torch.no_grad():
            parameter.fill_(step)
        assert best.ends(step, loss) == ends
    best.restore()
    assert (best.step, best.loss, float(parameter.detach())) == (2, 0.5, 2.0)


def test_a_training_ends_early_with_the_adapter_of_the_lowest_loss(base: Base) -> None:
    """A rate at which a few rows are learnt by heart: the others get worse again."""
    train, watched = rows(base, 12, 0), Watched(rows(base, 30, 1), 8)
    settings = TrainingConfig.model_validate({"epochs": 30, "early_stopping": {"patience": 2}})
    with train_adapter(base, train, CONFIG, settings, seed=0, watched=watched) as trained:
        assert trained.kept_step is not None
        assert 0 < trained.kept_step < len(trained.steps) < 90
        kept = watched.loss(base)
    whole = settings.model_copy(update={"early_stopping": None})
    with train_adapter(base, train, CONFIG, whole, seed=0) as trained:
        assert (len(trained.steps), trained.kept_step) == (90, None)
        assert kept < watched.loss(base)


def test_evaluations_change_nothing_of_what_is_trained(base: Base) -> None:
    train, watched = rows(base, 12, 0), Watched(rows(base, 30, 1), 8)
    config = CONFIG | {"dropout": 0.2, "learning_rate": 1e-3}
    settings = TrainingConfig.model_validate({"early_stopping": 100, "epochs": 3})
    with train_adapter(base, train, config, settings, seed=0, watched=watched) as trained:
        losses = [step.loss for step in trained.steps]
    settings = settings.model_copy(update={"early_stopping": None})
    with train_adapter(base, train, config, settings, seed=0) as trained:
        assert [step.loss for step in trained.steps] == losses


def test_final_trainings_go_by_the_validation_split(run_config: Callable[..., Path], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"training": {"epochs": 8, "early_stopping": 1}}
    config = load_config(run_config(**changes))
    objective = TrainingObjective.from_config(config)
    knobs = CONFIG | {"learning_rate": 5e-2}
    outcomes = [
        objective.run(knobs, seed=0, folder=tmp_path / "trial"),
        objective.final(knobs, seed=0, folder=tmp_path / "final"),
    ]
    for outcome in outcomes:
        assert 1 <= outcome.metrics["kept_step"] <= outcome.metrics["steps"]
    content = recipe(config, knobs, objective.n_train, outcomes[1].metrics)["trained"]
    assert content["kept_step"] == outcomes[1].metrics["kept_step"]
    assert content["early_stopping"]["patience"] == 1


def test_a_curve_has_validation_losses_where_they_cost_little_and_change_nothing(base: Base) -> None:
    train, validation = rows(base, 64, 0), rows(base, 40, 1)
    settings = TrainingConfig.model_validate({"epochs": 8})
    plan = plan_training(CONFIG, settings, len(train))
    watched = watched_for_curve(validation, train, plan, batch_size=8)
    assert watched is not None
    assert watched.after(plan) == [8, 16, 32, 64, 128]
    read = watched.points * int(watched.encoded.lengths.sum())
    assert read / 3 < 0.03 * 8 * int(train.lengths.sum())
    told: list[tuple[int, float]] = []
    losses = []
    for one in (watched, None):
        with train_adapter(
            base, train, CONFIG, settings, seed=0, watched=one, measured=lambda *new: told.append(new)
        ) as trained:
            losses.append([step.loss for step in trained.steps])
            assert trained.kept_step is None
    assert losses[0] == losses[1]
    assert [step for step, _ in told] == [8, 16, 32, 64, 128]
    short = plan_training(CONFIG, TrainingConfig.model_validate({"epochs": 1}), 8)
    assert watched_for_curve(validation, train.select([*range(8)]), short, batch_size=4) is None  # type: ignore[arg-type]
