"""What final trainings left in a run folder: used where it is whole, made again where anything is missing.

A training is whole when its outcome, its per-item results and its adapter can be read and are what was
written: `checksums.json` beside the outcome says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from loracle.config.settings import RunConfig
from loracle.records.codec import json_text
from loracle.records.space import Config
from loracle.records.trial import Outcome
from loracle.records.trial_files import read_items, read_outcome
from loracle.report.folders import final_adapter, final_folder
from loracle.text.files import write_atomically

_WEIGHTS, _SETTINGS, _ITEMS = "adapter_model.safetensors", "adapter_config.json", "items.jsonl"
_CHECKSUMS = "checksums.json"


def stored_result(config: RunConfig, name: str, knobs: Config) -> Outcome | None:
    """What the final training of `knobs` gave; None where it is to be made, or made again."""
    place = final_folder(config.output, name)
    outcome = read_outcome(place, knobs)
    if outcome is None and name == "winner":  # one that failed was moved aside for the next
        aside = [read_outcome(folder, knobs) for folder in sorted(place.parent.glob("failed-*"))]
        return next((found for found in aside if found is not None), None)
    if outcome is None or outcome.failure is not None or config.objective is not None:
        return outcome
    try:
        _read_all(config, name)
        noted = json.loads((place / _CHECKSUMS).read_text(encoding="utf-8"))
        return outcome if noted == _checksums(config, name) else None
    except FileNotFoundError as error:
        if Path(str(error.filename)).name != _CHECKSUMS:
            return None
        keep_result(config, name, outcome)  # an earlier version made none
        return outcome
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def keep_result(config: RunConfig, name: str, outcome: Outcome) -> None:
    """Notes what belongs to a final training that has just ended."""
    if config.objective is None and outcome.failure is None:
        path = final_folder(config.output, name) / _CHECKSUMS
        write_atomically(path, json_text(_checksums(config, name)))


def set_aside(config: RunConfig, knobs: Config) -> None:
    """Keeps the files of a winner whose final training failed, where the next one does not write."""
    source = final_folder(config.output, "winner")
    outcome = read_outcome(source, knobs)
    if outcome is None or outcome.failure is None:  # it was set aside before
        return
    number = 1
    while (target := source.with_name(f"failed-{number}")).exists():
        if read_outcome(target, knobs) is not None:
            shutil.rmtree(target)  # an earlier training of the same config
            break
        number += 1
    os.replace(source, target)


def _read_all(config: RunConfig, name: str) -> None:
    """Raises one of many exceptions where a file is missing or cannot be read."""
    if not all(isinstance(item, dict) for item in read_items(final_folder(config.output, name))):
        raise ValueError("not the results of items")
    adapter = final_adapter(config.output, name)
    json.loads((adapter / _SETTINGS).read_text(encoding="utf-8"))["peft_type"]
    with safe_open(adapter / _WEIGHTS, framework="np") as weights:
        weights.keys()


def _checksums(config: RunConfig, name: str) -> dict[str, str]:
    """sha256 of the files of a final training, by name."""
    folder, adapter = final_folder(config.output, name), final_adapter(config.output, name)
    found = {}
    tables = sorted(folder.glob("items*.jsonl"))
    for path in [
        *(tables or [folder / _ITEMS]),
        *(path for path in sorted(adapter.rglob("*")) if path.is_file()),
    ]:
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
