"""The settings to use, in the words of PEFT, transformers and TRL; or of a trainer of the user's own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from loracle import __version__
from loracle.config.placeholders import fill, split_command
from loracle.config.settings import RunConfig
from loracle.config.training.optimizers import OPTIMIZERS
from loracle.config.training.plan import Plan, plan_training, steps_elsewhere
from loracle.config.training.schedules import SCHEDULES, scheduler_arguments
from loracle.config.training.settings import TrainingConfig
from loracle.config.training.variants import VARIANTS
from loracle.records.space import Config, Value
from loracle.text.secrets import recorded_arguments

_HEAD = """\
# Settings of this adapter. `lora` are arguments of peft.LoraConfig, `training` of
# transformers.TrainingArguments; trl.SFTConfig takes `training` and `sft` together.
"""
_HEAD_OF_ROWS = """\
# `rows` is what each row has to be for TRL, where `messages` are its turns: of a chat that is given whole TRL
# cannot count the last turn alone. `loracle export --to trl` writes such rows.
"""
_LAST_TURN_ALONE = {"prompt": "messages[:-1]", "completion": "messages[-1:]"}  # in Python's words
_COUNTED_IN = "mean over the tokens that count of the whole effective batch: "
_COUNTED = {
    None: "those of completions and assistant turns, end-of-sequence included; in rows of text, all",
    "completion": "those of completions, in chats the last turn or those given as the completion, "
    "end-of-sequence included",
    "assistant": "those of all assistant turns, end-of-sequence included",
    "all": "all, prompts included",
}


def recipe(
    config: RunConfig,
    chosen: Config,
    n_train: int,
    metrics: Mapping[str, float] | None = None,
    weights: Sequence[str] = (),
    modules: Sequence[str] = (),
    n_blocks: int | None = None,
    chats: bool = False,
) -> dict[str, Any]:
    """What was trained, by the names of the libraries that would train it again.

    `lora` goes into `peft.LoraConfig`, `training` into `transformers.TrainingArguments`, `sft` beside it into
    `trl.SFTConfig`. Micro-batch and accumulation multiply to the effective batch; another split of it trains
    the same.

    Args:
        config: of the run.
        chosen: the config that was trained.
        n_train: training examples.
        metrics: of its training: the micro-batch that was used.
        weights: those of the targets that are weights and no modules, as the saved adapter says.
        modules: the others, as it says them: targets that are a pattern or a group are none that PEFT knows.
        n_blocks: blocks that the examples are packed into; None: each is a row.
        chats: whether rows are whole chats, whose prompts TRL takes for no prompts.
    """
    plan = plan_training(chosen, config.training, n_blocks or n_train)
    training = plan.settings
    largest = int((metrics or {}).get("micro_batch", 0)) or training.largest_micro_batch
    micro = next(size for size in range(min(plan.batch_size, largest), 0, -1) if plan.batch_size % size == 0)
    return {
        "loracle": __version__,
        "base_model": config.model,
        **_loading(config),
        "lora": _lora(plan, weights, modules),
        "training": {
            "learning_rate": plan.learning_rate,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": plan.batch_size // micro,
            **_length(plan),
            **_schedule(plan),
            "warmup_steps": plan.warmup_steps,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_gradient_norm,
            **_optim(training),
            **({_checkpointing_name(): True} if training.gradient_checkpointing else {}),
            "seed": config.search.seed,
        },
        **_for_trl(config, chats),
        "trained": {
            "examples": n_train,
            **({} if n_blocks is None else {"blocks": n_blocks}),
            "effective_batch": plan.batch_size,
            **({} if plan.settings.epochs is None else {"epochs": float(plan.settings.epochs)}),
            "steps": plan.steps,
            "warmup_steps": plan.warmup_steps,
            "loss": _COUNTED_IN + _COUNTED[config.data.loss_on],
            **_beyond(plan, metrics or {}),
        },
    }


def _loading(config: RunConfig) -> dict[str, Any]:
    """What `from_pretrained` was told of the base model, where it was told anything."""
    told: dict[str, Any] = {} if config.dtype == "auto" else {"dtype": config.dtype}
    if config.attention is not None:
        told["attn_implementation"] = config.attention
    if config.quantization == "4bit":
        told["quantization_config"] = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            **({} if config.dtype == "auto" else {"bnb_4bit_compute_dtype": config.dtype}),
        }
    elif config.quantization == "8bit":
        told["quantization_config"] = {"load_in_8bit": True}
    return {"model": told} if told else {}


def _for_trl(config: RunConfig, chats: bool) -> dict[str, Any]:
    """Row length, what counts in the loss as TRL counts it, packing, and what rows TRL needs for that."""
    packed = {"packing": True, "packing_strategy": "bfd"} if config.data.packing else {}
    counted = {"completion_only_loss": config.data.loss_on != "all"}
    if chats and config.data.loss_on in (None, "assistant"):  # else TRL would count every token of a chat
        counted = {"assistant_only_loss": True}
    elif config.data.loss_on == "assistant" and not config.data.as_chat:  # turns of the prompt count, too
        counted = {"completion_only_loss": False, "assistant_only_loss": True}
    found: dict[str, Any] = {"sft": {"max_length": config.data.max_length, **counted, **packed}}
    if config.data.loss_on == "completion" if chats else config.data.as_chat:
        found["rows"] = dict(_LAST_TURN_ALONE)
    return found


def _length(plan: Plan) -> dict[str, Any]:
    """Epochs, where others make as many steps of them."""
    epochs = plan.settings.epochs
    if epochs is None or steps_elsewhere(plan.n_examples, epochs, plan.batch_size) != plan.steps:
        return {"max_steps": plan.steps}
    return {"num_train_epochs": float(epochs)}


def _schedule(plan: Plan) -> dict[str, Any]:
    given = plan.settings.schedule_arguments
    arguments = scheduler_arguments(given, plan.steps, plan.warmup_steps)
    name = SCHEDULES[plan.settings.schedule].transformers
    return {"lr_scheduler_type": name, **({"lr_scheduler_kwargs": arguments} if arguments else {})}


def _optim(training: TrainingConfig) -> dict[str, Any]:
    """The optimizer, where it is one of transformers' own; `_beyond` says the others."""
    name = OPTIMIZERS[training.optimizer].transformers
    return {} if name is None or training.lora_plus_ratio != 1 else {"optim": name}


def _beyond(plan: Plan, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What no setting of these libraries says."""
    training, found = plan.settings, dict[str, Any]()
    row = OPTIMIZERS[training.optimizer]
    if training.lora_plus_ratio != 1:
        found["optimizer"] = {
            "function": "peft.optimizers.create_loraplus_optimizer",
            "optimizer_cls": row.place.replace(":", "."),
            "loraplus_lr_ratio": training.lora_plus_ratio,
            "loraplus_weight_decay": training.weight_decay,
            **row.arguments,
        }
    elif row.transformers is None:
        found["optimizer"] = {"function": row.place.replace(":", "."), **row.arguments}
    if training.early_stopping is not None:
        found["early_stopping"] = training.early_stopping.model_dump(mode="json")
        found["kept_step"] = int(metrics.get("kept_step", plan.steps))
    return found


def _checkpointing_name() -> str:
    """What the installed transformers calls the recomputation of activations; it is being renamed."""
    package = find_spec("transformers")  # not imported: a run's driver carries no torch
    assert package is not None
    assert package.origin is not None
    source = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    new = "activation_checkpointing"
    return new if f"    {new}: " in source else "gradient_checkpointing"


def _lora(plan: Plan, weights: Sequence[str], saved: Sequence[str]) -> dict[str, Any]:
    settings = plan.settings
    modules: str | list[str] = settings.targets
    if not settings.targets_are_names and saved:
        modules = sorted(saved)
    elif modules != "all-linear":
        modules = [target for target in settings.targets if target not in weights]
    return {
        "r": plan.rank,
        "lora_alpha": int(plan.alpha) if plan.alpha.is_integer() else plan.alpha,
        "lora_dropout": plan.dropout,
        "target_modules": modules,
        **({"target_parameters": list(weights)} if weights else {}),
        **({"modules_to_save": list(settings.modules_to_save)} if settings.modules_to_save else {}),
        **VARIANTS[settings.variant].peft_arguments,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }


def recipe_text(content: Mapping[str, Any]) -> str:
    """A recipe as YAML, with lines that say what it is."""
    head = _HEAD + _HEAD_OF_ROWS * ("rows" in content)
    return head + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def own_recipe_text(config: RunConfig, chosen: Config, name: str = "winner") -> str:
    """Settings for a trainer of the user's own as YAML, and the command, ready for a shell.

    `name`: `winner` or `standard`, whose final run it was.
    """
    assert config.objective is not None
    content: dict[str, Any] = {"loracle": __version__, "settings": dict(chosen)}
    if config.objective.command is not None:
        values: dict[str, str | Value] = {**chosen, "seed": config.search.seed, "fraction": 1.0}
        values |= {"number": name, "phase": "final", "folder": str(config.output / "final" / name)}
        parts = recorded_arguments(split_command(config.objective.command))
        content["command"] = shlex.join(fill(part, values) for part in parts)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
