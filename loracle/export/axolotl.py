"""axolotl: `config.yaml` for `axolotl train`, and the rows that were trained on. Names as in axolotl 0.19."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.export.winner.files import (
    ROWS,
    TEMPLATE,
    header,
    template_text,
    write_rows,
    write_texts,
    yaml_text,
)
from loracle.export.winner.reading import Winner, require_whole_alpha
from loracle.export.winner.rows import (
    about_skipped_turns,
    plain_row,
    require_plain_turns,
    respelt_rows,
    training_rows,
)

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example

LOADS_MODELS = True

# transformers.TrainingArguments, and what axolotl/utils/schemas/training.py calls the same.
_TRAINING = {
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "num_train_epochs": "num_epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "lr_scheduler_kwargs": "lr_scheduler_kwargs",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "optim": "optimizer",
    "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing",
    "seed": "seed",
}
_LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "use_rslora": "peft_use_rslora",
    "use_dora": "peft_use_dora",
    "init_lora_weights": "peft_init_lora_weights",
}
_IMPLIED = {"bias": "none", "task_type": "CAUSAL_LM", "target_modules": None}


def write(winner: Winner, folder: Path) -> list[str]:
    """Writes `config.yaml` and `train.jsonl`. Raises LoracleError: axolotl has no place for something."""
    rows = training_rows(winner)
    texts, notes = settings(winner, rows)
    write_rows(folder, map(plain_row, respelt_rows(winner, rows, "axolotl")))
    write_texts(folder, texts)
    return notes


def settings(winner: Winner, rows: Sequence[Example]) -> tuple[dict[str, str], list[str]]:
    """The files without the rows, and what they cannot say; raises as `write`."""
    require_whole_alpha(winner, "axolotl")
    require_plain_turns(rows, "axolotl")
    notes = [
        *winner.beyond_trainer(lora_plus=True),
        *_about_rows(rows),
        *winner.unsaid(_TRAINING, _LORA, _IMPLIED),
    ]
    head = header(winner, f"For `{_command(winner)}`, from this folder.", notes)
    template = template_text(winner, rows)
    content = _config(winner, rows[0].form)
    if template:
        content |= {"chat_template": "jinja", "chat_template_jinja": TEMPLATE}
    return {"config.yaml": yaml_text(head, content)} | template, notes


def _command(winner: Winner) -> str:
    devices = winner.split.devices
    return "axolotl train config.yaml" + f" --launcher accelerate -- --num_processes {devices}" * (
        devices > 1
    )


def _config(winner: Winner, form: str) -> dict[str, Any]:
    lora, training = winner.lora, winner.training
    targets = lora["target_modules"]
    linear = targets == "all-linear"
    return {
        "base_model": winner.model,
        "trust_remote_code": winner.config.trust_remote_code,
        "datasets": [_dataset(form)],
        "train_on_inputs": False,
        **({"chat_template": "tokenizer_default"} if form == "messages" else {}),
        "sequence_len": winner.max_length,
        "sample_packing": winner.packs,
        **({"attn_implementation": winner.attention} if winner.packs else {}),
        "pad_to_sequence_len": False,
        "adapter": "lora",
        **{_LORA[name]: lora[name] for name in _LORA if name in lora},
        **({"lora_target_linear": True} if linear else {"lora_target_modules": targets}),
        **{_TRAINING[name]: training[name] for name in _TRAINING if name in training},
        **_lora_plus(winner),
        "bf16": winner.dtype == "bfloat16",
        "fp16": winner.dtype == "float16",
        "tf32": False,
        "val_set_size": 0,
        "logging_steps": 1,
        "output_dir": "adapter",
    }


def _lora_plus(winner: Winner) -> dict[str, Any]:
    ratio = winner.lora_plus_ratio
    return {} if ratio is None else {"optimizer": "adamw_torch_fused", "loraplus_lr_ratio": ratio}


def _dataset(form: str) -> dict[str, Any]:
    place = {"path": ROWS, "ds_type": "json"}
    if form == "text":
        return {**place, "type": "completion", "field": "text"}
    if form == "messages":
        return {
            **place,
            "type": "chat_template",
            "field_messages": "messages",
            "roles_to_train": ["assistant"],
        }
    plain = {"format": "{instruction}", "no_input_format": "{instruction}"}
    return {**place, "type": {"field_instruction": "prompt", "field_output": "completion", **plain}}


def _about_rows(rows: Sequence[Example]) -> Iterator[str]:
    if rows[0].form == "messages":
        yield (
            "loss mask: axolotl finds the tokens of every turn of the assistant by itself, with the template "
            "of the tokenizer; look at a batch with `axolotl preprocess config.yaml --debug`"
        )
    yield from about_skipped_turns(rows, "axolotl")
    if rows[0].form == "prompt and completion":
        yield (
            "tokens: axolotl tokenises prompt and completion apart; where a word would merge over the "
            "boundary, or the tokenizer puts a space before every text, its tokens differ from Loracle's"
        )
