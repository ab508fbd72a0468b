"""What a run is made of: names for people, and hashes short enough for a record, 32 digits of sha256.

The names are what a message says: "changed since this run began: validation rows".
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from loracle.errors import StudyError

WEIGHTS = "weights of the base model"
# Contents that say something in words beside a hash, and one that was not recorded from the beginning.
PRECISION, READING = "precision of the base model", "device and precision of the prompts' model"
MODEL_SETTINGS = "settings of the base model"
# Where a chat template writes more around answers than white space; nothing elsewhere.
ANSWERS = "what counts as an answer (now without what the chat template writes around it)"
# What the search knew before the first trial, and how much of the training data a trial sees.
PRIOR, PARAMETERS, PART = "prior", "parameters of the base model", "training examples of a trial"

# What a function of the user's own imports from its folder; the name of the file follows.
MODULE = "module "

_FRESH = 2_000_000_000  # nanoseconds in which a file may change twice and show one time
# What contents say in words, and the hashes that follow from it.
_IN_WORDS = {PRECISION: WEIGHTS, READING: "model that reads the prompts"}
_RECORDED_LATER = {*_IN_WORDS, MODEL_SETTINGS}  # runs that were begun before have none


@dataclass(frozen=True)
class Contents:
    """What an objective has read, or will read for its next training.

    Attributes:
        fingerprint: of all of it: as long as it is the same, so are all hashes, and it is made sooner.
        hashes: gives the hash of each part, by its name for people.
    """

    fingerprint: str
    hashes: Callable[[], Mapping[str, str]]

    def require(self, began: Beginning | None) -> None:
        """Holds this against what its run began with; None: nobody knows.

        What the run did not begin with, such as a file that is named in a command and that a trial made, is
        no part of it.

        Raises:
            StudyError: something changed; the message names all that did.
        """
        if began is not None and self.fingerprint != began.fingerprint:
            now = {name: found for name, found in self.hashes().items() if name in began.contents}
            require_same_contents(began.run, began.contents, now)


@dataclass(frozen=True)
class Beginning:
    """What a run began with, which every process that trains for it is held against.

    Attributes:
        run: its folder.
        contents: hashes by their names for people.
        fingerprint: of all of them, see `Contents`.
    """

    run: str
    contents: Mapping[str, str]
    fingerprint: str


def checksum(path: Path) -> str:
    """sha256 of a file's bytes, all 64 digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """Of a file's bytes, which are read again only where its size, times or place on the disk have changed.
    Raises OSError."""
    found = path.stat()
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _FRESH:
        return checksum(path)[:32]
    return _file_hash(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=256)
def _file_hash(path: Path, state: tuple[int, ...]) -> str:
    return checksum(path)[:32]


def text_hash(text: str) -> str:
    """Of a text; half of a character counts as it is."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def require_same_contents(where: str, known: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Holds the contents of a run against those of its beginning.

    Raises:
        StudyError: something changed; the message names all that did.
    """
    names = [name for name in dict.fromkeys((*now, *known)) if name in known or not _is_recorded_later(name)]
    changed = [name for name in names if known.get(name) != now.get(name)]
    said = [name for name in changed if name in _IN_WORDS and name in now]
    if said:
        what = "; ".join(f"{name}: {known[name]}, now {now[name]}" for name in said)
        more = set(changed) - {*said, *(_IN_WORDS[name] for name in said)}
        also = f"; changed, too: {', '.join(sorted(more))}" if more else ""
        raise StudyError(
            f"{where}: this run began with another {what}{also}; its trials would not compare. Set dtype and "
            "device as they were, or use another output"
        )
    if changed == ["beliefs"]:
        raise StudyError(
            f"{where}: changed since this run began: beliefs, by which its trials were chosen. Give those "
            "that it began with, or use another folder"
        )
    if changed:
        raise StudyError(
            f"{where}: changed since this run began: {', '.join(changed)}; its trials and test scores are of "
            "what was there before and would not compare. Undo the change or use another output folder"
        )


def _is_recorded_later(name: str) -> bool:
    """Whether runs that were begun with earlier versions may have no such contents."""
    return name in _RECORDED_LATER or name.startswith(MODULE)
