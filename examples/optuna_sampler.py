"""Loracle's search in an Optuna script: only the sampler is new."""

import optuna

from loracle import LoracleSampler, default_space

space = default_space()


def objective(trial: optuna.Trial) -> float:
    learning_rate = trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True)
    rank = trial.suggest_categorical("rank", space["rank"].values)
    alpha = trial.suggest_float("alpha", 1, 16384)
    batch_size = trial.suggest_int("batch_size", 8, 128)
    # Stands in for a training: a loss with its best step size where published runs have it.
    return abs(alpha * learning_rate - 0.01) + 0.1 / rank + batch_size / 10_000


study = optuna.create_study(direction="minimize", sampler=LoracleSampler(space, seed=0))
study.optimize(objective, n_trials=30)
print(study.best_params)
