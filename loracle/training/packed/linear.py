"""Linear modules that hold the adapters of several configs, and the one tensor where all of these lie.

The rows of a batch are those of the first config, then those of the second, as many of each: `k` blocks. The
frozen weight multiplies all rows at once, and two batched products add what each config's own A and B make of
its own. Ranks are padded with zeros: a row of A and a column of B that are zero get gradients of zero, so
AdamW leaves them zero.

Forward and backward pass of a module are written by hand, as one node of the graph: gradients of A and B are
added where the optimizers read them, and a step takes a third of the calls that autograd makes, which is what
small models wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from loracle.training.model.dropout import Drops, rounded


class NotPacked(Exception):
    """Configs that cannot be trained together on this model, which only its forward pass shows; says why."""


@dataclass(frozen=True)
class Start:
    """An untrained adapter.

    Attributes:
        pairs: A, (rank, in), and B, (out, rank), by the name of the adapted module.
        scale: what their product is multiplied by.
        dropout: its probability.
        words: what each module's dropout is made of, see `ExampleDropout`; none where there is no dropout.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    scale: float
    dropout: float
    words: dict[str, Tensor]


class Pack:
    """The adapters of k configs.

    Attributes:
        values: (k, numbers), all numbers of each config's adapter.
        gradients: the same of their gradients, which every backward pass adds to.
        rows: b and t of the batch that is trained on, set before each forward pass.
        drops: which features its tokens lose, as well; None: none.
        trigger: a number that needs a gradient, so that autograd comes by where inputs need none.
        modules: by name.
    """

    def __init__(self, model: nn.Module, starts: Sequence[Start]) -> None:
        first = starts[0]
        self.k = len(starts)
        self.ranks = [next(iter(start.pairs.values()))[0].shape[0] for start in starts]
        rank = max(self.ranks)
        sizes = [rank * (a.shape[1] + b.shape[0]) for a, b in first.pairs.values()]
        device = next(model.parameters()).device
        self.values = torch.zeros((self.k, sum(sizes)), device=device)
        self.gradients = torch.zeros_like(self.values)
        plain = torch.tensor([start.scale for start in starts], device=device).view(-1, 1, 1)
        stay = torch.tensor([1 - rounded(start.dropout) for start in starts], device=device).view(-1, 1, 1)
        self.trigger = torch.zeros((), device=device, requires_grad=True)
        self.rows = (0, 0)
        self.drops: Drops | None = None
        self.modules: dict[str, PackedLinear] = {}
        words = next((start.words for start in starts if start.words), {})
        at = 0
        for name, size in zip(first.pairs, sizes, strict=True):
            part = slice(at, at + size)
            base = model.get_submodule(name)
            scales = plain / stay if name in words else plain
            self.modules[name] = PackedLinear(base, self, part, rank, scales, words.get(name))
            at += size
        for i, start in enumerate(starts):
            for name, pair in start.pairs.items():
                for mine, given in zip(self.modules[name].of(i, self.ranks[i]), pair, strict=True):
                    mine.copy_(given)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """In this block the modules stand in the place of the model's own."""
        before = {name: model.get_submodule(name) for name in self.modules}
        try:
            for name, module in self.modules.items():
                model.set_submodule(name, module)
            yield
        finally:
            for name, own in before.items():
                model.set_submodule(name, own)

    def state(self, i: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Copies of a config's A and B by module, without the padding."""
        found = {}
        for name, module in self.modules.items():
            a, b = module.of(i, self.ranks[i])
            found[name] = (a.clone(), b.clone())
        return found


class PackedLinear(nn.Module):
    """A frozen linear module with k adapters."""

    def __init__(
        self, base: Any, pack: Pack, part: slice, rank: int, scales: Tensor, words: Tensor | None
    ) -> None:
        """`scales`, (k, 1, 1), are what each adapter's product is multiplied by, dropout's share included."""
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        self.in_features, self.out_features = base.in_features, base.out_features
        self.pack, self.scales, self.words = pack, scales, words
        self.a, self.b = _pair(pack.values[:, part], rank, base.in_features)
        self.grad_a, self.grad_b = _pair(pack.gradients[:, part], rank, base.in_features)

    def of(self, i: int, rank: int) -> tuple[Tensor, Tensor]:
        """Views of A and B of a config of this rank."""
        return self.a[i, :rank], self.b[i, :, :rank]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _Adapted.apply(x, self.pack.trigger, self)  # type: ignore[no-untyped-call]
        return result


def _pair(block: Tensor, rank: int, width: int) -> tuple[Tensor, Tensor]:
    """Views of A, (k, rank, in), and of B, (k, out, rank), in a part of the numbers of k configs."""
    split = rank * width
    k = len(block)
    return block[:, :split].view(k, rank, width), block[:, split:].view(k, -1, rank)


class _Adapted(torch.autograd.Function):
    """x W^T + bias, and s B A drop(x) of each config on its own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, trigger: Tensor, module: PackedLinear) -> Tensor:
        pack, kind = module.pack, module.weight.dtype
        if tuple(x.shape[:-1]) not in (pack.rows, (pack.rows[0] * pack.rows[1],)):
            raise NotPacked(f"a module sees an input of shape {tuple(x.shape)}, not the tokens of the batch")
        result = linear(x, module.weight, module.bias)
        seen = x.to(kind)
        ctx.masks = None
        if pack.drops is not None and module.words is not None:
            ctx.masks = pack.drops.of(module.words, x.shape[-1])
            seen = seen.reshape(-1, x.shape[-1]).masked_fill(ctx.masks, 0.0)
        seen = seen.reshape(pack.k, -1, x.shape[-1])
        low = torch.bmm(seen, module.a.to(kind).mT).mul_(module.scales)
        result.view(pack.k, -1, result.shape[-1]).baddbmm_(low, module.b.to(kind).mT)
        ctx.save_for_backward(seen, low)
        ctx.module, ctx.kind, ctx.shape = module, x.dtype, x.shape
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        seen, low = ctx.saved_tensors
        module, pack, kind = ctx.module, ctx.module.pack, seen.dtype
        rows = gradient.reshape(-1, gradient.shape[-1]).to(kind)
        blocks = rows.view(pack.k, -1, rows.shape[-1])
        back = torch.bmm(blocks, module.b.to(kind)).mul_(module.scales)
        module.grad_b.add_(torch.bmm(blocks.mT, low))
        module.grad_a.add_(torch.bmm(back.mT, seen))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        found = rows @ module.weight
        if ctx.masks is None:
            found.view(seen.shape).baddbmm_(back, module.a.to(kind))
        else:
            own = torch.bmm(back, module.a.to(kind)).view(found.shape)
            found.add_(own.masked_fill_(ctx.masks, 0.0))
        return found.to(ctx.kind).view(ctx.shape), None, None
