"""Wrecks stopped early in a plain Optuna study with TPE: only the pruner is new."""

import math

import optuna

from loracle import LoraclePruner


def objective(trial: optuna.Trial) -> float:
    learning_rate = trial.suggest_float("lr", 1e-6, 1e-1, log=True)
    rank = trial.suggest_categorical("lora_rank", [8, 16, 32, 64])
    # Stands in for a training: too small a step learns nothing, too large a one diverges.
    speed = math.exp(-((math.log10(learning_rate) + 3.5) ** 2)) - 1 / (10 * rank)
    loss = 3.0
    for part in range(1, 11):
        loss += 0.5 if learning_rate > 1e-2 else -0.25 * speed
        trial.report(loss, part * 1000)  # after so many examples
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


study = optuna.create_study(
    direction="minimize", sampler=optuna.samplers.TPESampler(seed=0), pruner=LoraclePruner()
)
study.optimize(objective, n_trials=30)
print(study.best_params)
print(f"{len(study.get_trials(states=[optuna.trial.TrialState.PRUNED]))} of 30 were stopped early")
