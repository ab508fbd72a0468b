"""Which trainer a YAML file is for, and its settings in one flat mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loracle.config.yaml_file import YamlError, parse, read_text
from loracle.errors import ConfigError
from loracle.text.escape import printable


@dataclass(frozen=True)
class Kind:
    """A trainer whose YAML files are read.

    Attributes:
        title: its name.
        marks: keys of which every file has one.
        defaults: what it trains with where a file says nothing (in our words: rank, alpha, ...; `micro_batch`
            is that of one device, and `max_length` None where it is the model's own).
    """

    title: str
    marks: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


# peft.LoraConfig, and transformers.TrainingArguments. A test holds all of these against the trainers' own
# classes.
_LORA = {"rank": 8, "alpha": 8, "dropout": 0.0}
_TRAINING = {"epochs": 3.0, "schedule": "linear", "warmup_fraction": 0.0}
_HF = _LORA | {"learning_rate": 5e-5, "micro_batch": 8} | _TRAINING
KINDS: dict[str, Kind] = {
    "oumi": Kind("oumi tune", ("tuning",), _HF | {"max_length": None}),
    # axolotl asks for a learning rate, and has no default for rank and alpha. Its warm-up
    # (axolotl/core/builders/base.py) is min(int(0.03 * steps), 100) steps.
    "axolotl": Kind(
        "axolotl",
        ("micro_batch_size", "sequence_len", "adapter"),
        {
            "dropout": 0.0,
            "micro_batch": 1,
            "max_length": 512,
            "epochs": 1.0,
            "schedule": "cosine",
            "warmup_fraction": 0.03,
        },
    ),
    # llamafactory/hparams/finetuning_args.py: alpha is twice the rank.
    "llamafactory": Kind(
        "LLaMA-Factory",
        ("finetuning_type", "lora_rank", "cutoff_len", "stage"),
        _HF | {"alpha": None, "max_length": 2048},
    ),
    # trl.ModelConfig and trl.SFTConfig, 1.16.
    "trl": Kind(
        "TRL, transformers or PEFT",
        ("model_name_or_path", "base_model", "per_device_train_batch_size", "lora_r", "r", "use_peft"),
        _HF | {"rank": 16, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-5, "max_length": 1024},
    ),
}
_PAIRED = "_"  # in a sweep of axolotl: mappings whose values go together


@dataclass(frozen=True)
class Source:
    """A file that was read: its kind, its settings in one flat mapping, and what a sweep tries."""

    path: Path
    kind: Kind
    settings: Mapping[str, Any]
    tried: Mapping[str, Any] = field(default_factory=dict)


def read_source(path: Path, known: set[str]) -> Source:
    """Reads a YAML file of another trainer.

    Args:
        path: of the file.
        known: keys that mean something to us; a file of lists of values under such keys is a sweep.

    Raises:
        ConfigError: it cannot be read, or is of no kind that is known.
    """
    try:
        content, _ = parse(read_text(path))
    except YamlError as error:
        raise ConfigError(f"{error.place(path)}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a file of settings is a mapping of keys to values")
    if isinstance(content.get("tuning"), dict):
        return _oumi(path, content)
    flat = _flat(content)
    if _is_sweep(flat, known):
        return Source(path, KINDS["axolotl"], {}, _sweep(flat))
    for name in ("axolotl", "llamafactory", "trl"):
        if any(mark in flat for mark in KINDS[name].marks):
            return Source(path, KINDS[name], flat)
    titles = ", ".join(kind.title for kind in KINDS.values())
    keys = ", ".join(printable(str(key), 40) for key in list(content)[:8])
    raise ConfigError(f"{path}: of no kind that is read ({titles}, a sweep of axolotl); its keys: {keys}")


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of the sections of scripts (`lora:`, `training:`, `sft:`) among them."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and key.lower() in _SECTIONS:
            found |= value
        else:
            found[key] = value
    return found


_SECTIONS = {
    *("lora", "lora_config", "loraconfig", "peft", "peft_config", "training", "training_args", "model"),
    *("sft", "sft_config", "sftconfig", "model_config", "script", "trained", "data_config"),
}


def _is_sweep(content: Mapping[str, Any], known: set[str]) -> bool:
    return bool(content) and all(
        isinstance(value, list) and (key == _PAIRED or key in known) for key, value in content.items()
    )


def _sweep(content: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: {"choices": value} for key, value in content.items() if key != _PAIRED}
    for group in content.get(_PAIRED, []):
        for key, value in group.items() if isinstance(group, dict) else ():
            found.setdefault(key, {"choices": []})["choices"].append(value)
    return found


def _oumi(path: Path, content: Mapping[str, Any]) -> Source:
    """oumi/core/configs/params/tuning_params.py, 0.9."""
    tuning = content["tuning"]
    settings: dict[str, Any] = {"n_trials": tuning.get("n_trials")}
    model = content.get("model") or {}
    if isinstance(model, dict):
        settings |= model
    for part in ("fixed_training_params", "fixed_peft_params"):
        settings |= tuning.get(part) or {}
    for split in ("train", "validation", "test"):
        section = (content.get("data") or {}).get(split) or {}
        if section:
            settings["datasets" if split == "train" else f"{split}_datasets"] = section.get("datasets", [])
    tried = {**(tuning.get("tunable_training_params") or {}), **(tuning.get("tunable_peft_params") or {})}
    metrics = tuning.get("evaluation_metrics", ["eval_loss"])
    if metrics != ["eval_loss"]:
        settings["evaluation_metrics"] = metrics
    return Source(path, KINDS["oumi"], settings, tried)
