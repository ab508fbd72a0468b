"""The examples of each config, cut into pieces that go through the model beside those of others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loracle.config.training.plan import Plan
from loracle.training.dataset.tokens import Encoded
from loracle.training.loop import examples_seen
from loracle.training.model.base_model import Base, Batch, batches, collate
from loracle.training.model.dropout import Drops, rounded, token_keys

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Some examples of one step of one config.

    Attributes:
        step: its number, from 0.
        chosen, known_as: which examples these are, and what masks know them as, (n,) each.
        n_tokens: that count, in the whole effective batch.
        ends: whether the step is complete after it.
        real: how many are trained on; the others fill up.
    """

    step: int
    chosen: Indices
    known_as: Indices
    n_tokens: int
    ends: bool
    real: int

    def filled(self, rows: int) -> Piece:
        """With so many rows, the further ones copies of the first that do not count."""
        more = (0, rows - len(self.chosen))
        chosen, known_as = (np.pad(a, more, mode="wrap") for a in (self.chosen, self.known_as))
        return replace(self, chosen=chosen, known_as=known_as)


def pieces(encoded: Encoded, plan: Plan, seed: int, most: int, base: Base) -> Iterator[Piece]:
    """All of a training's examples, step by step, in pieces of at most `most`, as equal as can be."""
    order, known_as = examples_seen(encoded, plan, seed)
    for step in range(plan.steps):
        part = slice(step * plan.batch_size, (step + 1) * plan.batch_size)
        chosen, known = order[part], known_as[part]
        size = math.ceil(len(chosen) / math.ceil(len(chosen) / most))
        parts = batches(encoded.lengths[chosen] - 1, size, base.reading)
        n_tokens = int(encoded.counts[chosen].sum())
        for number, own in enumerate(parts, start=1):
            yield Piece(step, chosen[own], known[own], n_tokens, number == len(parts), len(own))


@dataclass(frozen=True)
class Rows:
    """One piece of every config as one batch, config by config.

    Attributes:
        batch: rows that fill up count nowhere.
        owners: (k,) which config each counted position is of.
        weights: (k,) what its loss is multiplied by: one over the tokens of its config's step.
        drops: what dropout does to it; None: nothing.
    """

    batch: Batch
    owners: torch.Tensor
    weights: torch.Tensor
    drops: Drops | None


def together(
    encoded: Encoded,
    found: Sequence[Piece | None],
    alive: Sequence[bool],
    plans: Sequence[Plan],
    seed: int,
    base: Base,
) -> Rows:
    """The pieces as one batch. Of a config that has none left another's examples stand in its rows and count
    nowhere; what is not `alive` any more counts with a weight of zero."""
    some = next(piece for piece in found if piece is not None)
    own = [replace(some, real=0) if piece is None else piece for piece in found]
    rows = max(len(piece.chosen) for piece in own)
    own = [piece.filled(rows) for piece in own]
    batch = collate(encoded, np.concatenate([piece.chosen for piece in own]), base)
    real = np.concatenate([np.arange(rows) < piece.real for piece in own])
    if not real.all():
        batch = _counting(batch, torch.from_numpy(real).to(base.device))
    owners = torch.div(batch.rows, rows, rounding_mode="floor")
    weights = [float(lives) / piece.n_tokens for piece, lives in zip(own, alive, strict=True)]
    each = torch.tensor(weights, dtype=torch.float32, device=base.device)
    drops = None
    if any(plan.dropout for plan in plans):
        width = batch.inputs.shape[1]
        keys = np.concatenate([token_keys(seed, piece.step, piece.known_as, width) for piece in own])
        shares = np.repeat([rounded(plan.dropout) for plan in plans], rows)
        drops = Drops(keys, shares, base.device)
    return Rows(batch, owners, each[owners], drops)


def _counting(batch: Batch, real: torch.Tensor) -> Batch:
    """The batch with those rows alone that are `real`, (b,), in its loss."""
    stays = real[batch.rows]
    parts: dict[str, Any] = {name: getattr(batch, name)[stays] for name in ("targets", "rows", "columns")}
    return replace(batch, keep=batch.keep & real[:, None], **parts)
