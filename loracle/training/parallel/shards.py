"""The repeated layers of a frozen model, divided between the processes of a trial.

Each process holds an equal part of the bytes of every layer. The weights of all layers lie in one piece of
memory, as large as the largest of them, which holds one layer at a time: before a module of a layer computes
something, forward or backward, the parts of that layer are gathered there. What autograd keeps of a weight is
its place in that memory, so it costs nothing, and the weights are back in it when they are needed. Shapes and
types of all weights stay whole, and nothing is ever written back: the parts are what was loaded.

Embeddings, norms between layers and the output layer are whole in each process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from loracle.errors import LoracleError, ModelError
from loracle.records.failures import one_line, refuse_no_memory
from loracle.training.model.checksum import tensors_checksum

# torch 2.13 renames it
_gather = getattr(distributed, "all_gather_single", distributed.all_gather_into_tensor)

_NOT = "execution.shard_model: this model cannot be divided between processes"
_ALIGNED = 256  # bytes; what kernels of GPUs like best
_TOKENS = 3
_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 5e-2  # of a pass in other types, which are the same but for atomic sums


class Sharing(Protocol):
    """The processes that hold parts, as one of them sees them."""

    rank: int
    size: int

    def serve_layers(self, give: Callable[[int, Sequence[int]], None]) -> None:
        """Has `give(layer, ranks)` called in all processes at once, whenever some `fetch` a layer."""
        ...

    def fetch(self, layer: int) -> None:
        """Returns when this process has been given a layer."""
        ...


class ShardedLayers:
    """The layers of a model, of which this process holds a part; the model is moved to the device.

    Args:
        model: frozen, and on the CPU.
        device: where it is to compute.
        group: the processes that share the layers.

    Attributes:
        held_bytes: of all weights that this process holds: its parts, the memory of one layer, and what is
            whole.
        whole_bytes: of all weights.

    Raises:
        ModelError: see `repeated_layers`.
    """

    def __init__(self, model: Any, device: torch.device, group: Sharing) -> None:
        self._model, self._group = model, group
        layers, self._parameters = zip(*repeated_layers(model), strict=True)
        self._layer_of = {id(p): i for i, own in enumerate(self._parameters) for p in own}
        self._parts = [_part(own, group, device) for own in self._parameters]
        self._device = device
        self._starts = [0] * len(layers)
        self._memory = torch.zeros(0)
        self._there: int | None = None
        self._lay_out(0)
        for i, layer in enumerate(layers):
            for module in layer.modules():
                if module is layer or any(id(p) in self._layer_of for p in module.parameters(recurse=False)):
                    self._watch(module, i)
        model.to(device)
        for weight in model.parameters():
            if id(weight) not in self._layer_of and device.type == "cpu":
                weight.data = weight.data.clone()  # so that nothing of the file stays mapped, read or not
        group.serve_layers(self._give)

    @property
    def held_bytes(self) -> int:
        whole = sum(int(p.nbytes) for p in self._model.parameters() if id(p) not in self._layer_of)
        return whole + sum(part.nbytes for part in [*self._parts, self._memory])

    @property
    def whole_bytes(self) -> int:
        return sum(int(p.nbytes) for p in self._model.parameters())

    def load(self, layer: int) -> None:
        """Has the weights of a layer in their places."""
        if self._there != layer:
            self._there = None
            self._group.fetch(layer)
            self._there = layer

    def layer_of(self, weight: Tensor) -> int | None:
        """Which layer a weight is of; None: it is whole in each process."""
        return self._layer_of.get(id(weight))

    def load_of(self, weight: Tensor) -> bool:
        """Has a weight in its place; whether it is one that is divided."""
        layer = self.layer_of(weight)
        if layer is not None:
            self.load(layer)
        return layer is not None

    def forget(self) -> None:
        """Takes nothing that lies in the memory of layers for a weight any more."""
        self._there = None

    def checksum(self) -> str:
        """Of all that this process holds."""
        named = [*self._model.named_parameters(), *self._model.named_buffers()]
        whole = [(name, tensor) for name, tensor in named if id(tensor) not in self._layer_of]
        return tensors_checksum([*whole, *((f"part {i}", part) for i, part in enumerate(self._parts))])

    def check(self) -> None:
        """Finds out whether the model uses the weights of a layer within that layer alone.

        The same pass, forward and backward, with all layers in the same places and with each moved a little
        further: a weight that is used when another layer has taken its place is another one in each.

        Raises:
            ModelError: it does not, or cannot read a few tokens.
        """
        try:
            one = self._passed()
            self._lay_out(_ALIGNED)
            two = self._passed()
            self._lay_out(0)
        except LoracleError:
            raise
        except Exception as error:  # of any kind: it is the model's own code
            refuse_no_memory(
                error, f"model: there is no memory on {self._device} for reading {_TOKENS} tokens"
            )
            raise ModelError(f"{_NOT}: it cannot read {_TOKENS} tokens: {one_line(error)}") from None
        for some, others in zip(one, two, strict=True) if self._group.rank == 0 else ():
            if _differ(some, others):
                raise ModelError(
                    f"{_NOT}: {type(self._model).__name__} uses weights of a layer outside of that layer"
                )

    def _passed(self) -> tuple[Tensor, Tensor]:
        """Logits of a few tokens, and a gradient at their embeddings."""
        embedding = self._model.get_input_embeddings()
        middle = int(embedding.weight.shape[0]) // 2  # the first ones are often such as fill rows up
        ids = middle + torch.arange(_TOKENS, device=self._device)[None]
        leaves: list[Tensor] = []

        def leaf(module: nn.Module, given: Any, embedded: Tensor) -> Tensor:
            leaves.append(embedded.detach().requires_grad_())
            return leaves[-1]

        hook = embedding.register_forward_hook(leaf)
        try:
            with torch.enable_grad():
                logits = self._model(input_ids=ids, use_cache=False).logits
                logits.float().logsumexp(-1).sum().backward()
        finally:
            hook.remove()
        gradient = leaves[0].grad
        assert gradient is not None
        return logits.detach(), gradient

    def _lay_out(self, further: int) -> None:
        """Gives all weights their places, those of a layer so many bytes behind those of the one before."""
        self._starts = [further * i for i in range(len(self._parts))]
        size = max(part.nbytes for part in self._parts) * self._group.size + self._starts[-1]
        self._memory, self._there = torch.zeros(size, dtype=torch.uint8, device=self._device), None
        for own, first in zip(self._parameters, self._starts, strict=True):
            for weight, start in zip(own, _offsets(own), strict=False):
                bits = self._memory[first + start : first + start + weight.nbytes]
                weight.data = bits.view(weight.dtype).view(weight.shape)

    def _watch(self, module: nn.Module, layer: int) -> None:
        """Has the layer in place whenever the module computes. The hooks are functions, which copies of a
        module share."""

        def before(module: nn.Module, given: Any) -> None:
            self.load(layer)

        def after(module: nn.Module, given: Any, found: Any) -> None:
            for tensor in _tensors(found):
                if tensor.requires_grad:
                    tensor.register_hook(backward)  # type: ignore[no-untyped-call]

        def backward(gradient: Tensor) -> None:
            self.load(layer)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)

    def _give(self, layer: int, ranks: Sequence[int]) -> None:
        """Does this process's part in giving a layer to some; see `Sharing`."""
        part, group = self._parts[layer], self._group
        memory = self._memory[self._starts[layer] :][: part.nbytes * group.size]
        if group.size == 1:
            memory.copy_(part)
        elif len(ranks) == group.size:
            _gather(memory, part)
        else:
            for rank in ranks:
                parts = list(memory.chunk(group.size)) if rank == group.rank else None
                distributed.gather(part, parts, rank)


def repeated_layers(model: nn.Module) -> list[tuple[nn.Module, list[nn.Parameter]]]:
    """The modules that a model repeats, as it has them in lists (the outer ones where lists are in others),
    and the parameters of each that nothing else has.

    Raises:
        ModelError: there are none.
    """
    layers = list(_in_lists(model))
    inside = {id(module) for layer in layers for module in layer.modules()}
    owners: dict[int, set[int]] = defaultdict(set)
    for i, layer in enumerate(layers):
        for parameter in layer.parameters():
            owners[id(parameter)].add(i)
    for module in model.modules():
        if id(module) not in inside:
            for parameter in module.parameters(recurse=False):
                owners[id(parameter)].add(-1)
    own = [[p for p in layer.parameters() if owners[id(p)] == {i}] for i, layer in enumerate(layers)]
    found = [(layer, some) for layer, some in zip(layers, own, strict=True) if some]
    if not found:
        raise ModelError(
            f"{_NOT}: {type(model).__name__} has no list of layers with weights of their own; leave "
            "shard_model out"
        )
    return found


def _in_lists(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1:
            yield from child
        else:
            yield from _in_lists(child)


def _offsets(parameters: Sequence[nn.Parameter]) -> list[int]:
    """Where each begins, in bytes, and where the last one ends, (n + 1,)."""
    found = [0]
    for parameter in parameters:
        found.append(found[-1] + -(-parameter.nbytes // _ALIGNED) * _ALIGNED)
    return found


def _part(parameters: Sequence[nn.Parameter], group: Sharing, device: torch.device) -> Tensor:
    """This process's part of the bytes of a layer, filled up to be as large as the others'. Nothing else of
    the layer is touched: what lies in a file need not be read."""
    offsets = _offsets(parameters)
    size = -(-offsets[-1] // (group.size * _ALIGNED)) * _ALIGNED
    first, part = group.rank * size, torch.zeros(size, dtype=torch.uint8, device=device)
    for parameter, start in zip(parameters, offsets, strict=False):
        begin, end = max(start, first), min(start + parameter.nbytes, first + size)
        if begin < end:
            bits = parameter.detach().contiguous().view(-1).view(torch.uint8)
            part[begin - first : end - first] = bits[begin - start : end - start]
    return part


def _differ(some: Tensor, others: Tensor) -> bool:
    """Whether two results of a pass are not the same but for rounding; what is no number is the same."""
    allowed = _TOLERANCE.get(some.dtype, _COARSE)
    known = some.isfinite()
    if not torch.equal(known, others.isfinite()):
        return True
    some, others = some[known].float(), others[known].float()
    return not bool((some - others).norm() <= allowed * others.norm())


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, tuple | list):
        for one in found:
            yield from _tensors(one)
    elif isinstance(found, Mapping):
        yield from _tensors(list(found.values()))
