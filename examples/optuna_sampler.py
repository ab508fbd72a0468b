"""Loracle's search in an Optuna script: only the sampler is new."""

import optuna

from loracle import LoracleSampler


def objective(trial: optuna.Trial) -> float:
    learning_rate = trial.suggest_float("lr", 1e-5, 3e-3, log=True)
    rank = trial.suggest_categorical("lora_rank", [4, 8, 16, 32, 64, 128])
    alpha = trial.suggest_float("lora_alpha", 1, 1024, log=True)
    batch_size = trial.suggest_int("batch_size", 8, 128)
    # Stands in for a training: a loss with its best step size where published runs have it.
    return abs(alpha * learning_rate - 0.01) + 0.1 / rank + batch_size / 10_000


study = optuna.create_study(direction="minimize", sampler=LoracleSampler(seed=0))
study.optimize(objective, n_trials=30)
print(study.best_params)
