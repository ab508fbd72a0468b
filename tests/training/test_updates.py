"""Every optimizer of the table trains the tiny model; LoRA+ is PEFT's own; float16 leaves overflows out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import copy_rows
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, TrainingArguments

from loracle.config.settings import RunConfig, TrainingConfig
from loracle.config.training.optimizers import OPTIMIZERS, Optimizer
from loracle.config.training.plan import plan_training
from loracle.errors import ConfigError
from loracle.report.recipe import recipe
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.loop import train_adapter
from loracle.training.memory.counting import count_footprint
from loracle.training.model.adapter import adapted
from loracle.training.model.base_model import Base
from loracle.training.optimizer import LossScale, Updates, check_optimizer

CONFIG = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def encoded(base: Base) -> Encoded:
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(40, 6))]
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


def losses_of(base: Base, encoded: Encoded, config: dict[str, Any], **settings: Any) -> list[float]:
    with train_adapter(base, encoded, config, TrainingConfig(**settings), seed=0) as trained:
        return [step.loss for step in trained.steps]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_has_its_name_in_the_recipe(
    base: Base, encoded: Encoded, name: str, tmp_path: Path
) -> None:
    pytest.importorskip(OPTIMIZERS[name].package or "torch")
    config = CONFIG | {"learning_rate": 1.0 if name == "sgd" else 1e-2}
    losses = losses_of(base, encoded, config, optimizer=name, epochs=4)
    assert losses[-1] < 0.85 * losses[0]
    assert losses_of(base, encoded, config, optimizer=name, epochs=4) == losses
    run = RunConfig.model_validate({"model": "m", "data": {"train": "t"}, "training": {"optimizer": name}})
    content = recipe(run, config, 40)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **content["training"])
    assert "optimizer" in content["trained"] or arguments.optim == OPTIMIZERS[name].transformers


def test_an_optimizer_is_one_row(base: Base, encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "rmsprop", Optimizer("torch.optim:RMSprop", "rmsprop", state_bytes=4.0))
    losses = losses_of(base, encoded, CONFIG, optimizer="rmsprop", epochs=4)
    assert losses[-1] < losses[0]


def test_lora_plus_is_that_of_peft(base: Base, encoded: Encoded, tiny_model: Path) -> None:
    settings = TrainingConfig(lora_plus_ratio=4, weight_decay=0.1)
    with adapted(base, plan_training(CONFIG, settings, 40)) as model:
        ours = Updates(model, plan_training(CONFIG, settings, 40))
        sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        torch.manual_seed(0)
        begin = {name: torch.randn_like(p) for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.requires_grad:
                    p.copy_(begin[name])
        for _ in range(3):
            for p in ours.parameters:
                p.grad = p.detach().cos()
            ours.make(2e-3)
        found = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = get_peft_model(plain, lora)
    optimizer = create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=2e-3, loraplus_lr_ratio=4, loraplus_weight_decay=0.1
    )
    own = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    assert {name: p.numel() for name, p in own.items()} == sizes
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(begin[name])
    for _ in range(3):
        for p in own.values():
            p.grad = p.detach().cos()
        optimizer.step()
    for name, p in own.items():
        assert torch.allclose(found[name], p.detach(), rtol=1e-5, atol=1e-7), name


def test_a_ratio_of_one_is_the_plain_optimizer_and_others_are_not(base: Base, encoded: Encoded) -> None:
    plain = losses_of(base, encoded, CONFIG)
    assert losses_of(base, encoded, CONFIG, lora_plus_ratio=1) == plain
    assert losses_of(base, encoded, CONFIG | {"lora_plus_ratio": 8}) != plain  # it is a knob, too


def test_lora_fa_leaves_a_as_it_began(base: Base, encoded: Encoded) -> None:
    with train_adapter(base, encoded, CONFIG, TrainingConfig(optimizer="lora_fa"), seed=0) as trained:
        trainable = {name for name, p in trained.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_B" in name for name in trainable)
    with pytest.raises(ValueError, match="leaves A as it is"):
        TrainingConfig(optimizer="lora_fa", lora_plus_ratio=4)
    with pytest.raises(ValueError, match="variant dora trains magnitudes beside them"):
        TrainingConfig(optimizer="lora_fa", variant="dora")


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Optimizer("nowhere:Adam", None, package="no_such_package")
    monkeypatch.setitem(OPTIMIZERS, "adam_nowhere", row)
    with pytest.raises(
        ConfigError, match="adam_nowhere needs the package no_such_package, which is not inst"
    ):
        check_optimizer(TrainingConfig(optimizer="adam_nowhere"))


def test_memory_knows_what_an_optimizer_keeps(base: Base) -> None:
    taken = {}
    for name, more in (("adamw", {}), ("adamw_8bit", {}), ("sgd", {}), ("adamw", {"early_stopping": 2})):
        footprint = count_footprint(base, TrainingConfig.model_validate({"optimizer": name, **more}))
        taken[name, bool(more)] = footprint.kept
    assert taken == {
        ("adamw", False): 8.0,
        ("adamw_8bit", False): 2.1,
        ("sgd", False): 0.0,
        ("adamw", True): 12.0,
    }


def test_float16_leaves_steps_out_that_overflow() -> None:
    scale = LossScale(torch.float16)
    assert scale.factor == 2.0**16
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 2.0**16)
    scale.unscale([parameter])
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert scale.overflowed(float("inf"))
    assert scale.overflowed(float("nan"))
    assert scale.factor == 2.0**14
    assert not scale.overflowed(1.0)
    for _ in range(14):
        assert scale.overflowed(float("nan"))
    assert not scale.overflowed(float("nan"))  # it is no longer the precision that is to blame
    assert not LossScale(torch.float32).overflowed(float("nan"))
