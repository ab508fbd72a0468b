"""What can be trained together with others: said before anything is trained."""

from __future__ import annotations

import torch
from torch import nn

from loracle.config.training.optimizers import ADAMW
from loracle.config.training.plan import Plan
from loracle.training.model.adapter import Layer
from loracle.training.model.base_model import Base
from loracle.training.model.output.loss import in_blocks
from loracle.training.model.positions import length_breaks

VARIANTS = ("lora", "rslora")


def why_alone(base: Base, plan: Plan) -> str | None:
    """Why a training on this base has to be a training of its own; None where others can join it.

    A model whose modules do not see the tokens of the batch, as experts do not, shows itself in its forward
    pass alone: see `NotPacked`.
    """
    settings = plan.settings
    if settings.variant not in VARIANTS:
        return f"variant {settings.variant}; only {' and '.join(VARIANTS)} train together"
    if settings.optimizer != ADAMW:
        return f"optimizer {settings.optimizer}; only {ADAMW} trains several configs"
    if settings.lora_plus_ratio != 1:
        return "lora_plus_ratio gives A and B rates of their own"
    if settings.early_stopping is not None:
        return "early_stopping ends each training at a moment of its own"
    if settings.modules_to_save:
        return "modules_to_save are trained whole"
    if settings.gradient_checkpointing:
        return "gradient_checkpointing computes activations again"
    return _why_not_on(base)


def _why_not_on(base: Base) -> str | None:
    if base.dtype not in (torch.float32, torch.bfloat16):
        return f"{str(base.dtype).removeprefix('torch.')} needs a loss scale of each config"
    if base.reading != "padded":
        return f"{base.name} cannot read sequences of different lengths together"
    if length_breaks(base.model):
        return f"{base.name} reads short sequences otherwise beside long ones"
    if not in_blocks(base):
        return f"the output layer of {base.name} is not a plain one"
    return None


def why_not_adapted(base: Base, layers: list[Layer]) -> str | None:
    """Why adapters in these places cannot be trained together; None where they can."""
    output = base.model.get_output_embeddings()
    for layer in layers:
        own = None if layer.is_weight else layer.module.get_base_layer()
        is_output = output is not None and layer.module is output
        if type(own) is not nn.Linear or is_output:
            kind = "a weight" if own is None else "the output layer" if is_output else type(own).__name__
            return f"{layer.name} is {kind}, not a linear module inside of the model"
    return None
