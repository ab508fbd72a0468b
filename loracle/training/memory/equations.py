"""What a training holds in memory at its peak: equations, and counts on the model itself.

At its peak, when the backward pass begins, a training holds what was loaded before it, and in bytes

    growth = adapter + allocator x (saved + max(logits, gradients)) + overhead

* adapter: weight, gradient and the two moments of AdamW (Kingma & Ba 2015) in float32 for every parameter,
  16; 18 where autocast makes a bfloat16 copy of it; less with another optimizer, 4 more where early stopping
  keeps the best adapter. Parameters are PEFT's own count at rank 1, times rank.
* saved: what autograd keeps for the backward pass. Published formulas (Korthikanti et al. 2022, arXiv
  2205.05198, eq. 1) hold for one architecture, trained in full. Here most weights are frozen, kernels differ,
  and dropout keeps more than its absence. So it is counted on the model itself: three short forward passes
  give the polynomial c0 + m (c1 t + c2 t^2) of m sequences of t tokens, and a unit of rank adds one number a
  token and adapted module, the output of A. With gradient checkpointing a layer keeps its input alone (ibid.,
  section 4), and one layer at a time is computed again.
* logits: of one block of words, whatever the vocabulary (`model/output/blocks.py`), and the gradient of the
  hidden states at the k positions that count. An output layer with an adapter gives float32 logits at some
  positions at a time: 16 bytes for each, with log-softmax and the gradients of both. A model that makes its
  logits itself makes them for all k, or for all tokens; a quarter of those stays while gradients are made.
* gradients: two float32 tensors as wide as the widest adapted module, while the first layer's backward runs.
* allocator: what it holds for each byte of an activation: 1 on CUDA, where PyTorch keeps blocks of like
  sizes. The heap of the C library falls into pieces: that of a worker (`config/execution/heap.py`), on Linux,
  to 1.1 to 1.4 on a real model in either precision, and to 2.4 to 4.4 where activations are computed again,
  which is not understood; a heap as it comes, to 1.4 to 2.1 and 3.6 to 6.9.

Measured on a CPU (`benchmarks/memory.py`), before any correction: docs/real-model.md. The numbers of a
worker's heap are fitted to 24 trainings of Gemma 3 270M, ranks 4 to 256, 16 to 1,024 tokens at a time, all of
which they meet within a tenth. Other models have tensors of other sizes, and there it matters that `plan.py`
corrects by what was observed. On CUDA it was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loracle.training.dataset.tokens import Encoded

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Logits:
    """How many logits are there at a time.

    Attributes:
        each: bytes for each of them, with what is made of it.
        block: so many are there at once;
        words: but of so many words at least and at most, for each position.
    """

    each: int
    block: int
    words: tuple[int, int]


@dataclass(frozen=True)
class Footprint:
    """What trainings on a base model hold, counted on the model.

    Attributes:
        per_rank, fixed: parameters of an adapter for each unit of rank, and whatever the rank: of DoRA,
            and of modules that are trained whole.
        modules: how many modules are adapted.
        saved: (2, 3) coefficients c0, c1, c2 in bytes; first row without dropout, second with.
        layers, hidden, vocabulary: of the model.
        widest: features of the widest adapted module.
        itemsize: bytes of an activation.
        cached: bytes of keys and values of a token while text is generated.
        copied: bytes of weights that the variant makes anew (PiSSA).
        checkpointing: whether activations are computed again.
        counted_alone: whether logits are computed at counted positions alone.
        logits: how many logits are there at a time.
        allocator: bytes that it holds for each byte of a tensor.
        overhead: bytes.
        kept: bytes for each parameter of the adapter beside weight and gradient: the optimizer's, and copies.
    """

    per_rank: int
    fixed: int
    modules: int
    saved: Floats
    layers: int
    hidden: int
    vocabulary: int
    widest: int
    itemsize: int
    cached: int
    copied: int
    checkpointing: bool
    counted_alone: bool
    logits: Logits
    allocator: float
    overhead: int
    kept: float = 8.0


@dataclass(frozen=True)
class Sizes:
    """Sizes of examples.

    Attributes:
        longest: tokens of the longest input.
        counted: (n,) positions in the loss of the one, two, three, ... examples that have most.
        typical: tokens of an input, the mean.
    """

    longest: int
    counted: npt.NDArray[np.int64]
    typical: float

    @classmethod
    def of(cls, encoded: Encoded) -> Sizes:
        """Of a data set; a model reads all but the last token of an example."""
        counted = np.sort(encoded.counts)[::-1].cumsum()
        return cls(int(encoded.lengths.max()) - 1, counted, float(encoded.lengths.mean()) - 1)

    def in_loss(self, n: npt.ArrayLike) -> Floats:
        """At most so many positions count in a batch of `n` examples; same shape as `n`."""
        last = np.minimum(np.asarray(n, dtype=np.int64), len(self.counted)) - 1
        found: Floats = self.counted[last].astype(np.float64)
        return found


def training_growth(
    footprint: Footprint,
    sizes: Sizes,
    rank: npt.ArrayLike,
    micro_batch: npt.ArrayLike,
    dropout: npt.ArrayLike,
) -> Floats:
    """Bytes at the peak of a training beyond what was loaded; the arguments are broadcast together."""
    tensors = training_tensors(footprint, sizes, rank, micro_batch, dropout)
    adapter = _adapter(footprint, np.broadcast_to(rank, tensors.shape))
    return adapter + footprint.allocator * (tensors - adapter) + footprint.overhead


def _adapter(footprint: Footprint, rank: npt.ArrayLike) -> Floats:
    """Bytes of weights, gradients and moments."""
    each = 8 + footprint.kept + (0 if footprint.itemsize == 4 else 2)
    result: Floats = each * (footprint.per_rank * np.asarray(rank, dtype=np.float64) + footprint.fixed)
    return result


def training_tensors(
    footprint: Footprint,
    sizes: Sizes,
    rank: npt.ArrayLike,
    micro_batch: npt.ArrayLike,
    dropout: npt.ArrayLike,
) -> Floats:
    """Bytes of tensors at the peak of a training beyond those that were loaded."""
    rank, m, drops = np.broadcast_arrays(rank, micro_batch, np.asarray(dropout) > 0)
    f, t = footprint, sizes.longest
    tokens = m * float(t)
    c0, c1, c2 = np.moveaxis(f.saved[drops.astype(np.int64)], -1, 0)
    saved = m * (c1 * t + c2 * t * t) + f.itemsize * f.modules * (rank - 1) * tokens
    if f.checkpointing:
        saved = f.itemsize * f.layers * f.hidden * tokens + saved / f.layers
    k = sizes.in_loss(m)
    everywhere = 0 if f.counted_alone else 2 * f.itemsize * f.vocabulary * tokens
    logits = f.logits.each * logits_at_once(f, k)
    states = 16 * f.hidden * k  # sums and products of the output layer's weights
    kept = logits / 4 if f.logits.words[0] >= f.vocabulary else 0.0  # where all of them are part of the graph
    gradients = 8 * f.widest * tokens
    top = np.maximum(logits + everywhere + states, kept + gradients)
    result: Floats = _adapter(f, rank) + c0 + saved + top + f.copied
    return result


def logits_at_once(footprint: Footprint, k: npt.ArrayLike) -> Floats:
    """How many logits are there at a time where `k` positions count; same shape as `k`."""
    k = np.asarray(k, dtype=np.float64)
    least, most = footprint.logits.words
    result: Floats = np.minimum(
        footprint.vocabulary * k, np.clip(footprint.logits.block, least * k, most * k)
    )
    return result


def scoring_growth(
    footprint: Footprint, sizes: Sizes, rank: int, batch: int, written: int, continued: bool = False
) -> float:
    """Bytes at the peak of scoring a batch beyond what was loaded; `written` tokens are generated for each.

    Nothing is saved for a backward pass. There are the logits of a pass over the references, or the keys and
    values that generation caches, and one layer's tensors. Where prompts are `continued`, there are the keys
    and values of as many prompts as continuations beside the logits.
    """
    f, tokens = footprint, batch * sizes.longest
    logits = f.logits.each * float(logits_at_once(f, sizes.in_loss(batch)))
    everywhere = 0 if f.counted_alone else f.itemsize * f.vocabulary * tokens
    cache = f.cached * (tokens + batch * written) if written else 0
    kept = 2 * f.cached * tokens if continued else 0
    layer = 4 * f.itemsize * f.widest * tokens
    tensors = (
        16.0 * f.per_rank * rank + 4.0 * f.fixed + max(logits + everywhere + kept, cache) + layer + f.copied
    )
    return f.allocator * tensors + f.overhead
