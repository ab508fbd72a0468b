"""What final trainings left in a run folder: used where it is whole, made again where anything is missing.

A training is whole when its outcome, its per-item results and its adapter can be read and are what was
written: `checksums.json` beside the outcome says so. What led and is not recommended is kept beside: in
`failed-1`, ... where it failed, in `broken-1`, ... where it broke a guard. What was trained to be chosen from
(`search.finalists`) is in `candidate-` and the number of its trial.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from loracle.config.settings import RunConfig
from loracle.records.codec import json_text
from loracle.records.contents import checksum
from loracle.records.space import Config
from loracle.records.trial import Outcome
from loracle.records.trial_files import CHECKSUMS, OUTCOME, read_items, read_outcome
from loracle.report.folders import final_adapter, final_folder
from loracle.text.files import write_atomically

_WEIGHTS, _SETTINGS, _ITEMS = "adapter_model.safetensors", "adapter_config.json", "items.jsonl"
CANDIDATE = "candidate-"


def stored_result(config: RunConfig, name: str, knobs: Config) -> Outcome | None:
    """What the final training of `knobs` gave; None where it is to be made, or made again."""
    found = _place_of(config, name, knobs)
    if found is None:
        return None
    place, outcome = found
    passed_over = place != name and not place.startswith(CANDIDATE)
    if outcome.failure is not None or passed_over or config.objective is not None:
        return outcome  # of what was passed over, nothing else is used
    name = place
    try:
        _read_all(config, name)
        noted = json.loads((final_folder(config.output, name) / CHECKSUMS).read_text(encoding="utf-8"))
        return outcome if noted == _checksums(config, name) else None
    except FileNotFoundError as error:
        if Path(str(error.filename)).name != CHECKSUMS:
            return None
        keep_result(config, name, outcome)  # an earlier version made none
        return outcome
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def keep_result(config: RunConfig, name: str, outcome: Outcome) -> None:
    """Notes what belongs to a final training that has just ended."""
    if config.objective is None and outcome.failure is None:
        path = final_folder(config.output, name) / CHECKSUMS
        write_atomically(path, json_text(_checksums(config, name)))


def set_aside(config: RunConfig, knobs: Config) -> None:
    """Keeps the files of a winner that is passed over where the next one does not write.

    Nothing happens where that was done before, or `final/winner` is of another config.
    """
    source = final_folder(config.output, "winner")
    outcome = read_outcome(source, knobs)
    if outcome is None or (outcome.failure is None and not outcome.broken):
        return
    kind, number = "broken" if outcome.failure is None else "failed", 1
    while (target := source.with_name(f"{kind}-{number}")).exists():
        if read_outcome(target, knobs) is not None:
            shutil.rmtree(target)  # an earlier training of the same config
            break
        number += 1
    os.replace(source, target)


def bring_back(config: RunConfig, knobs: Config) -> None:
    """Has `final/winner` hold the training of `knobs`, wherever that is; what is there is set aside."""
    found = _place_of(config, "winner", knobs)
    if found is None or found[0] == "winner":
        return
    target = final_folder(config.output, "winner")
    with contextlib.suppress(OSError, ValueError, KeyError):
        there = json.loads((target / OUTCOME).read_text(encoding="utf-8"))["config"]
        set_aside(config, there)
    shutil.rmtree(target, ignore_errors=True)  # half of a training that was cut off
    os.replace(final_folder(config.output, found[0]), target)


def is_candidate(config: RunConfig, knobs: Config) -> bool:
    """Whether the final training of `knobs` lies among those to choose from."""
    found = _place_of(config, "winner", knobs)
    return found is not None and found[0].startswith(CANDIDATE)


def back_to_candidates(config: RunConfig, knobs: Config, trial: int) -> None:
    """Makes room in `final/winner`, where it holds the training of `knobs`, for another one."""
    source = final_folder(config.output, "winner")
    if read_outcome(source, knobs) is not None:
        target = final_folder(config.output, f"{CANDIDATE}{trial:04d}")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(source, target)


def stand_for_standard(config: RunConfig, knobs: Config) -> None:
    """Has a training to choose from stand for that of the standard settings `knobs`, which it is, too."""
    found, target = _place_of(config, "winner", knobs), final_folder(config.output, "standard")
    if found is None or not found[0].startswith(CANDIDATE) or _place_of(config, "standard", knobs):
        return
    partial = target.with_name("standard.partial")
    for place in (partial, target):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(final_folder(config.output, found[0]), partial)
    os.replace(partial, target)


def _place_of(config: RunConfig, name: str, knobs: Config) -> tuple[str, Outcome] | None:
    """Where the final training of `knobs` is, as a name for `final_folder`, and what it gave."""
    places = [final_folder(config.output, name)]
    if name == "winner":  # what was passed over is beside it
        for kind in (CANDIDATE, "failed-", "broken-"):
            places += sorted(places[0].parent.glob(f"{kind}*"))
    for place in places:
        outcome = read_outcome(place, knobs)
        if outcome is not None:
            return place.name, outcome
    return None


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
        found[str(path.relative_to(folder))] = checksum(path)
    return found
