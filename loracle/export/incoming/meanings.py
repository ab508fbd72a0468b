"""What the keys of other trainers mean: our setting, and how its value is said there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loracle.config.spellings import ACCUMULATION, MICRO_BATCH, SPELLINGS
from loracle.config.training.optimizers import OPTIMIZERS
from loracle.config.training.schedules import SCHEDULES

# Our knob, or the place of our setting, and its names in axolotl 0.19, LLaMA-Factory 0.9.5, oumi 0.9,
# TRL 1.16 and PEFT.
KNOBS: dict[str, tuple[str, ...]] = {
    name: (name, *SPELLINGS[name]) for name in ("rank", "alpha", "dropout", "learning_rate")
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "model": ("base_model", "model_name_or_path", "model_name"),
    "trust_remote_code": ("trust_remote_code",),
    "data.max_length": ("sequence_len", "cutoff_len", "max_length", "max_seq_length", "model_max_length"),
    "training.epochs": SPELLINGS["epochs"],
    "training.max_steps": ("max_steps",),
    "training.warmup_fraction": SPELLINGS["warmup_fraction"],
    "training.schedule": ("lr_scheduler", "lr_scheduler_type"),
    "training.schedule_arguments": ("lr_scheduler_kwargs",),
    "training.optimizer": ("optimizer", "optim"),
    "training.lora_plus_ratio": ("loraplus_lr_ratio",),
    "training.weight_decay": ("weight_decay", *SPELLINGS["weight_decay"]),
    "training.max_gradient_norm": SPELLINGS["max_gradient_norm"],
    "training.targets": ("lora_target_modules", "lora_target", "target_modules"),
    "training.modules_to_save": ("lora_modules_to_save", "additional_target", "modules_to_save"),
    "training.gradient_checkpointing": (
        *("gradient_checkpointing", "activation_checkpointing", "enable_gradient_checkpointing"),
    ),
    "quantization": ("quantization_bit",),
    "search.seed": ("seed",),
    "search.trials": ("n_trials",),
    "dtype": ("dtype", "torch_dtype", "torch_dtype_str"),
}
# A key that is true means a variant, or another setting.
FLAGS: dict[str, tuple[str, Any]] = {
    "use_rslora": ("training.variant", "rslora"),
    "peft_use_rslora": ("training.variant", "rslora"),
    "use_dora": ("training.variant", "dora"),
    "peft_use_dora": ("training.variant", "dora"),
    "pissa_init": ("training.variant", "pissa"),
    "lora_target_linear": ("training.targets", "all-linear"),
    "load_in_4bit": ("quantization", "4bit"),
    "q_lora": ("quantization", "4bit"),
    "load_in_8bit": ("quantization", "8bit"),
    **dict.fromkeys(("packing", "sample_packing", "neat_packing"), ("data.packing", True)),
    "bf16": ("dtype", "bfloat16"),
    "fp16": ("dtype", "float16"),
}
STARTS = {"pissa": "pissa", "pissa_niter_16": "pissa_fast", "olora": "olora", "eva": "eva"}
START_KEYS = ("init_lora_weights", "peft_init_lora_weights", "lora_init_weights")

_OPTIMIZERS = {row.transformers: name for name, row in OPTIMIZERS.items() if row.transformers is not None} | {
    "adamw_torch": "adamw",
    "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw",
}
_SCHEDULES = {row.transformers: name for name, row in SCHEDULES.items()} | {"constant": "constant"}


def _whole_list(value: Any) -> Any:
    if isinstance(value, str) and value.replace("_", "-") in ("all", "all-linear", "linear"):
        return "all-linear"
    found = value.split(",") if isinstance(value, str) else value
    return "all-linear" if found in (["all-linear"], ["all"]) else [str(name).strip() for name in found]


# How a value is said in our words; KeyError or another error where it has no word.
AS_OURS: dict[str, Callable[[Any], Any]] = {
    "training.schedule": lambda value: _SCHEDULES[str(value)],
    "training.optimizer": lambda value: _OPTIMIZERS[str(value)],
    "training.targets": _whole_list,
    "training.modules_to_save": lambda value: value.split(",") if isinstance(value, str) else list(value),
    "quantization": lambda value: {4: "4bit", 8: "8bit"}[value],
    "training.epochs": float,
    "training.warmup_fraction": float,
    "training.gradient_checkpointing": bool,  # or a word for how: unsloth, offload
    "dtype": lambda value: {"bf16": "bfloat16", "fp16": "float16", "float": "float32"}.get(
        str(value), str(value)
    ),
}

# What the loss counts: prompts too where one of these has this value (data.loss_on: all).
WHOLE_ROWS: dict[str, bool] = {
    "train_on_inputs": True,
    "train_on_prompt": True,
    "completion_only_loss": False,
}
TURNS = "assistant_only_loss"  # of TRL: chats count their assistant's turns alone, as here
LAST_TURN = "mask_history"  # of LLaMA-Factory: of chats the last turn counts alone (data.loss_on: completion)
ROWS = "rows"  # of our recipe: chats whose last turn is a completion

# What is so here anyway, and what another value means.
ANYWAY: dict[str, tuple[Any, str]] = {
    "packing_strategy": ("bfd", "there rows may be cut to fill blocks; here they are whole"),
    "group_by_length": (False, "there rows of like length share a step; here the order is random"),
}

# By which a model is divided between GPUs, as it is here where the config says so; how many of them there are
# stands in no file.
DIVIDED = {"fsdp", "fsdp_config", "fsdp_version", "deepspeed", "device_map"}

# Keys that change where and how a training runs and is watched, and nothing of what it learns.
HARMLESS = {
    *("output_dir", "overwrite_output_dir", "logging_steps", "logging_strategy", "logging_dir", "save_steps"),
    *("save_strategy", "saves_per_epoch", "evals_per_epoch", "eval_steps", "eval_strategy", "report_to"),
    *("save_total_limit", "overwrite_cache", "preprocessing_num_workers", "dataloader_num_workers"),
    *(
        "plot_loss",
        "ddp_timeout",
        "dataset_prepared_path",
        "run_name",
        "tf32",
        "local_rank",
        "debug",
        "strict",
    ),
    *(
        "do_train",
        "do_eval",
        "flash_attention",
        "flash_attn",
        "sdp_attention",
        "xformers_attention",
        "hub_model_id",
    ),
    *(
        "push_to_hub",
        "use_peft",
        "finetuning_type",
        "stage",
        "adapter",
        "task_type",
        "lora_task_type",
        "bias",
    ),
    *("resume_from_checkpoint", "gradient_checkpointing_kwargs", "env"),
    *(
        "per_device_eval_batch_size",
        "eval_batch_size",
        "trainer_type",
        "loracle",
        "steps",
        "examples",
        "loss",
        "blocks",
        "eval_sample_packing",
        "eval_packing",
    ),
    *(
        "save_only_model",
        "save_safetensors",
        "dataloader_prefetch_factor",
        "use_cpu",
        "data_seed",
        "loss_watchdog",
    ),
    *(
        "loss_watchdog_threshold",
        "loss_watchdog_patience",
        "load_best_model_at_end",
        "include_tokens_per_second",
    ),
    *("effective_batch", "dataset_dir", "logging_first_step", "attn_implementation", "pad_to_sequence_len"),
}
HARMLESS_PREFIXES = ("wandb_", "mlflow_", "comet_", "hub_", "ray_", "ddp_", "tensorboard", "swanlab_")


def our_names() -> dict[str, str]:
    """Our knob or setting by each of their keys."""
    tables = (KNOBS, SETTINGS)
    return {key: ours for table in tables for ours, keys in table.items() for key in keys}


def known_keys() -> set[str]:
    """All keys that mean something to us."""
    return {
        *our_names(),
        *MICRO_BATCH,
        *ACCUMULATION,
        *FLAGS,
        *START_KEYS,
        *WHOLE_ROWS,
        "warmup_steps",
        "datasets",
    }
