"""Where the files of a training are in a run's folder."""

from __future__ import annotations

from pathlib import Path

from loracle.records.notices import Notice
from loracle.records.trial import History
from loracle.records.trial_files import OUTCOME


def trial_folder(output: Path, number: int) -> Path:
    """Of a trial."""
    return output / "trials" / f"{number:04d}"


def missing_files(output: Path, history: History, *, items: bool) -> tuple[Notice, ...]:
    """What cannot be shown any more, as files of trials that have ended are gone.

    `items`: whether each trial that succeeded left results of items.
    """
    gone = []
    for trial in history.counted:
        folder = trial_folder(output, trial.number)
        scored = trial.outcome is not None and trial.outcome.value is not None
        if not (folder / OUTCOME).exists() or (items and scored and not any(folder.glob("items*.jsonl"))):
            gone.append(folder.relative_to(output).as_posix())
    if not gone:
        return ()
    shown = ", ".join(gone[:3]) + (f" and {len(gone) - 3:,} more" if len(gone) > 3 else "")
    text = (
        f"files of {len(gone):,} trial{'s' if len(gone) > 1 else ''} are gone ({shown}): logs and results of "
        "items cannot be shown any more; scores are kept in the journal and count as before, and nothing is "
        "trained again for them"
    )
    return (Notice("result", "trial_files_missing", text, len(gone)),)


def replicate_folder(output: Path, number: int, seed: int) -> Path:
    """Of a training of that trial's config with another seed."""
    return output / "replicates" / f"{number:04d}-{seed}"


def final_folder(output: Path, name: str) -> Path:
    """Of a final training; `name` is `winner` or `standard`."""
    return output / "final" / name


def final_adapter(output: Path, name: str) -> Path:
    """Where a final training leaves its adapter and the tokenizer."""
    return final_folder(output, name) / "adapter"
