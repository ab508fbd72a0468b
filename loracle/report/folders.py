"""Where the files of a training are in a run's folder."""

from __future__ import annotations

from pathlib import Path


def trial_folder(output: Path, number: int) -> Path:
    """Of a trial."""
    return output / "trials" / f"{number:04d}"


def replicate_folder(output: Path, number: int, seed: int) -> Path:
    """Of a training of that trial's config with another seed."""
    return output / "replicates" / f"{number:04d}-{seed}"


def final_folder(output: Path, name: str) -> Path:
    """Of a final training; `name` is `winner` or `standard`."""
    return output / "final" / name


def final_adapter(output: Path, name: str) -> Path:
    """Where a final training leaves its adapter and the tokenizer."""
    return final_folder(output, name) / "adapter"
