"""What a training is made of: hashes of rows, weights, tokenizer and chat template, and its provenance.

Contents are hashed, not paths or times, so a copy on another machine is the same.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoConfig

from loracle import __version__
from loracle.config.metrics import metric_of
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig
from loracle.records.contents import ANSWERS, MODEL_SETTINGS, PRECISION, WEIGHTS, Contents, text_hash
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.splits import Splits
from loracle.training.dataset.tokenizer import Place
from loracle.training.guard import Guard
from loracle.training.judging.harness import task_contents
from loracle.training.judging.judge import judge_of
from loracle.training.model.base_model import Base
from loracle.training.model.checksum import tokenizer_contents
from loracle.training.scoring import frame_of_answers
from loracle.training.trial import TrialPlan


def contents_of(splits: Splits, base: Base, scoring: ScoringConfig, guards: Sequence[Guard] = ()) -> Contents:
    """What trainings are made of, as this process has read it.

    The fingerprint is quick: a vocabulary of 262,144 words takes half a second in place of three, as its text
    is not put in order.
    """
    beside = _scoring_contents(scoring)
    beside |= {f"rows of guard {guard.name}": guard.content for guard in guards}
    beside |= answer_contents(splits, base, scoring, guards)
    made_of = [splits.fingerprint, str(base.dtype), dict(base.checked), beside]
    return Contents(text_hash(json.dumps(made_of)), lambda: training_contents(splits, base) | beside)


def answer_contents(
    splits: Splits, base: Base, scoring: ScoringConfig, guards: Sequence[Guard] = ()
) -> dict[str, str]:
    """Hash by name, of what a chat template writes around answers that are scored: earlier versions took it
    for a part of them, and recorded none. Nothing where none is, or it is white space alone."""
    of_guards = (guard.questions["validation"].frame for guard in guards)
    frames = (frame_of_answers(splits.validation, base, scoring), *of_guards)
    found = next((frame for frame in frames if frame.marks), None)
    return {} if found is None else {ANSWERS: text_hash(json.dumps(asdict(found)))}


def training_contents(splits: Splits, base: Base) -> dict[str, str]:
    """Hashes by name, of data and model."""
    parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
    return {f"{name} rows": _rows(rows) for name, rows in parts.items()} | _model(base)


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


def _scoring_contents(settings: ScoringConfig) -> dict[str, str]:
    """Hashes by name, of what a metric is besides Loracle: the source of a function, documents of tasks."""
    found: dict[str, str] = {}
    for metric in map(metric_of, settings.all_metrics):
        if metric.judge_module:
            found |= judge_of(metric, settings).sources
    return found | task_contents(settings)


def _rows(rows: tuple[Example, ...]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.content, default=str).encode())
    return digest.hexdigest()[:32]


def _model(base: Base) -> dict[str, str]:
    return {
        WEIGHTS: base.fingerprint,
        PRECISION: str(base.dtype).removeprefix("torch."),
        MODEL_SETTINGS: base.checked[MODEL_SETTINGS],
        **tokenizer_contents(base.tokenizer),
    }
