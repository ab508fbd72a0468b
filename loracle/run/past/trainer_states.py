"""Trainings of transformers' Trainer: `trainer_state.json`, and what lies beside it and says the settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loracle.config.yaml_file import YamlError, parse, read_text
from loracle.errors import ConfigError
from loracle.run.past.result import Result, Source, flat, knobs_of, number

NAME = "trainer_state.json"
_SETTINGS = (  # the last one counts
    *("config", "axolotl_config", "hyperparameters", "args", "llamafactory_args", "training_args"),
    "adapter_config",
)
_CARD_LINE = re.compile(r"^\s*[-*] ([a-z_]+): ([-+.\deE]+)\s*$", re.M)  # of a model card by the Trainer
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def trainer_states_in(folder: Path) -> list[Path]:
    """Of every training under a folder its last state, sorted."""
    last: dict[Path, Path] = {}
    for path in sorted(folder.rglob(NAME)):
        run = path.parent.parent if _CHECKPOINT.fullmatch(path.parent.name) else path.parent
        if run not in last or _steps(path) >= _steps(last[run]):
            last[run] = path
    return sorted(last.values())


def read_trainer_states(paths: Sequence[Path]) -> Source:
    """One result a file: the last score of each name that was evaluated.

    Raises:
        ConfigError: a file is no state of a Trainer.
    """
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Source(name, [_result(path) for path in paths])


def _result(path: Path) -> Result:
    state = _state(path)
    logged = [entry for entry in state["log_history"] if isinstance(entry, Mapping)]
    scores: dict[str, float] = {}
    for entry in logged:
        for name, value in entry.items():
            if name.startswith("eval_") and (score := number(value)) is not None:
                scores[name] = score if math.isfinite(score) else math.nan
    settings: dict[str, Any] = {}
    if isinstance(state.get("train_batch_size"), int):
        settings["train_batch_size"] = state["train_batch_size"]
    folders = [path.parent, *([path.parent.parent] if _CHECKPOINT.fullmatch(path.parent.name) else [])]
    for folder in reversed(folders):
        settings |= _beside(folder)
    settings |= dict(flat(state.get("trial_params") or {}))  # of `Trainer.hyperparameter_search`
    rates = [rate for entry in logged if (rate := number(entry.get("learning_rate"))) is not None]
    if rates and "learning_rate" not in knobs_of(settings, ["learning_rate"]):
        settings["learning_rate"] = max(rates)  # the peak of a schedule, as far as it was logged
    return Result(settings, scores)


def _state(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"search.past: {path} cannot be read: {error.strerror}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("log_history"), list):
        raise ConfigError(f"search.past: {path} is no trainer_state.json of transformers (no log_history)")
    return content


def _beside(folder: Path) -> dict[str, Any]:
    """Settings in a folder, from what is text: the pickled `training_args.bin` is not opened."""
    found: dict[str, Any] = {}
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8", errors="replace")
        found |= {name: float(value) for name, value in _CARD_LINE.findall(text) if number(value) is not None}
    for name in _SETTINGS:
        for path in (folder / f"{name}.yaml", folder / f"{name}.yml", folder / f"{name}.json"):
            if path.is_file():
                found |= _mapping(path)
    return found


def _mapping(path: Path) -> dict[str, Any]:
    """Settings of a JSON or YAML file, flat; none where it holds something else."""
    try:
        content = parse(read_text(path))[0] if path.suffix != ".json" else json.loads(path.read_text("utf-8"))
    except (YamlError, OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return dict(flat(content))


def _steps(path: Path) -> float:
    return number(_state(path).get("global_step")) or 0.0
