"""The learning rate of every step, and the order in which examples are seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from transformers import get_scheduler

from loracle.config.training.plan import Plan
from loracle.config.training.schedules import SCHEDULES, scheduler_arguments
from loracle.errors import ConfigError
from loracle.records.failures import one_line


def learning_rates(plan: Plan) -> Callable[[int], float]:
    """Learning rate of each step, from 0: what transformers' schedule of that name makes of it.

    Warm-up starts above zero, so no step is wasted, unless the schedule has a warm-up of its own.

    Raises:
        ConfigError: transformers refuses the schedule's arguments.
    """
    schedule = SCHEDULES[plan.settings.schedule]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=plan.learning_rate)
    try:
        made = get_scheduler(
            schedule.transformers,
            optimizer,
            plan.warmup_steps,
            plan.steps,
            scheduler_arguments(plan.settings.schedule_arguments, plan.steps, plan.warmup_steps),
        )
        (factor,) = made.lr_lambdas
        factor(plan.steps - 1)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"training.schedule: {plan.settings.schedule}: {one_line(error)}") from None

    def rate(step: int) -> float:
        if step < plan.warmup_steps and not schedule.own_warmup:
            return plan.learning_rate * (step + 1) / (plan.warmup_steps + 1)
        return plan.learning_rate * float(factor(step))

    return rate


def example_order(n_examples: int, n_seen: int, seed: int) -> npt.NDArray[np.int64]:
    """Which example is seen when, shape (n_seen,): one seeded permutation an epoch."""
    random = np.random.default_rng(seed)
    epochs = [random.permutation(n_examples) for _ in range(math.ceil(n_seen / n_examples))]
    return np.concatenate(epochs)[:n_seen].astype(np.int64)
