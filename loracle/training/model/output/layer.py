"""What a model makes of its last hidden states: found out once by asking it, so that no logits need be kept.

The logits of a large vocabulary outweigh all else in a training, though only the loss of each is wanted. So
the model is run without its output layer, and `loss.py` computes the losses from what that layer
would have seen. Some models scale its results (Cohere, Granite) or cap them (Gemma 2); which do is no matter
of their names: each is given numbers in place of the layer's results, and asked what logits it makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

_TOKENS = 3
_RANGE = 60.0  # logits are looked at from minus to plus this
_EXACT = 1e-5  # of what is made of numbers; they are float32 whatever the model is
# Loss and gradient, computed in two ways, may differ by this part of them.
_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 5e-2


@dataclass(frozen=True)
class OutputLayer:
    """How logits come from results z of the output layer: scale z, or with a cap, cap tanh(scale z / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def logits(self, given: Tensor) -> Tensor:
        """Float32 logits of what the layer gave, of any shape."""
        logits = given.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@contextmanager
def _in_place_of(layer: torch.nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In this block `forward` computes what the layer gives; hooks on the layer see it as ever."""
    own = vars(layer).get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


def hidden_states(model: Any, inputs: Tensor, **more: Any) -> Tensor:
    """What the output layer would see of (b, t) token ids: (b, t, width), with its graph. `more` are other
    inputs of the model; without any it keeps no cache.

    The layer gives logits of no words at all, (b, t, 0), so what the model does to them costs nothing.
    """
    seen: list[Tensor] = []

    def see(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden.new_empty((*hidden.shape[:-1], 0))

    with _in_place_of(model.get_output_embeddings(), see):
        model(input_ids=inputs, **(more or {"use_cache": False}))
    (hidden,) = seen
    return hidden


def observed_output(model: Any, device: torch.device) -> OutputLayer | None:
    """How the model makes logits; None where it does something else, so that it must make them itself.

    Believed where loss and gradient agree with those of the model's own logits.
    """
    inputs = torch.zeros((1, _TOKENS), dtype=torch.long, device=device)
    try:
        with torch.no_grad():
            hidden = hidden_states(model, inputs)
            found = _shape_of_logits(model, inputs)
        if found is None or hidden.shape[:-1] != inputs.shape:
            return None
        return found if _agrees(model, inputs, hidden, found) else None
    except Exception:  # of any kind: it is the model's own code
        return None


def _shape_of_logits(model: Any, inputs: Tensor) -> OutputLayer | None:
    """Gives the model known numbers in place of its output layer's results, and looks at the logits."""
    layer = model.get_output_embeddings()
    width = layer.weight.shape[0]
    given = torch.arange(_TOKENS * width, device=inputs.device, dtype=torch.float32)
    given = _RANGE * torch.sin(given)  # as good as random, and never the same for two words
    given[:2] = torch.tensor([1.0, 1e6], device=inputs.device)
    with _in_place_of(layer, lambda hidden: given.view(1, _TOKENS, width)):
        made = model(input_ids=inputs, use_cache=False).logits
    if made.numel() != given.numel():
        return None
    made = made.float().view(-1)
    if torch.equal(made, given):
        return OutputLayer()
    found = OutputLayer(float(made[0]))
    if not _is_close(found.logits(given), made):
        cap = float(made[1])
        middle = int((made / cap - 0.5).abs().argmin())
        scale = cap * math.atanh(float(made[middle]) / cap) / float(given[middle])
        found = OutputLayer(1.0 if abs(scale - 1) < _EXACT else scale, cap)
    return found if _is_close(found.logits(given), made) else None


def _is_close(some: Tensor, others: Tensor) -> bool:
    return torch.allclose(some, others, rtol=_EXACT, atol=_EXACT)


def _agrees(model: Any, inputs: Tensor, hidden: Tensor, found: OutputLayer) -> bool:
    """Whether the model's own logits have this loss and this gradient at the hidden states."""
    layer = model.get_output_embeddings()
    own_forward = layer.forward
    targets = torch.linspace(0, layer.weight.shape[0] - 1, _TOKENS, device=inputs.device).long()

    def gradient_of(logits: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = hidden.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = cross_entropy(logits(leaf)[0].float(), targets)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0].float()

    def models_own(leaf: Tensor) -> Tensor:
        with _in_place_of(layer, lambda _: own_forward(leaf)):
            logits: Tensor = model(input_ids=inputs, use_cache=False).logits
        return logits

    loss, gradient = gradient_of(models_own)
    own_loss, own_gradient = gradient_of(lambda leaf: found.logits(layer(leaf)))
    tolerance = _TOLERANCE.get(hidden.dtype, _COARSE)
    with torch.no_grad():
        untouched = cross_entropy(model(input_ids=inputs, use_cache=False).logits[0].float(), targets)
    distance = (own_gradient - gradient).norm() / gradient.norm()
    losses = (own_loss - loss).abs(), (own_loss - untouched).abs()
    return bool(distance <= tolerance) and all(bool(one <= tolerance * (1 + loss)) for one in losses)
