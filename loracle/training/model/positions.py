"""Position codes that depend on the length of the whole batch, as LongRoPE's do (Phi-3, arXiv 2402.13753).

Such a model has one set of rotary frequencies up to the length that it was first trained on and another one
beyond, and takes the set of its longest sequence for all. A short example would be read otherwise beside a
long one, so the two never share a batch; and the set that was used last would stay in the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Indices = npt.NDArray[np.int64]


def length_breaks(model: torch.nn.Module) -> tuple[int, ...]:
    """Lengths in tokens up to which a model computes otherwise than beyond, ascending; mostly none."""
    found = set()
    for config in (getattr(module, "config", None) for module in model.modules()):
        rope = getattr(config, "rope_parameters", None)
        if not isinstance(rope, Mapping):
            continue
        for own in (rope, *rope.values()):  # some models have one for each kind of layer
            if isinstance(own, Mapping) and own.get("rope_type") == "longrope":
                found.add(int(own["original_max_position_embeddings"]))
    return tuple(sorted(found))


def alike(read: Indices, breaks: tuple[int, ...]) -> list[Indices]:
    """Positions of sequences that may share a batch, the longest first; `read` is tokens of each, (n,)."""
    order = np.argsort(-read, kind="stable")
    regime = np.searchsorted(np.asarray(breaks, dtype=np.int64), read[order])
    return np.split(order, np.flatnonzero(np.diff(regime)) + 1)


@contextmanager
def codes_restored(model: Any) -> Iterator[None]:
    """Afterwards the model's computed buffers, which no file holds, are as before."""
    kept = [
        (buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
