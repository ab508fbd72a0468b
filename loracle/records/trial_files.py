"""What is kept in a trial's folder: its outcome, what failed attempts before it gave, and per-item results.

`outcome.json` is written by the process that keeps the run's records, when a trial is over, so that both say
the same; all else is written by whoever trains.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from loracle.records.codec import from_plain, json_text, to_plain
from loracle.records.space import Config
from loracle.records.trial import Outcome
from loracle.text.files import write_atomically

OUTCOME = "outcome.json"
BASE_PLACE = "base_model_name_or_path"  # in `adapter_config.json`, where PEFT looks for the base model
CHECKSUMS = "checksums.json"  # of what a final training wrote, by the name of each file

# Files that Loracle writes into the folder of a trial of the user's own trainer.
_RESERVED = re.compile(
    r"((outcome|provenance|attempt-\d+)\.json(\.partial)?|log(-\d+)?\.txt|items-(own|guard-.*)\.jsonl)(/|$)"
)


def read_outcome(folder: Path, config: Config) -> Outcome | None:
    """What the training of `config` in `folder` gave; None where there is no finished one of it."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # not there or damaged: it is trained again
        content = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("config") == config:
            return from_plain(Outcome, content)
    return None


def stored_outcomes(folder: Path) -> list[Outcome]:
    """Outcomes of all finished trials whose folders are in `folder`; none where no folder can be."""
    found: list[Outcome] = []
    if not os.path.isdir(folder):  # False, too, for a name that no file can have
        return found
    for path in sorted(folder.glob(f"*/{OUTCOME}")):
        with contextlib.suppress(OSError, ValueError):  # damaged: it is trained again
            found.append(from_plain(Outcome, json.loads(path.read_text(encoding="utf-8"))))
    return found


def write_outcome(folder: Path, config: Config, outcome: Outcome) -> None:
    """Writes `outcome.json` into a trial's folder."""
    _write(folder / OUTCOME, config, outcome)


def write_attempt(folder: Path, attempt: int, config: Config, outcome: Outcome) -> None:
    """Keeps what a failed attempt gave, before the trial is tried again."""
    _write(folder / f"attempt-{attempt}.json", config, outcome)


def why_trained_alone(folder: Path) -> str:
    """Why a trial that was to train together with others trained alone: what its provenance says or, where
    all of them were given up, what the first attempt says; empty where nothing can be read of it."""
    for name, keys in (("provenance.json", ("alone",)), ("attempt-1.json", ("failure", "message"))):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in keys:
                found = found[key]
            return f"the group {found}" if name.startswith("attempt") else str(found)
    return ""


def is_reserved(path: str) -> bool:
    """Whether Loracle itself writes this file, or one below it, into a trial's folder."""
    return _RESERVED.match(path) is not None


def items_file(folder: Path, table: str = "") -> Path:
    """Where per-item results are: of the rows of the data or, by its name, of the documents of a task."""
    safe = re.sub(r"[^-.\w]", "_", table)
    return folder / (f"items-{safe}.jsonl" if table else "items.jsonl")


def read_items(folder: Path, table: str = "") -> list[dict[str, Any]]:
    """The per-item results of a finished training."""
    lines = items_file(folder, table).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def _write(path: Path, config: Config, outcome: Outcome) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json_text({"config": config, **to_plain(outcome)}))
