"""What a training is made of: hashes of rows, weights, tokenizer and chat template, and its provenance.

Contents are hashed, not paths or times, so a copy on another machine is the same.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from loracle import __version__
from loracle.config.metrics import metric_of
from loracle.config.metrics.elsewhere import OwnFunction
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig
from loracle.config.user_function import source_of
from loracle.records.contents import MODEL_SETTINGS, PRECISION, file_hash, text_hash
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import Splits
from loracle.training.dataset.tokenizer import Place
from loracle.training.judging.harness import task_contents
from loracle.training.model.base_model import Base
from loracle.training.trial import TrialPlan

# Names and places, what follows from `dtype`, and what no training uses.
_NO_SETTINGS = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "use_cache"}
)


def training_contents(splits: Splits, base: Base) -> dict[str, str]:
    """Hashes by name, of data and model."""
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    return {f"{name} rows": _rows(rows) for name, rows in parts.items()} | _model(base)


def scoring_contents(settings: ScoringConfig) -> dict[str, str]:
    """Hashes by name, of what a metric is besides Loracle: the source of a function, documents of tasks."""
    found = {}
    for name in settings.all_metrics:
        metric = metric_of(name)
        if isinstance(metric, OwnFunction):
            source = source_of(metric.source, settings.working_folder)
            if source is not None:
                found[f"source of {metric.source}"] = file_hash(source)
    if settings.code is not None and "pass_at_1" in settings.all_metrics:
        found["tests of programs"] = file_hash(settings.code.tests)
    return found | task_contents(settings)


def provenance(plan: TrialPlan, config: RunConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """How a training comes about, for its folder: versions, settings, model, data, machine."""
    packages = ("torch", "transformers", "peft", "numpy")
    return {
        "versions": {
            "loracle": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "seed": plan.seed,
        "config": plan.config,
        "model": {"name": plan.base.name, "fingerprint": plan.base.fingerprint},
        "max_positions": plan.base.texts.max_positions,
        "data": dict(data),
        "n_examples": plan.train.n_examples,
        **({"n_blocks": len(plan.train)} if plan.train.parts is not None else {}),
        "scored_on": {"split": plan.split, "n_examples": len(plan.questions)},
        "language": {"model": config.language.model, "prompt": config.language.prompt},
        "device": str(plan.base.device),
        "dtype": str(plan.base.dtype).removeprefix("torch."),
        "quantization": config.quantization,
        "attention": getattr(plan.base.model.config, "_attn_implementation", None),
        "threads": torch.get_num_threads(),
        "processes": plan.group.size,
        **({} if plan.adapter is None else {"base_model": _base_model(plan.base, config)}),
        "training": plan.training.model_dump(mode="json"),
        "scoring": config.scoring.model_dump(mode="json"),
    }


def _base_model(base: Base, config: RunConfig) -> dict[str, Any]:
    """What export formats ask of a base model, so that nothing loads torch for it later: its settings as
    transformers completes them, and the token that fills batches up. Empty where they cannot be written."""
    try:
        settings = AutoConfig.from_pretrained(base.name, **Place.of(config).options)
        completed = json.loads(settings.to_json_string(use_diff=False))
    except Exception:  # of any kind: settings may be other people's code, which no format has words for
        return {}
    tokenizer = base.tokenizer
    filler = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {"settings": completed, "pad_id": int(filler)}


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
        MODEL_SETTINGS: text_hash(json.dumps(_settings(settings), sort_keys=True, default=str)),
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
    return {"tokenizer": text_hash(f"{text}\n{special}"), "chat template": text_hash(template)}
