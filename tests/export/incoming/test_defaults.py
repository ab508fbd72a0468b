"""What is said to be another trainer's own default is the default of its own classes."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from other_trainers import FOLDER, ask

LLAMA_FACTORY = """
import json
from dataclasses import fields
from llamafactory.hparams import DataArguments, FinetuningArguments, TrainingArguments
known = {f.name: f.default for kind in (DataArguments, TrainingArguments) for f in fields(kind)}
tuning = FinetuningArguments()
print(json.dumps({
    "rank": tuning.lora_rank, "alpha": tuning.lora_alpha, "dropout": tuning.lora_dropout,
    "learning_rate": known["learning_rate"], "epochs": known["num_train_epochs"],
    "batch_size": known["per_device_train_batch_size"] * known["gradient_accumulation_steps"],
    "schedule": known["lr_scheduler_type"], "warmup_fraction": known["warmup_steps"],
    "max_length": known["cutoff_len"], "loss_on": "all" if known["train_on_prompt"] else None,
    "weight_decay": known["weight_decay"], "max_gradient_norm": known["max_grad_norm"],
    "optimizer": known["optim"], "targets": tuning.lora_target[0],
}))
"""
OUMI = """
import json
from oumi.core.configs.params.peft_params import PeftParams
from oumi.core.configs.params.training_params import TrainingParams
from oumi.core.configs.params.model_params import ModelParams
tuning, training = PeftParams(), TrainingParams()
print(json.dumps({
    "rank": tuning.lora_r, "alpha": tuning.lora_alpha, "dropout": tuning.lora_dropout,
    "learning_rate": training.learning_rate, "epochs": training.num_train_epochs,
    "batch_size": training.per_device_train_batch_size * training.gradient_accumulation_steps,
    "schedule": training.lr_scheduler_type, "warmup_fraction": training.warmup_steps or training.warmup_ratio,
    "max_length": ModelParams(model_name="any").model_max_length,
    "weight_decay": training.weight_decay, "max_gradient_norm": training.max_grad_norm,
    "optimizer": training.optimizer,
}))
"""
AXOLOTL = """
import json
from axolotl.utils.schemas.config import AxolotlInputConfig
known = {name: field.default for name, field in AxolotlInputConfig.model_fields.items()}
print(json.dumps({
    "dropout": known["lora_dropout"], "epochs": known["num_epochs"], "schedule": known["lr_scheduler"],
    "batch_size": known["micro_batch_size"] * known["gradient_accumulation_steps"],
    "max_length": known["sequence_len"], "loss_on": "all" if known["train_on_inputs"] else None,
    "weight_decay": known["weight_decay"], "max_gradient_norm": known["max_grad_norm"],
    "optimizer": known["optimizer"], "no default": [known["lora_r"], known["lora_alpha"]],
}))
"""


@pytest.fixture
def meant(tmp_path: Path, loracle: Callable[..., Any]) -> Callable[[str], dict[str, Any]]:
    """What an imported file that says next to nothing is trained with."""

    def read(text: str) -> dict[str, Any]:
        (tmp_path / "theirs.yaml").write_text(text)
        code, _, notes = loracle("import", tmp_path / "theirs.yaml", "-o", tmp_path / "ours.yaml")
        assert code == 0, notes
        found = yaml.safe_load((tmp_path / "ours.yaml").read_text())
        return {"max_length": None} | found["standard"] | found["training"] | found["data"]

    return read


def _same(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Each of theirs is ours; what ours leaves out is its own default, which is theirs."""
    assert theirs.pop("optimizer") in ("adamw_torch", "adamw_torch_fused")
    assert theirs.pop("weight_decay") == 0
    assert theirs.pop("max_gradient_norm") in (1.0, None)  # None: transformers' own, 1.0
    usual = {"loss_on": None, "targets": "all"}
    for name, value in theirs.items():
        found = ours.get(name, usual.get(name))
        assert found == (value or 0.0 if name == "warmup_fraction" else value), name


@pytest.mark.slow  # ten seconds to import it
def test_llama_factory(tmp_path: Path, meant: Callable[[str], dict[str, Any]]) -> None:
    _same(ask("llamafactory", LLAMA_FACTORY, tmp_path), meant("model_name_or_path: a/b\nstage: sft\n"))


@pytest.mark.slow  # ten seconds to import it
def test_oumi(tmp_path: Path, meant: Callable[[str], dict[str, Any]]) -> None:
    _same(ask("oumi", OUMI, tmp_path), meant("model: {model_name: a/b}\ntuning: {n_trials: 3}\n"))


def test_axolotl(tmp_path: Path, meant: Callable[[str], dict[str, Any]]) -> None:
    theirs = ask("axolotl", AXOLOTL, tmp_path)
    assert theirs.pop("no default") == [None, None]
    theirs["warmup_fraction"] = _axolotls_warmup(1000) / 1000
    _same(theirs, meant("base_model: a/b\nadapter: lora\n"))


def _axolotls_warmup(steps: int) -> float:
    """Warm-up steps where its file says nothing, by the function of its own that says so."""
    text = (FOLDER / "axolotl" / "core" / "builders" / "base.py").read_text()
    name = "_configure_warmup_and_logging"
    (found,) = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == name]
    made: dict[str, Any] = {}
    exec(compile(ast.Module([found], []), "axolotl", "exec"), made)
    silent = types.SimpleNamespace(warmup_steps=None, warmup_ratio=None, logging_steps=1)
    told: dict[str, float] = {}
    made[name](types.SimpleNamespace(cfg=silent), steps, told)
    return told["warmup_steps"]


def test_trl(meant: Callable[[str], dict[str, Any]]) -> None:
    from dataclasses import fields

    from trl import ModelConfig, SFTConfig

    known = {field.name: field.default for kind in (ModelConfig, SFTConfig) for field in fields(kind)}
    theirs = {
        "rank": known["lora_r"],
        "alpha": known["lora_alpha"],
        "dropout": known["lora_dropout"],
        "learning_rate": known["learning_rate"],
        "epochs": known["num_train_epochs"],
        "batch_size": known["per_device_train_batch_size"] * known["gradient_accumulation_steps"],
        "schedule": known["lr_scheduler_type"],
        "warmup_fraction": known["warmup_steps"],
        "max_length": known["max_length"],
        "weight_decay": known["weight_decay"],
        "max_gradient_norm": known["max_grad_norm"],
        "optimizer": known["optim"],
    }
    _same(theirs, meant("model_name_or_path: a/b\nuse_peft: true\n"))
