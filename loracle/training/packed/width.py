"""How many configs to train together: as many as pay on this model and machine, by a few measured steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from loracle.config.training.plan import plan_training
from loracle.config.training.settings import TrainingConfig
from loracle.records.space import Value
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import Step, TrainingFailed, train_adapter
from loracle.training.model.base_model import Base
from loracle.training.packed.conditions import why_alone
from loracle.training.packed.linear import NotPacked
from loracle.training.packed.loop import train_packed

WIDTHS = (2, 4, 8)
_WORTH = 1.15  # times as fast as one at a time: below, noise of the measurement could make it a loss
_STEPS, _ROUNDS = 4, 3  # steps of a measurement beside the first one, and how often it is made
_ENOUGH = 2.0  # seconds of a measurement, above which it is made once


@dataclass(frozen=True)
class Width:
    """How many configs are trained together.

    Attributes:
        configs: so many; 1 for one at a time.
        gains: times as many trainings in the same time, by the number of configs, as far as was measured.
        reason: why no more, where something stands against it.
    """

    configs: int
    gains: Mapping[int, float] = field(default_factory=dict)
    reason: str | None = None


def measured_width(
    base: Base,
    encoded: Encoded,
    config: Mapping[str, Value],
    settings: TrainingConfig,
    widths: Sequence[int] = WIDTHS,
    micro_batches: Mapping[int, int] | None = None,
    ranks: Sequence[Value] = (),
) -> Width:
    """The width, of `widths` in ascending order, that trains most configs like this one in the same time.

    Each is measured with its own of `micro_batches`, 1 among them; None: all with that of the settings.
    `ranks` are those that the configs have in turn, as the adapters of small ones are filled up to the
    largest among them; none: all as this one. Wider ones are not measured where one pays less than the one
    before. Memory that runs out counts as this.

    Raises:
        ConfigError: see `plan_training`.
        TrainingFailed: even one config alone fails.
        ModelError: the base model was not left as it was found.
    """
    plan = plan_training(config, settings, len(encoded))
    if reason := why_alone(base, plan):
        return Width(1, reason=reason)
    some = encoded.select(np.resize(np.arange(len(encoded)), plan.batch_size * (_STEPS + 1)))
    short = settings.model_copy(update={"epochs": 1.0, "max_steps": None, "divergence_factor": 1e9})

    def sized(width: int) -> TrainingConfig:
        own = {} if micro_batches is None else {"micro_batch": micro_batches[width]}
        return short.model_copy(update=own)

    kinds = [{**config, "rank": rank} for rank in ranks] or [dict(config)]
    alone = [_seconds(base, some, [kind], sized(1)) for kind in kinds]
    gains: dict[int, float] = {}
    reason = None
    for width in widths:
        try:
            several = [kinds[i % len(kinds)] for i in range(width)]
            apart = sum(alone[i % len(kinds)] for i in range(width))
            gains[width] = apart / _seconds(base, some, several, sized(width))
        except (NotPacked, TrainingFailed) as error:
            reason = str(error)
            break
        if gains[width] < _WORTH or gains[width] < max(gains.values()):
            break
    best = max(gains, key=gains.__getitem__, default=1)
    return Width(best if gains.get(best, 0.0) >= _WORTH else 1, gains, reason)


def _seconds(
    base: Base, encoded: Encoded, configs: Sequence[Mapping[str, Value]], settings: TrainingConfig
) -> float:
    """Of the steps behind the first one, in the fastest of some rounds: other work only slows."""
    one_thread = base.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter
    found: list[float] = []
    while not found or (len(found) < _ROUNDS and found[0] < _ENOUGH):
        ends: list[float] = []

        def of_one(step: Step, ends: list[float] = ends) -> None:
            ends.append(clock())

        def of_all(i: int, step: Step, ends: list[float] = ends) -> None:
            if i == len(configs) - 1:  # the last one, with which a step of all is done
                ends.append(clock())

        if len(configs) > 1:
            train_packed(base, encoded, configs, settings, seed=0, progress=of_all)
        else:
            with train_adapter(base, encoded, configs[0], settings, seed=0, progress=of_one):
                pass
        found.append(ends[-1] - ends[0])
    return min(found)
