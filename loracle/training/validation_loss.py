"""The validation loss during a training: what early stopping goes by, and a part of every learning curve.

With early stopping, a training ends where its validation loss has not become lower for a while. The loss is
measured at equal distances, the same number of times in a training whatever its batch, and the adapter of the
lowest loss is kept (Prechelt 1998, "Early stopping - but when?", with a patience). The learning rates are
those of the whole training.

Without, some validation examples are read a few times, at steps that double, where that costs under 3 % of
the training; it changes nothing in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from loracle.config.training.plan import Plan
from loracle.config.training.settings import EarlyStoppingConfig
from loracle.training.dataset.tokens import Encoded
from loracle.training.model.base_model import Base, batches, collate
from loracle.training.model.output.loss import counted_losses
from loracle.training.model.positions import length_breaks
from loracle.training.parallel.group import ALONE, Group

_SHARE = 0.03  # of a training's cost, that its curve of validation losses may add
_BACKWARD = 3.0  # times a forward pass: what a training step costs for a token
_POINTS, _FEWEST = 5, 2  # of such a curve
_EXAMPLES, _TOO_FEW = 64, 8  # that are read for a point


@dataclass(frozen=True)
class Watched:
    """Examples of the validation split, and how many are read at a time.

    `points`: how often, where early stopping does not say.
    """

    encoded: Encoded
    batch_size: int
    points: int = _POINTS

    def after(self, plan: Plan) -> list[int]:
        """After which steps of a training the loss is measured; the last step is among them."""
        stopping = plan.settings.early_stopping
        return (
            curve_steps(plan.steps, self.points)
            if stopping is None
            else evaluated_steps(stopping, plan.steps)
        )

    def loss(self, base: Base, group: Group = ALONE) -> float:
        """Mean loss a token of the model as it is; each process of a group reads some of the batches."""
        total = 0.0
        with torch.inference_mode():
            breaks = length_breaks(base.model)
            parts = batches(self.encoded.lengths - 1, self.batch_size, base.reading, breaks)
            for part in parts[group.rank :: group.size]:
                losses, _ = counted_losses(base, collate(self.encoded, part, base))
                total += float(losses.double().sum())
        return group.sum(total) / int(self.encoded.counts.sum())


def evaluated_steps(settings: EarlyStoppingConfig, steps: int) -> list[int]:
    """After which steps of a training, from 1, the loss is measured; the last step is among them."""
    n = min(settings.evaluations, steps)
    return [round(steps * (i + 1) / n) for i in range(n)]


def curve_steps(steps: int, points: int) -> list[int]:
    """After which steps of a training a curve has its validation losses: each is twice the one before."""
    return sorted({max(1, steps >> i) for i in range(points)})


def watched_for_curve(validation: Encoded, train: Encoded, plan: Plan, batch_size: int) -> Watched | None:
    """What is read for a curve; None where a training is too small for it.

    As many points and examples as cost under 3 % of the training: of its tokens, of which each costs three
    times a token that is only read, and of its passes through the model, which in small models cost as much
    as what is in them.

    Args:
        validation, train: examples that score a trial, and those that it trains on.
        plan: of the training.
        batch_size: examples that a pass of the training reads at once.
    """
    n = len(validation)
    trained = float(train.lengths.mean()) * plan.n_seen  # tokens
    passes = plan.steps * math.ceil(plan.batch_size / batch_size)
    for points in range(_POINTS, _FEWEST - 1, -1):
        at_most = int(_SHARE * _BACKWARD * trained / (points * float(validation.lengths.mean())))
        allowed = int(_SHARE * _BACKWARD * passes / points)  # passes for one point
        examples = min(n, _EXAMPLES, at_most, allowed * batch_size)
        if examples >= min(n, _TOO_FEW):
            some = np.linspace(0, n - 1, examples).round().astype(np.int64)
            return Watched(validation.select(some), batch_size, points)
    return None


class Best:
    """Keeps the adapter of the lowest validation loss.

    Attributes:
        step: after which it was measured; 0: none was.
        loss: that loss.
    """

    def __init__(self, settings: EarlyStoppingConfig, parameters: list[torch.nn.Parameter]) -> None:
        self._settings = settings
        self._parameters = parameters
        self._kept: list[torch.Tensor] = []
        self._without = 0
        self.step, self.loss = 0, math.inf

    def ends(self, step: int, loss: float) -> bool:
        """Notes a loss, and says whether the training ends here."""
        if loss < self.loss - (self._settings.minimum_gain if self._kept else 0.0):
            self.step, self.loss, self._without = step, loss, 0
            self._kept = [p.detach().clone() for p in self._parameters]
            return False
        self._without += 1
        return self._without >= self._settings.patience

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the kept adapter back."""
        for parameter, kept in zip(self._parameters, self._kept, strict=False):
            parameter.copy_(kept)
