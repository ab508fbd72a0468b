"""Prompts that are read once and continued several times, from the keys and values that the model keeps.

How a model can be continued is no matter of its name: `batching.observed` tries it and compares.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache

from loracle.training.model.base_model import Base, Batch, filled_left
from loracle.training.model.output.loss import logits_of_few

Ids = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ReadPrompts:
    """Prompts that a model has read, b of them, filled up on the left.

    Attributes:
        logits: (b, vocabulary), float32, of the token that follows each.
        lengths: (b,) tokens of each.
        width: tokens of the longest.
    """

    logits: torch.Tensor
    lengths: npt.NDArray[np.int64]
    width: int
    _cache: DynamicCache
    _mask: torch.Tensor | None  # (b, width), where some are filled up

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep a state in place of keys and values."""
        return any(hasattr(layer, "conv_states") for layer in self._cache.layers)

    def continued(
        self, base: Base, rows: Ids, endings: Sequence[Ids], counted: Sequence[Flags]
    ) -> Batch | None:
        """A batch of endings, each behind its prompt, `rows` (n,). Its targets are the tokens that count of
        each ending but the first, whose logits are there already; None where there are none.
        """
        width = max(map(len, endings)) - 1
        ids = np.full((len(rows), width + 1), base.pad_id, dtype=np.int64)
        keep = np.zeros((len(rows), width + 1), dtype=np.bool_)
        for row, (ending, own) in enumerate(zip(endings, counted, strict=True)):
            ids[row, : len(ending)] = ending
            keep[row, 1 : len(ending)] = own[1:]
        if not keep.any():
            return None
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64)).to(base.device)
        cache = copy.copy(self._cache)  # the forward pass puts new tensors into the layers of this one
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        cache.reorder_cache(index)
        more: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if self._mask is not None:
            own_mask = self._mask[index]
            more["attention_mask"] = torch.cat([own_mask, own_mask.new_ones((len(rows), width))], dim=1)
            if _takes_positions(base.model):
                start = torch.from_numpy(self.lengths[rows]).to(base.device)
                more["position_ids"] = start[:, None] + torch.arange(width, device=base.device)
        at = np.nonzero(keep)
        arrays = (ids[:, :-1], keep[:, 1:], ids[at], *at)
        return Batch(*(torch.from_numpy(a).to(base.device) for a in arrays), more=more)


def read_prompts(base: Base, prompts: Sequence[Ids]) -> ReadPrompts:
    """Reads prompts for `ReadPrompts.continued`. Without a mask where all have one length."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    ids, mask = filled_left(base, prompts)
    width = ids.shape[1]
    keep = torch.zeros_like(ids, dtype=torch.bool)
    keep[:, -1] = True
    cache = DynamicCache(config=base.model.config)
    more: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    seen = None
    if int(lengths.min()) < width:
        more["attention_mask"] = seen = mask
        if _takes_positions(base.model):
            more["position_ids"] = (seen.cumsum(-1) - 1).clamp(min=0)
    nothing = torch.zeros(0, dtype=torch.long, device=base.device)
    batch = Batch(ids, keep, nothing, nothing, nothing, more=more)
    return ReadPrompts(logits_of_few(base, batch), lengths, width, cache, seen)


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters
