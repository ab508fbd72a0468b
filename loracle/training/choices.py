"""How likely each of several choices is behind one prompt, which is read once.

The keys and values of a prompt serve all its choices, whose few tokens are read behind them. Models that
cannot be continued like that read every choice with its prompt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy, log_softmax

from loracle.training.dataset.tokens import Encoded
from loracle.training.model.base_model import Base, batches, counted_logits
from loracle.training.model.continuation import read_prompts
from loracle.training.model.positions import length_breaks

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def shared_lengths(choices: Encoded, owner: Indices) -> Indices:
    """Tokens of the prompt that all choices of an example begin with, (number of examples,).

    `owner` says which example each choice belongs to, in ascending order.
    """
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    found = np.minimum.reduceat(choices.prompt_lengths, starts)
    for example, group in enumerate(np.split(np.arange(len(owner)), starts[1:])):
        first = _tokens(choices, int(group[0]), 0, int(found[example]))
        for i in group[1:].tolist():
            other = _tokens(choices, i, 0, int(found[example]))
            if (differing := np.flatnonzero(other != first[: len(other)])).size:
                found[example] = differing[0]
    return found


def can_be_continued(base: Base, choices: Encoded, shared: Indices) -> bool:
    """Whether the model can read these prompts once and go on from there."""
    if base.continuing is None or int(shared.min()) < 1:
        return False
    shortest, longest = int(shared.min()), int(choices.lengths.max())
    return not any(shortest <= b < longest for b in length_breaks(base.model))


def continued_losses(
    base: Base, choices: Encoded, owner: Indices, shared: Indices, batch_size: int
) -> Floats:
    """Summed loss of the tokens of each choice that count, behind what all share; (number of choices,).

    `batch_size` is the number of choices that are read at a time. Call without gradients.
    """
    assert base.continuing is not None
    losses = np.zeros(len(choices))
    groups = np.split(np.arange(len(owner)), np.flatnonzero(np.diff(owner)) + 1)
    at_once = max(1, batch_size // max(map(len, groups)))
    for chosen in batches(shared, at_once, base.continuing):
        read = read_prompts(base, [_tokens(choices, int(groups[i][0]), 0, int(shared[i])) for i in chosen])
        likely = log_softmax(read.logits, dim=-1)
        own = np.concatenate([groups[i] for i in chosen])
        behind = np.repeat(np.arange(len(chosen)), [len(groups[i]) for i in chosen])  # which prompt
        for start in range(0, len(own), batch_size):
            some, rows = own[start : start + batch_size], behind[start : start + batch_size]
            spans = [(int(i), int(shared[chosen[row]])) for i, row in zip(some, rows, strict=True)]
            endings = [_tokens(choices, i, at) for i, at in spans]
            counted = [choices.counted[choices.starts[i] + at : choices.ends[i]] for i, at in spans]
            first = torch.tensor([int(ending[0]) for ending in endings], device=base.device)
            counts = torch.tensor([bool(flags[0]) for flags in counted], device=base.device)
            found = -likely[torch.from_numpy(rows).to(base.device), first] * counts
            last = start + batch_size >= len(own)
            batch = read.continued(base, rows, endings, counted, last=last)
            if batch is not None:
                of_tokens = cross_entropy(counted_logits(base, batch), batch.targets, reduction="none")
                found.index_add_(0, batch.rows, of_tokens)
            losses[some] = found.double().cpu().numpy()
    return losses


def _tokens(encoded: Encoded, i: int, start: int, stop: int | None = None) -> npt.NDArray[np.int32]:
    """Tokens of an example from `start` to `stop`."""
    return encoded.tokens[encoded.starts[i] : encoded.ends[i]][start:stop]
