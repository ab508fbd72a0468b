"""The LoRA variants, one row each: how PEFT builds it, what is saved of it, and what it takes.

A new variant is a new row. Settings, trainer, memory plan and recipe read the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_LORA = {"use_rslora": False, "use_dora": False, "init_lora_weights": True}


@dataclass(frozen=True)
class Variant:
    """One way to build an adapter and to begin with it.

    Attributes:
        peft: arguments of `peft.LoraConfig` by which it differs from LoRA.
        start_from_weights: whether its start is computed from the weights of the base, which have to be
            pristine, and taken off them. That takes minutes, and from then on it trains like LoRA: what has
            only to be tried is tried with LoRA. What is saved is what was learnt beyond the start, as a LoRA
            of twice the rank that fits the pristine base.
        start_from_data: whether its start is computed from examples; it is tried with LoRA, too.
        reads_weights: whether PEFT reads whole weights of the base where no module computes.
        writes_into_weights: whether PEFT changes the weights of the base where they are, not in copies.
        weight_copies: copies of every adapted weight that a training holds.
        learning_rate_shift: its learning rates are so many times LoRA's in the same config; 1: not known.
    """

    peft: Mapping[str, Any] = field(default_factory=dict)
    start_from_weights: bool = False
    start_from_data: bool = False
    reads_weights: bool = False
    writes_into_weights: bool = False
    weight_copies: float = 0.0
    learning_rate_shift: float = 1.0

    @property
    def peft_arguments(self) -> dict[str, Any]:
        """What `peft.LoraConfig` is told of it."""
        return {**_LORA, **self.peft}


PLAIN = "lora"
VARIANTS: dict[str, Variant] = {
    PLAIN: Variant(),
    "rslora": Variant({"use_rslora": True}),
    "dora": Variant({"use_dora": True}, reads_weights=True),
    "pissa": Variant(
        {"init_lora_weights": "pissa"}, start_from_weights=True, reads_weights=True, weight_copies=1.0
    ),
    # By a randomised decomposition in 16 rounds: seconds in place of minutes (arXiv 2404.02948)
    "pissa_fast": Variant(
        {"init_lora_weights": "pissa_niter_16"},
        start_from_weights=True,
        reads_weights=True,
        weight_copies=1.0,
    ),
    "olora": Variant(
        {"init_lora_weights": "olora"},
        start_from_weights=True,
        reads_weights=True,
        writes_into_weights=True,
        weight_copies=1.0,
    ),
    "eva": Variant({"init_lora_weights": "eva"}, start_from_data=True),
}


def tried_with(name: str) -> str:
    """The variant that stands for another where an adapter is only tried: the same, or LoRA."""
    row = VARIANTS[name]
    return PLAIN if row.start_from_weights or row.start_from_data else name
