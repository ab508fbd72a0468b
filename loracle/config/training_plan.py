"""What a training does, as config and settings make it: the knobs, the steps, the order of the examples."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from loracle.config.settings import TrainingConfig
from loracle.errors import ConfigError
from loracle.records.space import Value

_REQUIRED = ("rank", "learning_rate", "batch_size")
_ALPHA = ("alpha", "alpha_ratio")
_OVERRIDES = ("epochs", "warmup_fraction", "weight_decay", "max_gradient_norm")
KNOBS = (*_REQUIRED, *_ALPHA, "dropout", *_OVERRIDES)


def check_knobs(names: Sequence[str]) -> None:
    """Checks that a training understands every knob and lacks none.

    Raises:
        ConfigError: an unknown, missing or doubled knob.
    """
    for name in names:
        if name not in KNOBS:
            close = difflib.get_close_matches(name, KNOBS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(KNOBS)}"
            raise ConfigError(f"training has no knob {name!r}; {hint}")
    missing = [name for name in _REQUIRED if name not in names]
    if not any(name in names for name in _ALPHA):
        missing.append("alpha_ratio (or alpha)")
    if missing:
        raise ConfigError(f"training needs a knob for {', '.join(missing)}; one value is enough to fix it")


@dataclass(frozen=True)
class Plan:
    """A training as config and settings make it: `n_seen` examples, repeats included, in `steps` updates."""

    rank: int
    alpha: float
    dropout: float
    learning_rate: float
    batch_size: int
    n_examples: int
    n_seen: int
    steps: int
    warmup_steps: int
    settings: TrainingConfig

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0. Warm-up starts above zero, so no step is wasted."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        factors = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
        return self.learning_rate * factors[self.settings.schedule]


def plan_training(config: Mapping[str, Value], settings: TrainingConfig, n_examples: int) -> Plan:
    """Derives a plan.

    Raises:
        ConfigError: unknown or missing knobs, or a value that the settings refuse.
    """
    check_knobs(list(config))
    changes = {name: config[name] for name in _OVERRIDES if name in config}
    try:
        settings = TrainingConfig.model_validate(settings.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"knob {first['loc'][0]}: {first['msg']}; got {first['input']!r}") from None
    rank = int(config["rank"])
    batch_size = int(config["batch_size"])
    steps = count_steps(n_examples, settings.epochs, batch_size)
    return Plan(
        rank=rank,
        alpha=float(config["alpha"] if "alpha" in config else config["alpha_ratio"] * rank),
        dropout=float(config.get("dropout", 0.0)),
        learning_rate=float(config["learning_rate"]),
        batch_size=min(batch_size, n_examples),
        n_examples=n_examples,
        n_seen=count_seen(n_examples, settings.epochs),
        steps=steps,
        warmup_steps=min(steps - 1, math.ceil(settings.warmup_fraction * steps)),
        settings=settings,
    )


def count_seen(n_examples: int, epochs: float) -> int:
    """Examples that a training sees, repeats included: epochs may be fractional, one example is the least."""
    return max(1, round(epochs * n_examples))


def count_steps(n_examples: int, epochs: float, batch_size: float) -> int:
    """Optimizer steps of a training. No batch is larger than the data.

    Epochs follow one another without a short batch between them, so only the last batch may be short.
    """
    return math.ceil(count_seen(n_examples, epochs) / min(batch_size, n_examples))


def example_order(n_examples: int, n_seen: int, seed: int) -> npt.NDArray[np.int64]:
    """Which example is seen when, shape (n_seen,): one seeded permutation an epoch."""
    random = np.random.default_rng(seed)
    epochs = [random.permutation(n_examples) for _ in range(math.ceil(n_seen / n_examples))]
    return np.concatenate(epochs)[:n_seen].astype(np.int64)
