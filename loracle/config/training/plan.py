"""What a training does, as config and settings make it: its numbers, and how many steps it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from loracle.config.knobs import KNOBS, check_knobs
from loracle.config.training.settings import TrainingConfig
from loracle.config.training.variants import VARIANTS
from loracle.errors import ConfigError
from loracle.records.space import Value, with_alpha


@dataclass(frozen=True)
class Plan:
    """A training as config and settings make it: `n_seen` examples, repeats included, in `steps` updates.

    `learning_rate` is the highest that it reaches; `training/schedule.py` has that of each step.
    """

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


def plan_training(
    config: Mapping[str, Value], settings: TrainingConfig, n_examples: int, share: float = 1.0
) -> Plan:
    """Derives a plan.

    `share` is what these examples are of all training data: `max_steps` are those of a training on all, so a
    training on a tenth takes a tenth of them, and goes over its data as often.

    Raises:
        ConfigError: unknown or missing knobs, or a value that the settings refuse.
    """
    check_knobs(list(config))
    settings = settings_with(settings, config)
    batch_size = int(config["batch_size"])
    steps = steps_of(settings, n_examples, batch_size, share)
    return Plan(
        rank=int(config["rank"]),
        alpha=float(with_alpha(config)["alpha"]),
        dropout=float(config.get("dropout", 0.0)),
        learning_rate=float(config["learning_rate"]) * VARIANTS[settings.variant].learning_rate_shift,
        batch_size=min(batch_size, n_examples),
        n_examples=n_examples,
        n_seen=seen_of(settings, n_examples, batch_size, share),
        steps=steps,
        warmup_steps=min(steps - 1, math.ceil(settings.warmup_fraction * steps)),
        settings=settings,
    )


def settings_with(settings: TrainingConfig, config: Mapping[str, Value]) -> TrainingConfig:
    """Settings with those in place that a config has knobs for; its other knobs are let be.

    Raises:
        ConfigError: a value that the settings refuse.
    """
    knobs = {name: value for name, value in config.items() if name in KNOBS and KNOBS[name].is_setting}
    changes = {name: _split(value) if name == "targets" else value for name, value in knobs.items()}
    try:
        return TrainingConfig.model_validate(settings.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise ConfigError(
                f"knobs {', '.join(changes)} with the settings of training: {message}"
            ) from None
        if first["loc"][0] not in changes:  # a setting that does not go with a knob
            shown = ", ".join(f"{name} {value}" for name, value in knobs.items())
            raise ConfigError(f"training.{first['loc'][0]} with {shown}: {message}") from None
        raise ConfigError(f"knob {first['loc'][0]}: {message}; got {first['input']!r}") from None


def _split(targets: Value) -> Value | list[str]:
    """Targets as a knob names them, `q_proj,v_proj`, as the setting has them."""
    if not isinstance(targets, str) or targets == "all-linear":
        return targets
    return [part.strip() for part in targets.split(",")]


def named_setting(settings: TrainingConfig, name: str) -> str:
    """The value of a setting as a knob of its name has it.

    Raises:
        ConfigError: targets that no knob can have: a regular expression with a comma.
    """
    value = getattr(settings, name)
    if isinstance(value, str):
        return value
    if any("," in target for target in value):
        raise ConfigError(
            f"training.targets: {value} has a comma in a regular expression, so it is no value of the knob "
            "targets; write it otherwise, or name the targets in standard"
        )
    return ",".join(value)


def steps_of(
    settings: TrainingConfig, n_examples: int, batch_size: float, share: float, epochs: float | None = None
) -> int:
    """Optimizer steps of a training on so many examples, which are this share of all; `epochs` of a knob."""
    if settings.max_steps is not None:
        return max(1, round(settings.max_steps * share))
    passes = settings.epochs if epochs is None else epochs
    assert passes is not None
    return count_steps(n_examples, passes, batch_size)


def seen_of(
    settings: TrainingConfig, n_examples: int, batch_size: float, share: float, epochs: float | None = None
) -> int:
    """Examples that such a training sees, repeats included; arguments as in `steps_of`."""
    passes = settings.epochs if epochs is None else epochs
    if passes is not None:
        return count_seen(n_examples, passes)
    # Where steps are counted, every batch is a whole one.
    return steps_of(settings, n_examples, batch_size, share) * int(min(batch_size, n_examples))


def count_seen(n_examples: int, epochs: float) -> int:
    """Examples that a training sees, repeats included: epochs may be fractional, one example is the least."""
    return max(1, round(epochs * n_examples))


def count_steps(n_examples: int, epochs: float, batch_size: float) -> int:
    """Optimizer steps of a training. No batch is larger than the data.

    Epochs follow one another without a short batch between them, so only the last batch may be short.
    """
    return math.ceil(count_seen(n_examples, epochs) / min(batch_size, n_examples))


def steps_elsewhere(n_rows: int, epochs: float, batch_size: int) -> int:
    """Steps that transformers' trainer, and those built on it, make of so many epochs.

    Each of their epochs ends with a batch that may be short
    (`transformers/trainer.py`, `Trainer.set_initial_training_values`).
    """
    return math.ceil(epochs * math.ceil(n_rows / batch_size))
