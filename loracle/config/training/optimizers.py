"""The optimizers, one row each: where the class is, what it is told, what it keeps, what others call it.

A new optimizer is a new row. Settings, trainer, memory plan and recipe read the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BITSANDBYTES = "bitsandbytes"


@dataclass(frozen=True)
class Optimizer:
    """One way to make an update of gradients.

    Attributes:
        place: module and class, `torch.optim:AdamW`; of LoRA-FA a function that makes one of the whole model.
        transformers: its name as `optim` of `transformers.TrainingArguments`; None: it has none there.
        arguments: what it is told beside learning rate and weight decay.
        state_bytes: that it keeps for each trained number.
        paged: whether these leave a GPU for the CPU's memory where they must.
        package: what has to be installed for it; None: nothing more.
        freezes_a: whether A stays as it begins, so that B alone is trained.
    """

    place: str
    transformers: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    state_bytes: float = 8.0
    paged: bool = False
    package: str | None = None
    freezes_a: bool = False


ADAMW = "adamw"
_8BIT = 2.1  # two moments of a byte each, and a scale for each block of 256
OPTIMIZERS: dict[str, Optimizer] = {
    ADAMW: Optimizer("torch.optim:AdamW", "adamw_torch_fused", {"fused": True}),
    "adamw_8bit": Optimizer(
        "bitsandbytes.optim:AdamW8bit", "adamw_8bit", state_bytes=_8BIT, package=BITSANDBYTES
    ),
    "paged_adamw": Optimizer(
        "bitsandbytes.optim:PagedAdamW32bit", "paged_adamw_32bit", paged=True, package=BITSANDBYTES
    ),
    "paged_adamw_8bit": Optimizer(
        "bitsandbytes.optim:PagedAdamW8bit",
        "paged_adamw_8bit",
        state_bytes=_8BIT,
        paged=True,
        package=BITSANDBYTES,
    ),
    # With these two, as transformers' own trainer has it, the rate is that of the schedule.
    "adafactor": Optimizer(
        "transformers.optimization:Adafactor",
        "adafactor",
        {"scale_parameter": False, "relative_step": False},
        state_bytes=4.0,  # of rank 1; a row and a column of the second moment of anything larger
    ),
    "sgd": Optimizer("torch.optim:SGD", "sgd", state_bytes=0.0),
    "lora_fa": Optimizer("peft.optimizers:create_lorafa_optimizer", None, freezes_a=True),
}
