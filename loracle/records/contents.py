"""What a run is made of: names for people, and hashes short enough for a record, 32 digits of sha256.

The names are what a message says: "changed since this run began: validation rows".
"""

from __future__ import annotations

import hashlib
from pathlib import Path

# Contents that say something in words beside a hash, and one that was not recorded from the beginning.
PRECISION, READING = "precision of the base model", "device and precision of the prompts' model"
MODEL_SETTINGS = "settings of the base model"
# What the search knew before the first trial, and how much of the training data a trial sees.
PRIOR, PARAMETERS, PART = "prior", "parameters of the base model", "training examples of a trial"


def checksum(path: Path) -> str:
    """sha256 of a file's bytes, all 64 digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """Of a file's bytes. Raises OSError."""
    return checksum(path)[:32]


def text_hash(text: str) -> str:
    """Of a text; half of a character counts as it is."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
