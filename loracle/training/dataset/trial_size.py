"""How many examples a trial trains on and is scored on: as `data` says or, with `data.trial_cost`, as many as
cost so much of one full training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loracle.config.data.settings import DataConfig
from loracle.config.settings import RunConfig, ScoringConfig
from loracle.config.training.plan import plan_training
from loracle.records.space import with_alpha
from loracle.records.standard_settings import STANDARD
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import proxy_size
from loracle.training.dataset.tokens import Encoded
from loracle.training.guard import Guard
from loracle.training.scoring.questions import needs_of

LEAST_TRAINED, LEAST_SCORED = 16, 30  # fewer say too little, whatever they cost
_AIM = 0.95  # of what a trial may cost: rows differ in length, and learning curves read some as well


@dataclass(frozen=True)
class ExpectedTokens:
    """What trainings are expected to take, before there was any.

    Attributes:
        training: on one example with the standard settings, as often as they see it; the mean.
        item: scoring one validation example.
        n_train, n_validation: how many of both there are.
        beside: scoring what must not be lost, in each training.
    """

    training: float
    item: float
    n_train: int
    n_validation: int
    beside: float = 0.0

    @property
    def full(self) -> float:
        """Training on all data, scored on all validation examples."""
        return self.training * self.n_train + self.item * self.n_validation + self.beside

    def cost(self, trained: int, scored: int) -> float:
        """Of a trial, in full trainings."""
        return (self.training * trained + self.item * scored + self.beside) / self.full

    def affordable(self, cost: float, most_trained: int, most_scored: int) -> tuple[int, int]:
        """Examples that a trial of this cost trains on, and is scored on: half of it goes into each as long
        as both have a use for it."""
        tokens = max(0.0, _AIM * cost * self.full - self.beside)
        scored = min(most_scored, max(LEAST_SCORED, math.floor(tokens / 2 / self.item)))
        trained = max(LEAST_TRAINED, math.floor((tokens - scored * self.item) / self.training))
        if trained > most_trained:
            rest = tokens - most_trained * self.training
            scored = min(most_scored, max(scored, math.floor(rest / self.item)))
        return min(trained, most_trained), scored


def expected_tokens(
    config: RunConfig,
    train: Encoded,
    validation: Encoded,
    rows: Sequence[Example],
    guards: Sequence[Guard] = (),
) -> ExpectedTokens:
    """From lengths: an answer is written as long as its reference, and choices are as long as it.

    Args:
        config: of the run.
        train, validation: all examples that are short enough.
        rows: of the validation split, as they were read.
        guards: what must not be lost.
    """
    plan = plan_training(with_alpha(config.standard or STANDARD), config.training, len(train))
    length = float(validation.lengths.mean())
    item = length * _readings(config.scoring)
    if "choices" in needs_of(config.scoring):
        more = [len(rows[i].choices or config.scoring.choices or ()) - 1 for i in validation.positions]
        item += float(validation.counts.mean()) * max(0.0, sum(more) / len(more))
    if (stopping := plan.settings.early_stopping) is not None:  # goes by all that a trial is scored on
        item += length * stopping.evaluations
    beside = sum(
        float(guard.questions["validation"].encoded.lengths.sum()) * _readings(guard.settings)
        for guard in guards
    )
    seen = plan.n_seen / plan.n_examples
    training = float(train.lengths.mean()) * seen
    return ExpectedTokens(training, item, len(train), len(validation), beside)


def _readings(scoring: ScoringConfig) -> int:
    """How often an item is read or written: once more where an answer is written."""
    return 2 if "writing" in needs_of(scoring) else 1


@dataclass(frozen=True)
class TrialSize:
    """What a trial has.

    Attributes:
        trained, scored: training examples, and validation examples that score it.
        cost: the setting by which these are fewer than they else would be; None: they are not.
    """

    trained: int
    scored: int
    cost: float | None = None


def trial_size(data: DataConfig, expected: ExpectedTokens) -> TrialSize:
    """As the settings of the data say, within `data.trial_cost`."""
    n_validation = expected.n_validation
    trained = proxy_size(expected.n_train, data.proxy, data.proxy_minimum)
    scored = min(n_validation, data.validation_limit or n_validation)
    if data.trial_cost is None or expected.cost(trained, scored) <= data.trial_cost:
        return TrialSize(trained, scored)
    return TrialSize(*expected.affordable(data.trial_cost, trained, scored), data.trial_cost)
