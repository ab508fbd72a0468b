"""Which of several choices is the likeliest behind a prompt, which is read once.

The keys and values of a prompt serve all its choices, whose few tokens are read behind them. The logits
behind the prompt tell how likely the first token of each is, and no choice can be likelier than its
beginning: most need not be read at all. Models that cannot be continued like that read every choice with
its prompt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import log_softmax

from loracle.records.objective import Progress
from loracle.training.dataset.tokens import Encoded
from loracle.training.model.base_model import Base, batches
from loracle.training.model.continuation import ReadPrompts, read_prompts
from loracle.training.model.output.loss import counted_losses
from loracle.training.model.positions import length_breaks

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def shared_lengths(choices: Encoded, owner: Indices) -> Indices:
    """Tokens of the prompt that all choices of an example begin with, (number of examples,).

    `owner` says which example each choice belongs to, in ascending order.
    """
    starts = np.append(0, _bounds(owner))
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
    base: Base,
    choices: Encoded,
    owner: Indices,
    shared: Indices,
    wanted: Indices,
    batch_size: int,
    progress: Progress | None = None,
) -> Floats:
    """Summed loss of the tokens of each choice that count, behind what all share; (number of choices,).

    A choice cannot be the likeliest where its first token alone is less likely than another choice as a
    whole: its ending is not read and its loss is infinite, unless it is one of the `wanted`.

    Args:
        owner: (number of choices,) which example each belongs to, in ascending order.
        shared: (number of examples,) see `shared_lengths`.
        wanted: choices whose loss is asked for.
        batch_size: how many prompts, and how many endings, are read at a time.
        progress: told of prompts.
    """
    assert base.continuing is not None
    losses = np.full(len(choices), np.inf)
    groups, done = np.split(np.arange(len(owner)), _bounds(owner)), 0
    for chosen in batches(shared, batch_size, base.continuing):
        read = read_prompts(base, [_tokens(choices, int(groups[i][0]), 0, int(shared[i])) for i in chosen])
        some = np.concatenate([groups[i] for i in chosen])
        behind = np.repeat(np.arange(len(chosen)), [len(groups[i]) for i in chosen])  # which of the prompts
        first = _first_losses(base, read, choices, some, behind, shared[owner[some]])
        likeliest = [own[np.argmin(first[own])] for own in np.split(np.arange(len(some)), _bounds(behind))]
        asked = np.isin(some, wanted)
        asked[likeliest] = True
        for _ in range(2):  # then those that may be likelier still
            own = np.flatnonzero(asked & np.isinf(losses[some]))
            ends = _ending_losses(
                base, read, choices, some[own], behind[own], shared[owner[some[own]]], batch_size
            )
            losses[some[own]] = first[own] + ends
            least = np.minimum.reduceat(losses[some], np.append(0, _bounds(behind)))
            asked = first <= least[behind]
        done += len(chosen)
        if progress is not None:
            progress(done, len(groups), None, "scoring")
    return losses


def _first_losses(
    base: Base, read: ReadPrompts, choices: Encoded, some: Indices, behind: Indices, start: Indices
) -> Floats:
    """Loss of the first token of each of some choices, (n,); 0 where it does not count."""
    at = choices.starts[some] + start
    tokens = torch.from_numpy(choices.tokens[at].astype(np.int64)).to(base.device)
    rows = torch.from_numpy(behind).to(base.device)
    losses = -log_softmax(read.logits, dim=-1)[rows, tokens].double().cpu().numpy()
    return np.where(choices.counted[at], losses, 0.0)


def _ending_losses(
    base: Base,
    read: ReadPrompts,
    choices: Encoded,
    some: Indices,
    behind: Indices,
    start: Indices,
    batch_size: int,
) -> Floats:
    """Summed loss of all other tokens of each, (n,)."""
    losses = np.zeros(len(some))
    for part in batches(choices.lengths[some] - start, batch_size, "padded"):
        spans = list(zip(choices.starts[some[part]] + start[part], choices.ends[some[part]], strict=True))
        endings = [choices.tokens[a:b] for a, b in spans]
        batch = read.continued(base, behind[part], endings, [choices.counted[a:b] for a, b in spans])
        if batch is not None:
            found = torch.zeros(len(part), dtype=torch.float32, device=base.device)
            found.index_add_(0, batch.rows, counted_losses(base, batch)[0])
            losses[part] = found.double().cpu().numpy()
    return losses


def _bounds(owner: Indices) -> Indices:
    """Where another owner begins."""
    return np.flatnonzero(np.diff(owner)) + 1


def _tokens(encoded: Encoded, i: int, start: int, stop: int | None = None) -> npt.NDArray[np.int32]:
    """Tokens of an example from `start` to `stop`."""
    return encoded.tokens[encoded.starts[i] : encoded.ends[i]][start:stop]
