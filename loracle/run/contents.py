"""Hashes of everything that the trials of a run are made of; `identity.py` compares them.

The names are what a message says: "changed since this run began: validation rows". Contents are hashed, not
paths or times, so a copy on another machine is the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from loracle.config.placeholders import placeholders, split_command
from loracle.config.settings import ObjectiveConfig, RunConfig
from loracle.run.identity import MODEL_SETTINGS, PRECISION
from loracle.search.ensemble import EnsembleSettings
from loracle.search.optimizer import Preset
from loracle.search.prior import SHIPPED
from loracle.training.dataset.shapes import Example
from loracle.training.model.base_model import Base
from loracle.training.objective import Objective, TrainingObjective

# Names and places, what follows from `dtype`, and what no training uses.
_NO_SETTINGS = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "use_cache"}
)
_LARGEST_FILE = 64_000_000  # bytes of a command's file: what is larger is no script


def contents_of(
    config: RunConfig, objective: Objective, preset: Preset, reader: Mapping[str, str]
) -> dict[str, str]:
    """Hashes by name, of data, model, prompts, prior and own trainer.

    Args:
        config: of the run.
        objective: with data and model loaded, or the user's own.
        preset: what the search is made of.
        reader: hashes of the prompt and of the model that reads it; empty where nothing is read.
    """
    found: dict[str, str] = {}
    if isinstance(objective, TrainingObjective):
        found |= training_contents(objective)
    found |= reader
    if isinstance(preset.surrogate, EnsembleSettings) and preset.surrogate.informed > 0:
        found["prior"] = _file(preset.surrogate.prior or SHIPPED)
    if config.objective is not None:
        found |= _own_trainer(config.objective)
    return found


def training_contents(objective: TrainingObjective) -> dict[str, str]:
    """Hashes by name, of data and model: what every training is made of."""
    splits = objective.splits
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    return {f"{name} rows": _rows(rows) for name, rows in parts.items()} | _model(objective.base)


def _rows(rows: tuple[Example, ...]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.content, default=str).encode())
    return digest.hexdigest()[:32]


def _model(base: Base) -> dict[str, str]:
    # As they stand in the file: what transformers adds to them differs between its versions.
    settings, _ = PreTrainedConfig.get_config_dict(base.name)
    return {
        "weights of the base model": base.fingerprint,
        PRECISION: str(base.dtype).removeprefix("torch."),
        MODEL_SETTINGS: _hash(json.dumps(_settings(settings), sort_keys=True, default=str)),
        **_tokenizer(base.tokenizer),
    }


def _settings(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _settings(value) for key, value in content.items() if key not in _NO_SETTINGS}
    return content


def _tokenizer(tokenizer: Any) -> dict[str, str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # How the last call padded and cut is state, not content.
        parts = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
        text = json.dumps(parts, sort_keys=True)
    else:
        text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    template = json.dumps(getattr(tokenizer, "chat_template", None), sort_keys=True, default=str)
    return {"tokenizer": _hash(f"{text}\n{special}"), "chat template": _hash(template)}


def _own_trainer(settings: ObjectiveConfig) -> dict[str, str]:
    if settings.function is not None:
        source = _source(settings.function.rpartition(":")[0], settings.working_folder)
        return {} if source is None else {f"source of {settings.function}": _file(source)}
    assert settings.command is not None
    found = {}
    for part in split_command(settings.command):
        path = settings.working_folder / part
        if not placeholders(part) and path.is_file() and path.stat().st_size <= _LARGEST_FILE:
            found[part] = _file(path)
    return found


def _source(module: str, folder: Path) -> Path | None:
    """The file that a function comes from; None: it cannot be told without importing anything."""
    if module.endswith(".py"):
        return folder / module
    nested = folder.joinpath(*module.split("."))
    for path in (nested.with_suffix(".py"), nested / "__init__.py"):
        if path.is_file():
            return path
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is None:
        try:
            spec = importlib.util.find_spec(module.partition(".")[0])
        except (ImportError, ValueError):
            return None
        known = spec.origin if spec is not None and "." not in module else None
    return None if known is None or not Path(known).is_file() else Path(known)


def _file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
