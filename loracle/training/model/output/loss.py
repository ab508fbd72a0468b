"""The loss of a batch over the positions that count, and its gradient, for every kind of output layer.

A frozen linear layer is worked through in blocks of words (`blocks.py`). One with an adapter, or of another
kind, is called as it is on some positions at a time: their loss is linear in what comes after it, so its
gradient is computed at once and none of their logits are kept. Where a model does to logits what
`layer.py` does not understand, it makes all of them itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from loracle.training.model.base_model import Base, Batch, counted_logits
from loracle.training.model.dropout import Masks
from loracle.training.model.output.blocks import losses_in_blocks
from loracle.training.model.output.layer import OutputLayer, hidden_states

LOGITS_AT_ONCE = 1 << 23  # of an output layer that is called as it is


def add_gradient(base: Base, batch: Batch, masks: Masks, n_tokens: float) -> Tensor:
    """Adds the gradient of the batch's loss, divided by `n_tokens`, and returns that loss, shape ().

    Call inside `masks.of`.
    """
    if base.output is None:
        return _added(counted_logits(base, batch), batch.targets, n_tokens)
    hidden = _counted_states(base, batch)
    layer = base.model.get_output_embeddings()
    if _is_plain(layer):
        found = losses_in_blocks(hidden, layer, base.output, batch.targets, gradient=True)
        loss, gradient = found.losses.sum() / n_tokens, found.gradient
    else:
        leaf = hidden.detach().requires_grad_(hidden.requires_grad)
        loss = torch.zeros((), device=base.device)
        for part in _parts(layer, len(leaf)):
            logits = _logits(base, base.output, leaf[part], masks, part)
            loss += _added(logits, batch.targets[part], n_tokens)
        gradient, n_tokens = leaf.grad, 1.0
    if hidden.requires_grad and gradient is not None:
        hidden.backward(gradient.div_(n_tokens).to(hidden.dtype))  # type: ignore[no-untyped-call]
    return loss


def add_weighted_gradient(base: Base, batch: Batch, weights: Tensor) -> Tensor:
    """Adds the gradient of the sum of the losses of counted positions, each times its weight, (k,); returns
    the losses as they are, (k,).

    Call where `in_blocks` is true.
    """
    assert base.output is not None
    hidden, layer = _counted_states(base, batch), base.model.get_output_embeddings()
    found = losses_in_blocks(hidden, layer, base.output, batch.targets, gradient=True)
    assert found.gradient is not None
    hidden.backward(found.gradient.mul_(weights[:, None]).to(hidden.dtype))  # type: ignore[no-untyped-call]
    return found.losses


def _added(logits: Tensor, targets: Tensor, n_tokens: float) -> Tensor:
    """Adds the gradient of the loss of these logits, divided by `n_tokens`, and returns that loss."""
    loss = cross_entropy(logits, targets, reduction="sum") / n_tokens
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def counted_losses(base: Base, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss of each counted position, (k,) float32, and whether its target is the most likely word, (k,).

    Of equally likely words the first one is it. Call without gradients.
    """
    if base.output is None:
        return _judged(counted_logits(base, batch), batch.targets)
    hidden = _counted_states(base, batch)
    layer = base.model.get_output_embeddings()
    if _is_plain(layer):
        found = losses_in_blocks(hidden, layer, base.output, batch.targets, gradient=False)
        assert found.greedy is not None
        return found.losses, found.greedy
    parts = [
        _judged(_logits(base, base.output, hidden[part], None, part), batch.targets[part])
        for part in _parts(layer, len(hidden))
    ]
    losses, greedy = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(greedy)


def logits_of_few(base: Base, batch: Batch) -> Tensor:
    """Logits of the counted positions, (k, vocabulary) float32: of so few that they may be kept."""
    if base.output is None:
        return counted_logits(base, batch)
    return _logits(base, base.output, _counted_states(base, batch), None, slice(None))


def before_loss(base: Base, batch: Batch) -> Tensor:
    """What the loss is computed from, with all that its backward pass needs: hidden states, or logits."""
    return counted_logits(base, batch) if base.output is None else _counted_states(base, batch)


def in_blocks(base: Base) -> bool:
    """Whether no logits are kept: a frozen linear output layer, and nothing unknown behind it."""
    return base.output is not None and _is_plain(base.model.get_output_embeddings())


def _judged(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets


def _counted_states(base: Base, batch: Batch) -> Tensor:
    """What the output layer sees at counted positions, (k, width)."""
    with base.precision():
        return hidden_states(base.model, batch.inputs, **batch.more)[batch.keep]


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and not any(p.requires_grad for p in layer.parameters())


def _parts(layer: nn.Module, k: int) -> Iterator[slice]:
    weight: Any = layer.weight
    size = positions_at_once(int(weight.shape[0]))
    return (slice(start, min(start + size, k)) for start in range(0, max(k, 1), size))


def positions_at_once(vocabulary: int) -> int:
    """How many positions go through an output layer that is called as it is."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


def _logits(base: Base, output: OutputLayer, hidden: Tensor, masks: Masks | None, part: slice) -> Tensor:
    """Logits of some of the counted positions, by the layer as it is."""
    layer = base.model.get_output_embeddings()
    if masks is None:
        with base.precision():
            return output.logits(layer(hidden))
    with masks.part(part), base.precision():
        return output.logits(layer(hidden))
