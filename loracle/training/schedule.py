"""The learning rate of every step, and the order in which examples are seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from loracle.config.training_plan import Plan

# Factor of the learning rate when a share of the steps after warm-up is done; keys: `training.schedule`.
_FACTORS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}


def learning_rate(plan: Plan, step: int) -> float:
    """Learning rate of a step, from 0. Warm-up starts above zero, so no step is wasted."""
    if step < plan.warmup_steps:
        return plan.learning_rate * (step + 1) / (plan.warmup_steps + 1)
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return plan.learning_rate * _FACTORS[plan.settings.schedule](done)


def example_order(n_examples: int, n_seen: int, seed: int) -> npt.NDArray[np.int64]:
    """Which example is seen when, shape (n_seen,): one seeded permutation an epoch."""
    random = np.random.default_rng(seed)
    epochs = [random.permutation(n_examples) for _ in range(math.ceil(n_seen / n_examples))]
    return np.concatenate(epochs)[:n_seen].astype(np.int64)
