"""How other libraries and people spell the knobs: one table for all who read foreign names.

PEFT, transformers, TRL, axolotl, LLaMA-Factory, Unsloth, torchtune, and scripts. A spelling stands for the
same number in the same unit: `warmup_steps` is none of `warmup_fraction`, as it counts steps.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "rank": ("r", "lora_r", "lora_rank", "lora_dim", "peft_r", "adapter_rank", "rank_r", "r_lora"),
    "alpha": ("lora_alpha", "peft_alpha", "adapter_alpha", "alpha_lora", "scaling_alpha"),
    "alpha_ratio": (
        *("alpha_over_rank", "alpha_over_r", "lora_alpha_ratio", "alpha_rank_ratio", "alpha_multiplier"),
        *("alpha_r_ratio", "alpha_to_rank", "lora_alpha_over_r", "alpha_factor", "lora_scaling"),
    ),
    "learning_rate": (
        *("lr", "eta", "step_size", "base_lr", "peak_lr", "max_lr", "lora_lr", "init_lr", "initial_lr"),
        *("learn_rate", "lr_rate", "initial_learning_rate", "base_learning_rate"),
    ),
    "batch_size": (
        *("bs", "batch", "bsz", "train_batch_size", "per_device_train_batch_size", "train_bs"),
        *("global_batch_size", "effective_batch_size", "total_batch_size", "micro_batch_size"),
        *("per_device_batch_size", "batchsize", "train_batch", "per_gpu_train_batch_size"),
    ),
    "dropout": (
        *("lora_dropout", "dropout_rate", "dropout_p", "drop", "p_dropout", "peft_dropout"),
        *("adapter_dropout", "dropout_prob", "lora_drop"),
    ),
    "epochs": ("num_train_epochs", "num_epochs", "n_epochs", "epoch", "train_epochs", "max_epochs"),
    "warmup_fraction": ("warmup_ratio", "warmup_proportion", "warmup", "lr_warmup_ratio", "warmup_pct"),
    "weight_decay": ("wd", "l2", "decay", "adam_weight_decay", "weightdecay"),
    "lora_plus_ratio": ("loraplus_lr_ratio", "loraplus_ratio", "lora_plus_lr_ratio"),
    "max_gradient_norm": (
        *("max_grad_norm", "grad_clip", "gradient_clip_val", "gradient_clipping", "clip_grad_norm"),
        *("max_norm", "clip_norm", "gradient_clip", "grad_norm_clip", "clip_grad"),
    ),
}

# Two numbers whose product, on one device, is the effective batch.
MICRO_BATCH = ("micro_batch_size", "per_device_train_batch_size")
ACCUMULATION = ("gradient_accumulation_steps",)

_CLOSE = 0.75  # similarity from which a name may be meant for another
# What scripts put before a name and what says nothing: `lora.r`, `training_args/learning_rate`, `hp__lr`.
_PREFIX = re.compile(
    r"^((lora|peft|adapter|train|training|trainer|sft|optim|optimizer|model|hp|hparams?|params?|config|cfg|args)"
    r"(_?(args|arguments|config|params|cfg))?(\.|/|:|__|-))+"
)


_LORA = re.compile(r"lora|peft|adapter|scaling", re.IGNORECASE)


def says_lora(name: str) -> bool:
    """Whether a name says of itself that it is about LoRA: `lora_alpha`, `peft.alpha`, and not `alpha`."""
    return _LORA.search(name) is not None


def meant_by(name: str, names: Collection[str]) -> tuple[str | None, bool]:
    """The one of `names` that was probably meant by another name, and whether that is a usual spelling of it.

    A usual spelling may be relied on; a name that only looks alike is for a hint.
    """
    for text in (name, _PREFIX.sub("", name.lower())):
        plain = _plain(text)
        for known in sorted(names):
            if plain == _plain(known) or plain in map(_plain, SPELLINGS.get(known, ())):
                return known, True
    close = difflib.get_close_matches(name.lower(), sorted(names), n=1, cutoff=_CLOSE)
    inside = [
        known for known in sorted(names, key=len, reverse=True) if len(known) > 3 and known in name.lower()
    ]
    found = [*close, *inside]
    return (found[0] if found else None), False


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
