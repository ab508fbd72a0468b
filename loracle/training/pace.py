"""How fast trainings go here, measured on the loaded model before the first trial.

A few steps and a few scored examples; nothing is kept, and model and random states are left as they were.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from loracle.config.metrics import Needs
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.training.settings import TrainingConfig
from loracle.records.objective import Pace
from loracle.records.space import Config
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import TrainingFailed, train_adapter
from loracle.training.memory.measurement import out_of_memory, release
from loracle.training.model.base_model import Base
from loracle.training.parallel.group import ALONE, Group
from loracle.training.scoring import Questions, ends_with_reference, needs_of, score

_SECONDS = 1.0  # that each of the two measurements is meant to take
_STEPS_ALONE = 3  # of one example; the first is not counted
_STEPS = 4  # of a batch, at most
_ASKING: dict[Needs, str] = {"writing": "json_valid", "choices": "choice_accuracy", "loss": "loss"}
_WRITTEN = 16  # tokens of an answer, at most; longer ones are reckoned from these


@dataclass(frozen=True)
class Sample:
    """What is measured.

    Attributes:
        base: the model.
        config: the one that is trained, the standard.
        training, scoring: settings of trials; the batch of `scoring` is the largest that fits, and so is the
            micro-batch of `training`.
        train: examples that a trial trains on.
        questions: what a trial is scored on.
        group: the processes that train it.
    """

    base: Base
    config: Config
    training: TrainingConfig
    scoring: ScoringConfig
    train: Encoded
    questions: Questions
    group: Group = ALONE


def measure_pace(sample: Sample) -> Pace | None:
    """Takes a few seconds, on a slow machine those of ten examples; None where memory runs out or the loss
    is no number.

    Raises:
        LoracleError: see `train_adapter`.
    """
    try:
        return _measured(sample)
    except TrainingFailed:
        return None
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error) is None:
            raise
        return None
    finally:
        release(sample.base.device)


def _measured(sample: Sample) -> Pace:
    alone, _, _ = _train(sample, 1, _STEPS_ALONE, scores=False)
    each = float(np.mean(alone[1:])) or 1e-9
    wanted = min(int(sample.config["batch_size"]), len(sample.train))
    batch = int(np.clip(_SECONDS / each, min(2, wanted), wanted))
    steps = int(np.clip(_SECONDS / (each * batch), 2, _STEPS))
    together, other, item = _train(sample, batch, steps, scores=True)
    at_a_time = float(np.mean(together[1:]))
    # Seconds of a step are a constant and a multiple of its examples.
    example = at_a_time / batch if batch == 1 else max(0.0, (at_a_time - each) / (batch - 1))
    return Pace(max(0.0, at_a_time - batch * example), example, *item, other)


def _train(
    sample: Sample, batch: int, steps: int, *, scores: bool
) -> tuple[list[float], float, tuple[float, float]]:
    """Seconds of each step, seconds for what is no step, and of a scored example at least and at most."""
    n = min(batch * steps, len(sample.train))
    # Evenly spaced: as long as the others, on average.
    some = sample.train.select(np.linspace(0, len(sample.train) - 1, n).astype(np.int64))
    length = {"epochs": batch * steps / n, "max_steps": None, "early_stopping": None}
    settings = sample.training.model_copy(update=length)
    knobs = {name: value for name, value in sample.config.items() if name not in length}
    began, times = time.perf_counter(), list[float]()
    item = (0.0, 0.0)
    with train_adapter(
        sample.base,
        some,
        knobs | {"batch_size": batch},
        settings,
        seed=0,
        progress=lambda step: times.append(time.perf_counter()),
        group=sample.group,
    ):
        scoring_began = time.perf_counter()
        if scores:
            item = _item_seconds(sample)
        scoring = time.perf_counter() - scoring_began
    seconds = np.diff([began, *times]).tolist()
    outside = time.perf_counter() - began - scoring - len(times) * float(np.mean(seconds[1:]))
    return seconds, max(0.0, outside), item


def _item_seconds(sample: Sample) -> tuple[float, float]:
    """Seconds that an example takes to be scored, at least and at most: where the model writes, an answer
    that it is sure to give need not be written, and others may be as long as is allowed."""
    needs = needs_of(sample.scoring)
    # What a metric makes of answers is another matter: of a harness, or of a program, that would cost more.
    asking = [name for need, name in _ASKING.items() if need in needs] or ["loss"]
    settings = sample.scoring.model_copy(update={"metric": asking[0], "metrics": asking[1:]})
    few = _seconds(sample, settings, 2)
    n = int(np.clip(_SECONDS / max(few / 2, 1e-9), 2, settings.batch_size))
    if "writing" not in needs:
        each = _seconds(sample, settings, n) / min(n, len(sample.questions))
        return each, each
    encoded = sample.questions.encoded
    written = min(settings.max_new_tokens, _WRITTEN)
    longest = settings.max_new_tokens
    if ends_with_reference(sample.scoring):  # an answer ends with the longest reference
        longest = int((encoded.lengths - encoded.prompt_lengths).max())
    read = _seconds(sample, settings.model_copy(update={"metric": "loss", "metrics": []}), n)
    whole = _seconds(sample, settings, n)
    n = min(n, len(sample.questions))
    return read / n, (read + max(0.0, whole - read) * max(1.0, longest / written)) / n


def _seconds(sample: Sample, settings: ScoringConfig, n: int) -> float:
    """Seconds for scoring some examples, with answers cut off."""
    total = len(sample.questions)
    some = np.linspace(0, total - 1, min(n, total)).astype(np.int64)
    cut = min(settings.max_new_tokens, _WRITTEN)
    began = time.perf_counter()
    settings = settings.model_copy(update={"max_new_tokens": cut})
    score(sample.base, sample.questions.select(some), settings, group=sample.group)
    return max(time.perf_counter() - began, math.ulp(1.0))
