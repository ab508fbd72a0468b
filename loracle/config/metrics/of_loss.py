"""Metrics that need the losses of the references alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loracle.config.metrics.metric import Floats, Item, Metric, show_loss


class Loss(Metric):
    """Mean loss over the tokens that count, in nats."""

    name, needs, less_is_better, unit = "loss", "loss", True, "nats a token"

    @property
    def axis(self) -> str:
        return "validation loss"

    def statistics(self, items: Sequence[Item]) -> Floats:
        weight = np.array([float(item["tokens"]) for item in items])
        return np.stack([-np.array([float(item["loss"]) for item in items]) * weight, weight], axis=-1)

    def number(self, reading: float) -> str:
        return show_loss(reading)


class Perplexity(Loss):
    """e to the power of the mean loss: the number of equally likely words that a guess is as hard as."""

    name, unit = "perplexity", "of perplexity"

    @property
    def axis(self) -> str:
        return "validation perplexity"

    def combine(self, sums: Floats) -> Floats:
        with np.errstate(over="ignore"):  # infinite: diverged
            found: Floats = -np.exp(-super().combine(sums))
        return found


class BitsPerByte(Metric):
    """Loss of all tokens that count, in bits, for each byte of their text in UTF-8.

    So that models with different tokenizers compare. L. Gao et al., The Pile, section 3.1 (2020).
    """

    name, needs, less_is_better, unit = "bits_per_byte", "loss", True, "bits a byte"
    counts_bytes = True

    def statistics(self, items: Sequence[Item]) -> Floats:
        bits = [-float(item["loss"]) * float(item["tokens"]) / np.log(2) for item in items]
        return np.stack([np.array(bits), np.array([float(item["bytes"]) for item in items])], axis=-1)

    def number(self, reading: float) -> str:
        return show_loss(reading)
