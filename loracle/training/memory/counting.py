"""What trainings on a base model hold, counted on the model itself; the equations are in `equations.py`."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from loracle.config.execution.heap import has_lean_heap
from loracle.config.training.optimizers import ADAMW, OPTIMIZERS
from loracle.config.training.plan import plan_training
from loracle.config.training.settings import TrainingConfig
from loracle.config.training.variants import VARIANTS, tried_with
from loracle.errors import ModelError
from loracle.records.space import Config
from loracle.training.dataset.tokens import Encoded
from loracle.training.memory.equations import Floats, Footprint, Logits, Sizes
from loracle.training.memory.measurement import meter_of, out_of_memory, release
from loracle.training.memory.plan import MemoryModel, Names
from loracle.training.model.adapter import Layer, adapted, layers_of
from loracle.training.model.base_model import Base, Batch, forked_random
from loracle.training.model.dropout import Masks, key_dropout, training_mode
from loracle.training.model.output.blocks import block_limits
from loracle.training.model.output.layer import OutputLayer
from loracle.training.model.output.loss import LOGITS_AT_ONCE, before_loss, in_blocks

_RESERVE = 0.1  # share of the free memory left alone: for fragmentation, and for what others take
_OVERHEAD = {"cuda": 64 << 20, "cpu": 12 << 20}  # bytes; workspaces of libraries, and code first used
# Bytes for each byte of an activation, and where activations are computed again: in a worker's heap; and in
# a heap as it comes, in float32 and bfloat16.
_LEAN_HEAP = (1.2, 3.2)
_HEAP = {4: (1.75, 6.5), 2: (1.5, 4.0)}
_PROBE = (8, 16, 32)  # tokens


def build_memory_model(
    base: Base,
    training: TrainingConfig,
    trial: Encoded,
    *,
    workers: int = 1,
    processes: int = 1,
    dropout: bool = True,
    kinds: Sequence[tuple[Names, TrainingConfig, bool]] = (),
) -> MemoryModel:
    """Counts what trainings hold and asks what memory there is; `trial` is what a trial trains on.

    `workers`, each of so many `processes`, share the memory of the CPU; each process holds the base model,
    or its part of it. `dropout` says whether the adapters can have any. Where names of knobs decide what a
    training takes, `kinds` are the settings and the dropout by these names, in the place of `training` and
    `dropout`.

    Raises:
        ModelError: see `count_footprint`.
    """
    footprints = _counted(base, kinds or [((), training, dropout)])
    meter, loaded, room = meter_of(base.device), 0, None
    release(base.device)
    if meter is not None:
        loaded = meter.used()
        free = meter.limit() - loaded
        if base.device.type == "cpu":
            there = workers * processes
            free = (free - (there - 1) * base.held_bytes) // there
        room = (1 - _RESERVE) * max(0, free)
    largest = None if training.micro_batch == "auto" else training.micro_batch
    if processes > 1:  # gradients in one piece, to be summed
        footprints = {names: replace(one, kept=one.kept + 4.0) for names, one in footprints.items()}
    footprint = next(iter(footprints.values()))
    others = tuple(footprints.items()) if len(footprints) > 1 else ()
    device = base.device.type
    return MemoryModel(
        footprint, Sizes.of(trial), loaded, room, largest, device, processes, footprints=others
    )


def _counted(base: Base, kinds: Sequence[tuple[Names, TrainingConfig, bool]]) -> dict[Names, Footprint]:
    """The footprint of each kind, by its names; those that differ in the optimizer alone are counted once."""
    counted: dict[str, Footprint] = {}
    found: dict[Names, Footprint] = {}
    for names, settings, dropout in kinds:
        key = settings.model_copy(update={"optimizer": ADAMW}).model_dump_json() + str(dropout)
        if key not in counted:
            counted[key] = count_footprint(base, settings, dropout=dropout)
        found[names] = replace(counted[key], kept=_kept(base, settings))
    return found


def count_footprint(base: Base, settings: TrainingConfig, *, dropout: bool = True) -> Footprint:
    """Counts on the model, which is left as it was. Takes a second, mostly PEFT's.

    Raises:
        ModelError: there is no memory for one short example.
    """
    plain = settings.model_copy(update={"gradient_checkpointing": False})
    plain = plain.model_copy(update={"variant": tried_with(settings.variant)})
    knobs: Config = {
        "rank": 1,
        "alpha": 1,
        "dropout": 0.1 if dropout else 0.0,
        "batch_size": 1,
        "learning_rate": 1.0,
    }
    failure = None
    with forked_random(base.device), adapted(base, plan_training(knobs, plain, 1)) as model:
        sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        layers = layers_of(model)
        modules, weights = [layer.module for layer in layers], [layer.weight for layer in layers]
        logits, masks = _logits(base), Masks(0, base.device)
        key_dropout(base.model, masks, kept_logits=base.counted_alone)
        try:
            with training_mode(model):
                with_dropout = _saved_polynomial(base, model, masks)
                for own in (drop for module in modules for drop in module.lora_dropout.values()):
                    own.p = 0.0
                saved = np.stack([_saved_polynomial(base, model, masks), with_dropout])
        except RuntimeError as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
    if failure is not None:
        raise ModelError(
            f"model: {base.name} leaves no memory on {base.device} for training on one short example: "
            f"{failure.message}"
        )
    config = base.model.config.get_text_config()
    per_rank = sum(size for name, size in sizes.items() if ".lora_A." in name or ".lora_B." in name)
    return Footprint(
        per_rank=per_rank,
        fixed=sum(sizes.values()) - per_rank,
        modules=len(modules),
        saved=saved,
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        vocabulary=int(base.model.get_input_embeddings().num_embeddings),
        widest=max(map(_width, layers)),
        itemsize=base.dtype.itemsize,
        cached=2 * base.dtype.itemsize * int(config.num_hidden_layers) * _key_width(config),
        copied=int(VARIANTS[settings.variant].weight_copies * sum(w.nbytes for w in weights)),
        checkpointing=settings.gradient_checkpointing,
        counted_alone=base.counted_alone,
        logits=logits,
        allocator=_heap(base, settings),
        overhead=_OVERHEAD.get(base.device.type, 0),
        kept=_kept(base, settings),
    )


def _heap(base: Base, settings: TrainingConfig) -> float:
    """Bytes that the allocator holds for each byte of an activation."""
    if base.device.type != "cpu":
        return 1.0
    kept, recomputed = _LEAN_HEAP if has_lean_heap() else _HEAP[base.dtype.itemsize]
    return recomputed if settings.gradient_checkpointing else kept


def _width(layer: Layer) -> int:
    """Features of an adapted place; quantised weights are packed, so their own shape does not tell."""
    sizes = (getattr(layer.module, name, 0) for name in ("in_features", "out_features"))
    return max(0, *sizes) or max(layer.weight.shape)


def _kept(base: Base, settings: TrainingConfig) -> float:
    """Bytes for each parameter of an adapter beside its weight and gradient."""
    optimizer = OPTIMIZERS[settings.optimizer]
    paged = optimizer.paged and base.device.type == "cuda"  # it makes room where there is none
    copies = 4.0 if settings.early_stopping is not None else 0.0
    return copies + (0.0 if paged else optimizer.state_bytes)


def _logits(base: Base) -> Logits:
    """Of the model with the adapters that it has now."""
    if in_blocks(base):
        copies = 4 if base.dtype == torch.float32 else 6  # to bfloat16 and back
        copies += 0 if base.output == OutputLayer() else 8
        return Logits(copies, *block_limits(base.device.type))
    vocabulary = int(base.model.get_input_embeddings().num_embeddings)
    return Logits(16, LOGITS_AT_ONCE, (0 if base.output is not None else vocabulary, vocabulary))


def _key_width(config: Any) -> int:
    """Features of the keys of a layer: fewer than of its input where heads share them."""
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or heads < 1:  # a recurrent model, or one that has a number for each layer
        return int(config.hidden_size)
    head = getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    grouped = getattr(config, "num_key_value_heads", None)
    return int(head) * (grouped if isinstance(grouped, int) and grouped else heads)


def _saved_polynomial(base: Base, model: Any, masks: Masks) -> Floats:
    """Coefficients c0, c1, c2 of the bytes that autograd keeps of a sequence of t tokens, (3,)."""
    most = min(_PROBE[-1], base.max_positions or _PROBE[-1])
    lengths = [max(1, most * length // _PROBE[-1]) for length in _PROBE]
    held = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    sizes = [_saved_bytes(base, length, held, masks) for length in lengths]
    powers = np.vander(np.array(lengths, dtype=float), 3, increasing=True)
    solution: Floats = np.linalg.lstsq(powers, np.array(sizes, dtype=float))[0]
    return np.maximum(solution, 0.0)


def _saved_bytes(base: Base, length: int, held: set[int], masks: Masks) -> int:
    """Bytes that autograd keeps of a forward pass: every storage once, without those `held` anyway."""
    kept: list[weakref.ref[_Kept]] = []

    def keep(tensor: torch.Tensor) -> _Kept:
        one = _Kept(tensor.detach())
        kept.append(weakref.ref(one))
        return one

    inputs = torch.zeros((1, length), dtype=torch.long, device=base.device)
    last = torch.zeros_like(inputs, dtype=torch.bool)
    last[0, -1] = True
    zero = torch.zeros(1, dtype=torch.long, device=base.device)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor)
    with hooks, masks.of(0, [0], length, last):
        reached = before_loss(base, Batch(inputs, last, zero, zero, zero, more=_more(base, inputs)))
    # What the loss does not depend on is gone by now, as some of DoRA's norms are.
    storages = [one.tensor.untyped_storage() for one in (ref() for ref in kept) if one is not None]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del reached
    return sum(size for address, size in sizes.items() if address not in held)


def _more(base: Base, inputs: torch.Tensor) -> dict[str, Any]:
    """What a row of tokens, (1, t), is given with: positions of two examples, where rows are blocks, whose
    mask takes memory as well."""
    if base.packing is None:
        return {"use_cache": False}
    places = torch.arange(inputs.shape[1], device=inputs.device) % max(1, inputs.shape[1] // 2)
    return {"use_cache": False, "position_ids": places[None]}


class _Kept:
    """A tensor that autograd keeps for a backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
