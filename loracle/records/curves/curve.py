"""A learning curve as an outcome keeps it: few points, whatever the length of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

POINTS = 40  # of a curve in an outcome: some 2 kB, in the journal as well


@dataclass(frozen=True)
class Curve:
    """How a training went. Points are means over equal stretches of steps, and stand at their ends.

    Attributes:
        steps: (p,) optimizer steps from 1, increasing; reports of a trainer that tells no steps are counted.
        losses: (p,) training loss.
        tokens: (p,) that were trained on up to there, without padding, repeats included; empty: not known.
        learning_rates, gradient_norms: (p,) each, the norms before clipping; empty: not known.
        validation_steps, validation_losses: (v,) loss on a fixed set of validation examples,
            after these steps.
        left_out: losses that were told and are not in it, as their step is not higher than the one before.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    tokens: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = ()
    gradient_norms: tuple[float, ...] = ()
    validation_steps: tuple[int, ...] = ()
    validation_losses: tuple[float, ...] = ()
    left_out: int = 0


def blocks(n: int, most: int) -> Sequence[tuple[int, int]]:
    """The ends of at most so many equal blocks of n points, one after the other."""
    count = min(n, most)
    ends = [round(i * n / count) for i in range(count + 1)] if count else [0]
    return list(pairwise(ends))
