"""Losses over a large vocabulary, a block of words at a time: no logits are kept.

The gradient of a token's loss at its hidden state h is the mean of the output layer's weights under the
softmax, less the weight of the target: softmax(h W^T) W - w_target, which is attention with W as keys and as
values. So it is computed as attention is (Milakov & Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv
2205.14135): one pass over the words with a running maximum, in two matrix products and without computing
anything twice. Working memory is one block of logits, whatever the vocabulary. (Cut cross-entropy, Wijmans et
al. 2024, arXiv 2411.09009, keeps none either and computes the logits twice.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from loracle.training.model.output.layer import OutputLayer

# Logits in a block: on a CPU what fits into its cache, elsewhere what fills the device. And words in it:
# with fewer a product is mostly overhead.
_BLOCK = {"cpu": 1 << 20}
_LARGE_BLOCK = 1 << 24
_WORDS = (1024, 16_384)


@dataclass(frozen=True)
class Losses:
    """What the output layer says about k positions.

    Attributes:
        losses: (k,) negative log-likelihoods, float32.
        greedy: (k,) whether the target is the most likely word, of equals the first; None if not asked for.
        gradient: (k, width) of the sum of the losses, float32; None if not asked for.
    """

    losses: Tensor
    greedy: Tensor | None
    gradient: Tensor | None


def block_limits(device: str) -> tuple[int, tuple[int, int]]:
    """Logits in a block, and the least and most words in it, which come first."""
    return _BLOCK.get(device, _LARGE_BLOCK), _WORDS


def block_size(k: int, device: str) -> int:
    """Words in a block for k positions."""
    logits, (least, most) = block_limits(device)
    return max(least, min(most, logits // max(1, k)))


@torch.no_grad()
def losses_in_blocks(
    hidden: Tensor, layer: torch.nn.Linear, output: OutputLayer, targets: Tensor, *, gradient: bool
) -> Losses:
    """Losses of the targets, (k,), at hidden states, (k, width).

    The target is kept apart from the other words: where it has nearly all the probability, 1 - p is what the
    others have, and not a difference of two numbers near 1.
    """
    weight, k = layer.weight, len(targets)
    hidden = hidden.to(weight.dtype)
    top, others, own = (hidden.new_full((k, 1), x, dtype=torch.float32) for x in (-torch.inf, 0.0, 0.0))
    mean = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    best = torch.zeros((k, 1), dtype=torch.long, device=hidden.device)
    size = block_size(k, hidden.device.type)
    for start in range(0, len(weight), size):
        words = weight[start : start + size]
        bias = None if layer.bias is None else layer.bias[start : start + size]
        logits = output.logits(linear(hidden, words, bias))
        column = (targets - start).clamp(0, len(words) - 1)[:, None]
        inside = column == (targets - start)[:, None]
        own = torch.where(inside, logits.gather(1, column), own)
        if gradient:
            highest = torch.maximum(top, logits.amax(dim=1, keepdim=True))
        else:
            highest, place = logits.max(dim=1, keepdim=True)
            best = torch.where(highest > top, place + start, best)
            highest = torch.maximum(top, highest)
        slope = None if output.cap is None or not gradient else 1 - (logits / output.cap).square_()
        share = logits.sub_(highest).exp_()
        share.scatter_(1, column, share.gather(1, column).masked_fill_(inside, 0.0))
        shrink = (top - highest).exp_()
        others.mul_(shrink).add_(share.sum(dim=1, keepdim=True))
        top = highest
        if gradient:
            if slope is not None:
                share.mul_(slope)
            mean.mul_(shrink)
            _add_product(mean, share, words)
        del logits, share, slope  # before the next block is made
    total = others + (own - top).exp()
    losses = (top + total.log() - own)[:, 0]
    if not gradient:
        return Losses(losses, best[:, 0] == targets, None)
    rest = others / total  # 1 - p of the target
    if output.cap is not None:
        rest = rest * (1 - (own / output.cap).square())
    mean.div_(total).sub_(rest * weight[targets].float())
    return Losses(losses, None, mean if output.scale == 1.0 else mean.mul_(output.scale))


def _add_product(total: Tensor, share: Tensor, words: Tensor) -> None:
    """Adds share @ words, computed in the precision of `words`."""
    if words.dtype == torch.float32:
        total.addmm_(share, words)
    else:
        total.add_(share.to(words.dtype) @ words)
