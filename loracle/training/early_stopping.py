"""Early stopping: a training ends where its validation loss has not become lower for a while.

The loss is measured at equal distances, the same number of times in a training whatever its batch, and the
adapter of the lowest loss is kept (Prechelt 1998, "Early stopping - but when?", with a patience). The
learning rates are those of the whole training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from loracle.config.training.settings import EarlyStoppingConfig
from loracle.training.dataset.tokens import Encoded
from loracle.training.model.base_model import Base, batches, collate
from loracle.training.model.output.loss import counted_losses
from loracle.training.model.positions import length_breaks
from loracle.training.parallel.group import ALONE, Group


@dataclass(frozen=True)
class Watched:
    """Examples of the validation split, and how many are read at a time."""

    encoded: Encoded
    batch_size: int

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
