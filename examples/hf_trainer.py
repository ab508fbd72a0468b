"""Loracle's search around a Trainer of transformers: only the last lines are new."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import loracle
from loracle import hf

MODEL = Path(loracle.__file__).parent / "demo" / "base"  # a tiny one; any folder or hub id
torch.manual_seed(0)
rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 30, (64, 12))]


def arguments(folder: str, **others: object) -> TrainingArguments:
    return TrainingArguments(
        folder,
        max_steps=4,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **others,
    )


def make_model(rank: int, alpha: int) -> torch.nn.Module:
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"])
    return get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), lora)


with TemporaryDirectory() as folder:

    def make_trainer(config: dict[str, float]) -> Trainer:
        model = make_model(config["r"], config["lora_alpha"])
        options = arguments(folder, learning_rate=config["learning_rate"], per_device_train_batch_size=8)
        return Trainer(model, options, train_dataset=rows[:48], eval_dataset=rows[48:])

    found = hf.search(
        make_trainer,
        {"learning_rate": (1e-5, 1e-2), "r": [4, 8, 16], "lora_alpha": [8, 16, 32]},
        trials=4,
        metric="eval_loss",
    )
    print("by hf.search: rank", found.params["r"], found.params, found.value)

# The same through transformers' own `hyperparameter_search`: its Optuna backend takes a sampler.
with TemporaryDirectory() as folder:
    trainer = Trainer(
        None,
        arguments(folder),
        train_dataset=rows[:48],
        eval_dataset=rows[48:],
        model_init=lambda trial: make_model(trial.suggest_categorical("r", [4, 8, 16]) if trial else 8, 16),
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)},
        backend="optuna",
        n_trials=3,
        sampler=loracle.LoracleSampler(seed=0),
    )
    print("by hyperparameter_search:", best.hyperparameters)
