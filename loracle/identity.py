"""Is this the same run: what has to stay the same for its trials to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loracle.config import RunConfig, parse_config
from loracle.errors import StudyError
from loracle.objective import Objective, TrainingObjective

# A run may be continued with other values of these; anything else would mix values that do not compare.
_MAY_CHANGE = (
    "output",
    "threads",
    "search.trials",
    "language.batch_size",
    "language.memory_gb",
    "training.micro_batch",
    "scoring.batch_size",
    "execution.",
    "objective.time_limit",
)
# Where things are on this machine; on another the same may be elsewhere.
_OF_A_MACHINE = {
    *("data.train", "data.validation", "data.test", "device"),
    *("language.model", "language.prompt", "objective.working_folder"),
}


def common_settings(config: RunConfig, objective: Objective) -> dict[str, Any]:
    """What has to be the same on all machines for their trials to compare: contents, not paths or secrets."""
    flat = _flat(config.model_dump(mode="json"))
    common = {
        key: value
        for key, value in flat.items()
        if key not in _OF_A_MACHINE and not key.startswith((*_MAY_CHANGE, "objective.environment."))
    }
    if isinstance(objective, TrainingObjective):
        common |= {"model": objective.base.fingerprint, "data": objective.data_fingerprint}
    return common


def require_same(config: RunConfig, path: Path) -> None:
    before = _flat(parse_config(path.read_text(encoding="utf-8"), str(path)).model_dump(mode="json"))
    now = _flat(config.model_dump(mode="json"))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
    ]
    if changed:
        key = changed[0]
        raise StudyError(
            f"{config.output}: this run began with {key}={before.get(key)!r}, now {now.get(key)!r}; "
            "its trials would not compare. Undo the change or use another output"
        )


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
