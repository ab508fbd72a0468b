"""Recipes are what the installed libraries take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig
from transformers import Trainer, TrainingArguments

from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.plan import plan_training
from loracle.report.recipe import own_recipe_text, recipe, recipe_text
from loracle.training.model.base_model import Base

CONFIG = RunConfig.model_validate({"model": "org/base", "data": {"train": "train.jsonl"}})
WINNER = {"rank": 8, "alpha_ratio": 2, "alpha": 16, "dropout": 0.05, "batch_size": 20, "learning_rate": 1e-4}


def with_training(**changes: Any) -> RunConfig:
    settings = TrainingConfig.model_validate(CONFIG.training.model_dump() | changes)
    return CONFIG.model_copy(update={"training": settings})


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_the_installed_libraries_read_it_back(tmp_path: Path, variant: str, schedule: str) -> None:
    config = with_training(
        variant=variant,
        schedule=schedule,
        targets=["q_proj", "v_proj"],
        epochs=2,
        gradient_checkpointing=True,
    )
    content = yaml.safe_load(recipe_text(recipe(config, WINNER, 1000)))
    lora = LoraConfig(**content["lora"])
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (8, 16, 0.05)
    assert lora.target_modules == {"q_proj", "v_proj"}
    assert (lora.use_rslora, lora.use_dora) == (variant == "rslora", variant == "dora")
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **content["training"])
    plan = plan_training(WINNER, config.training, 1000)
    assert arguments.learning_rate == 1e-4
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 20
    assert arguments.get_warmup_steps(plan.steps) == plan.warmup_steps == 3
    assert arguments.num_train_epochs == 2
    assert arguments.lr_scheduler_type.value.startswith(schedule)
    assert (arguments.weight_decay, arguments.max_grad_norm, arguments.seed) == (0.0, 1.0, 0)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # a default of TRL
def test_trl_takes_the_two_parts_together(tmp_path: Path) -> None:
    from trl import SFTConfig  # its import takes seconds

    content = recipe(CONFIG, WINNER, 1000)
    settings = SFTConfig(output_dir=str(tmp_path), use_cpu=True, **content["training"], **content["sft"])
    assert settings.max_length == 512


def test_targets_that_are_weights_are_stated_as_such() -> None:
    config = with_training(targets=["q_proj", "experts.gate_up_proj"])
    content = recipe(config, WINNER, 1000, weights=["experts.gate_up_proj"])["lora"]
    lora = LoraConfig(**(content | {"lora_dropout": 0.0}))
    assert (lora.target_modules, lora.target_parameters) == ({"q_proj"}, ["experts.gate_up_proj"])


def test_states_steps_batches_seed_schedule_and_loss() -> None:
    content = recipe(CONFIG, WINNER, 1000)
    assert (
        content["trained"] | {"examples": 1000, "effective_batch": 20, "steps": 50, "warmup_steps": 2}
        == (content["trained"])
    )
    assert "tokens that count" in content["trained"]["loss"]


def test_keeps_the_effective_batch_and_knobs_override_settings() -> None:
    sizes = recipe(CONFIG, WINNER | {"epochs": 2}, 1000)["training"]
    assert sizes["per_device_train_batch_size"] * sizes["gradient_accumulation_steps"] == 20
    assert sizes["num_train_epochs"] == 2


def test_states_the_micro_batch_that_was_used() -> None:
    winner = WINNER | {"batch_size": 32}
    assert recipe(CONFIG, winner, 1000, {"micro_batch": 2.0})["training"]["gradient_accumulation_steps"] == 16


def test_a_batch_larger_than_the_data_is_what_was_trained() -> None:
    content = recipe(CONFIG, WINNER | {"batch_size": 64}, 48)
    sizes = content["training"]
    assert sizes["per_device_train_batch_size"] * sizes["gradient_accumulation_steps"] == 48
    assert content["trained"]["steps"] == 1


def test_steps_are_those_of_the_plan_whatever_the_numbers() -> None:
    for n_train in (1, 7, 999):
        for epochs in (0.3, 1, 2.5):
            content = recipe(with_training(epochs=epochs), WINNER, n_train)
            expected = math.ceil(max(1, round(epochs * n_train)) / min(20, n_train))
            assert content["trained"]["steps"] == expected


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("epochs", [0.3, 1, 1.5, 2.5, 3])
@pytest.mark.parametrize("n_train", [20, 47, 50, 90])
def test_the_trainer_of_transformers_takes_as_many_steps(
    tmp_path: Path, base: Base, n_train: int, epochs: float
) -> None:
    content = recipe(with_training(epochs=epochs), WINNER, n_train, {"micro_batch": 4.0})
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", **content["training"]
    )
    rows = [{"input_ids": [1, 2], "labels": [1, 2]}] * n_train
    trainer = Trainer(model=base.model, args=arguments, train_dataset=rows)
    values = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())
    assert values[-1] == content["trained"]["steps"]
    assert content["trained"]["epochs"] == epochs
    whole = n_train % 20 == 0 or epochs == 1
    assert ("num_train_epochs" in content["training"]) or not whole


def test_settings_of_an_own_trainer_come_with_the_command_of_their_own_run() -> None:
    content: dict[str, Any] = {
        "objective": {"command": "train --lr {lr} --out {folder} {phase}", "direction": "maximize"},
        "space": {"base": "empty", "knobs": {"lr": {"values": [1e-3, 1e-2]}}},
        "output": "/runs/a b",
    }
    config = RunConfig.model_validate(content)
    found = yaml.safe_load(own_recipe_text(config, {"lr": 1e-3}, "standard"))
    assert found["settings"] == {"lr": 1e-3}
    assert found["command"] == "train --lr 0.001 --out '/runs/a b/final/standard' final"


def test_states_what_the_loss_counts() -> None:
    every = CONFIG.data.model_copy(update={"loss_on": "all"})
    content = recipe(CONFIG.model_copy(update={"data": every}), WINNER, 1000)
    assert content["sft"]["completion_only_loss"] is False
    assert content["trained"]["loss"].endswith("all, prompts included")
    assert recipe(CONFIG, WINNER, 1000)["sft"]["completion_only_loss"] is True


def test_of_whole_chats_the_assistants_turns_count() -> None:
    """Where TRL is told of completions, every token of a chat counts: its rows of messages have none."""
    found = recipe(CONFIG, WINNER, 1000, chats=True)["sft"]
    assert "completion_only_loss" not in found
    assert found["assistant_only_loss"] is True
    every = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"loss_on": "all"})})
    assert recipe(every, WINNER, 1000, chats=True)["sft"]["completion_only_loss"] is False


def test_how_rows_have_to_be_for_trl_is_said_where_it_matters() -> None:
    assert "`rows`" not in recipe_text(recipe(CONFIG, WINNER, 1000, chats=True))
    last = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"loss_on": "completion"})})
    assert "`rows`" not in recipe_text(recipe(last, WINNER, 1000))
    text = recipe_text(recipe(last, WINNER, 1000, chats=True))
    assert "# `rows` is what each row has to be for TRL" in text
    assert yaml.safe_load(text)["rows"] == {"prompt": "messages[:-1]", "completion": "messages[-1:]"}
