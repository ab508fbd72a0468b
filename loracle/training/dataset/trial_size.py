"""How many examples a trial trains on and is scored on: as `data` says or, with `data.trial_cost`, as many as
cost so much of one full training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loracle.config.data.settings import DataConfig
from loracle.config.settings import RunConfig, ScoringConfig, build_space
from loracle.config.training.plan import plan_training, seen_of
from loracle.records.events import Span
from loracle.records.space import with_alpha
from loracle.records.standard_settings import STANDARD
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import proxy_size
from loracle.training.dataset.tokens import Encoded
from loracle.training.guard import Guard
from loracle.training.scoring.questions import ends_with_reference, needs_of

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
        watch: reading a validation example that is scored for early stopping, as often as that looks.
        item_ends, beside_ends: the same with answers as short, and as long, as they can be.
    """

    training: float
    item: float
    n_train: int
    n_validation: int
    beside: float = 0.0
    watch: float = 0.0
    item_ends: tuple[float, float] = (0.0, 0.0)
    beside_ends: tuple[float, float] = (0.0, 0.0)

    @property
    def ends(self) -> tuple[ExpectedTokens, ExpectedTokens]:
        """Where answers are as short, and as long, as they can be."""
        first, last = (
            replace(self, item=item, beside=beside)
            for item, beside in zip(self.item_ends, self.beside_ends, strict=True)
        )
        return first, last

    def full(self, scored: int) -> float:
        """Training on all data, scored on all validation examples; early stopping reads as many as a trial
        is scored on (`search_cost.py`)."""
        every = self.training * self.n_train + self.item * self.n_validation
        return every + self.watch * scored + self.beside

    def cost(self, trained: float, scored: int) -> float:
        """Of a trial, in full trainings; `trained` examples as often as the standard settings see them."""
        spent = self.training * trained + (self.item + self.watch) * scored + self.beside
        return spent / self.full(scored)

    def affordable(self, cost: float, most_trained: int, most_scored: int) -> tuple[int, int]:
        """Examples that a trial of this cost trains on, and is scored on: half of it goes into each as long
        as both have a use for it."""
        tokens, item = max(0.0, _AIM * cost * self.full(0) - self.beside), self.item + self.watch
        scored = min(most_scored, max(LEAST_SCORED, math.floor(tokens / 2 / item)))
        trained = max(LEAST_TRAINED, math.floor((tokens - scored * item) / self.training))
        if trained > most_trained:
            rest = tokens - most_trained * self.training
            scored = min(most_scored, max(scored, math.floor(rest / item)))
        return min(trained, most_trained), scored


def expected_tokens(
    config: RunConfig,
    train: Encoded,
    validation: Encoded,
    rows: Sequence[Example],
    guards: Sequence[Guard] = (),
    n_rows: int | None = None,
) -> ExpectedTokens:
    """From lengths: an answer is written as long as its reference, and choices are as long as it.

    Args:
        config: of the run.
        train, validation: all examples that are short enough.
        rows: of the validation split, as they were read.
        guards: what must not be lost.
        n_rows: blocks that the training examples are packed into; None: each is a row.
    """
    plan = plan_training(with_alpha(config.standard or STANDARD), config.training, n_rows or len(train))
    length = float(validation.lengths.mean())
    item = length * _readings(config.scoring)
    if "choices" in needs_of(config.scoring):
        more = [len(rows[i].choices or config.scoring.choices or ()) - 1 for i in validation.positions]
        item += float(validation.counts.mean()) * max(0.0, sum(more) / len(more))
    stopping = plan.settings.early_stopping  # goes by all that a trial is scored on
    watch = 0.0 if stopping is None else length * stopping.evaluations
    guarded = [(guard.settings, guard.questions["validation"].encoded) for guard in guards]
    beside = sum(float(rows.lengths.sum()) * _readings(settings) for settings, rows in guarded)
    off = [[len(rows) * end for end in _answers(settings, rows)] for settings, rows in guarded]
    fewer, further = (math.fsum(ends[i] for ends in off) for i in (0, 1))
    shorter, longer = _answers(config.scoring, validation)
    seen = plan.n_seen / plan.n_examples
    training = float(train.lengths.mean()) * seen
    ends = ((item + shorter, item + longer), (beside + fewer, beside + further))
    return ExpectedTokens(training, item, len(train), len(validation), beside, watch, *ends)


def _answers(scoring: ScoringConfig, rows: Encoded) -> tuple[float, float]:
    """By how many tokens an answer may differ from its reference, at least and at most; the mean."""
    if "writing" not in needs_of(scoring):
        return 0.0, 0.0
    reference = float(rows.counts.mean())
    longer = 0.0 if ends_with_reference(scoring) else max(0.0, scoring.max_new_tokens - reference)
    return 1.0 - reference, longer


Costs = tuple[tuple[float, ...], ...]  # batch size, epochs where they are a knob, and what a trial costs


def trial_cost(
    config: RunConfig, tokens: ExpectedTokens, size: TrialSize, rows: tuple[int, int]
) -> tuple[Span, Costs]:
    """What a trial costs, in full trainings: the mean over the candidates with answers as long as their
    references; at least and at most, of the shortest and of the longest training with such answers. And by
    length, with answers as long as their references.

    `rows`: what the batches of a training on all data, and of a trial, are made of: examples, or blocks.
    """
    whole, own = rows
    knobs = build_space(config.space, batch_limit=own, packs=config.data.packing)
    settings = config.training
    values = knobs.values(knobs.candidates)
    lengths, counts = np.unique(
        np.stack([values[name] for name in ("batch_size", "epochs") if name in values]),
        axis=1,
        return_counts=True,
    )
    share = size.trained / tokens.n_train
    standard = plan_training(with_alpha(config.standard or STANDARD), settings, whole)
    once = standard.n_seen / whole
    each = size.trained / own  # examples of a row
    seen = [each * seen_of(settings, own, length[0], share, *length[1:]) for length in lengths.T.tolist()]
    ends = [end.cost(n / once, size.scored) for end in tokens.ends for n in (min(seen), max(seen))]
    costs = [tokens.cost(n / once, size.scored) for n in seen]
    likely = float(np.average(costs, weights=counts))
    by_length = tuple((*length, cost) for length, cost in zip(lengths.T.tolist(), costs, strict=True))
    return Span(min(likely, *ends), likely, max(likely, *ends)), by_length


def _readings(scoring: ScoringConfig) -> int:
    """How often an item is read or written: once more where an answer is written."""
    return 2 if "writing" in needs_of(scoring) else 1


@dataclass(frozen=True)
class TrialSize:
    """What a trial has.

    Attributes:
        trained, scored: training examples, and validation examples that score it.
        cost: the setting by which these are fewer than they else would be; None: they are not.
        expected: what such a trial is expected to cost, in full trainings: more than the setting where as few
            as it allows would say too little; None: that was not asked.
    """

    trained: int
    scored: int
    cost: float | None = None
    expected: float | None = None

    @property
    def price(self) -> str:
        """What it costs, and why, in words: more than the setting where no trial has fewer examples."""
        assert self.cost is not None
        likely = self.cost if self.expected is None else self.expected
        few = self.trained <= LEAST_TRAINED or self.scored <= LEAST_SCORED
        why = f" {self.cost:g}; fewer rows would say too little" if few and likely > self.cost else ""
        shown = f"{likely:.3g}"
        return f"{shown} full training{'' if shown == '1' else 's'} (data.trial_cost{why})"


def trial_size(data: DataConfig, expected: ExpectedTokens) -> TrialSize:
    """As the settings of the data say, within `data.trial_cost`."""
    n_validation = expected.n_validation
    trained = proxy_size(expected.n_train, data.proxy, data.proxy_minimum)
    scored = min(n_validation, data.validation_limit or n_validation)
    if data.trial_cost is None or expected.cost(trained, scored) <= data.trial_cost:
        return TrialSize(trained, scored)
    fewer = expected.affordable(data.trial_cost, trained, scored)
    return TrialSize(*fewer, None if fewer == (trained, scored) else float(data.trial_cost))
