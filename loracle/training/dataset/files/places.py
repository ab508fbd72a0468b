"""The files that a source stands for: one, a list, a glob, a folder."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loracle.errors import DataError
from loracle.training.dataset.files.encoding import COMPRESSED

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
# Words in names of files and folders by which `datasets` knows a split, too.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_ABOUT = re.compile(
    r"(readme|license|dataset_infos?|dataset_dict|state|\.)", re.IGNORECASE
)  # files beside data


@dataclass(frozen=True)
class Files:
    """What a source stands for: files to be read, and names of such as lie beside them and are not."""

    paths: tuple[Path, ...]
    unread: tuple[str, ...] = ()


def files_of(source: Path | Sequence[Path], role: str) -> Files:
    """The files of a source, in their order; `role` is the split that they are for.

    Raises:
        DataError: nothing is there, or one file twice, or a folder whose files are of several splits.
    """
    given = [source] if isinstance(source, Path) else list(source)
    found = [_files(path, role) for path in given]
    paths = [path for files in found for path in files.paths]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise DataError(f"data.{role}: {twice} is named twice; its rows would count twice")
    return Files(tuple(paths), tuple(name for files in found for name in files.unread))


def format_of(path: Path) -> str | None:
    """The format that a file's suffix says, behind that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def _files(path: Path, role: str) -> Files:
    key = f"data.{role}"
    if path.is_file():
        return Files((path,))
    if path.is_dir():
        return _of_folder(path, role)
    if path.exists():
        raise DataError(f"{key}: {path} is not a file")
    if any(character in str(path) for character in "*?["):
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))
        files = [one for one in found if one.is_file()]
        if not files:
            raise DataError(f"{key}: no file matches {path}")
        return Files(tuple(files))
    parts = path.parts[-2:]
    is_id = len(parts) == 2 and not path.suffix
    hint = f"; for a dataset of the hub, write {{hub: {'/'.join(parts)}}}" if is_id else ""
    raise DataError(f"{key}: {path} does not exist{hint}")


def _of_folder(folder: Path, role: str) -> Files:
    if (folder / "dataset_dict.json").is_file() and (folder / role).is_dir():
        others = sorted(one.name for one in folder.iterdir() if one.is_dir() and one.name != role)
        parts = _saved_parts(folder / role)
        return Files(tuple(parts or ()), tuple(f"{folder.name}/{name}" for name in others))
    if (parts := _saved_parts(folder)) is not None:
        return Files(tuple(parts))
    every = [one for one in sorted(folder.rglob("*")) if one.is_file() and not _hidden(one, folder)]
    data = [one for one in every if format_of(one) and not _ABOUT.match(one.name)]
    if not data:
        raise DataError(f"data.{role}: the folder {folder} holds no files of {', '.join(SUFFIXES)}")
    splits = {one: _split_of(one.relative_to(folder)) for one in data}
    if not any(splits.values()):
        chosen = data
    elif nameless := [one.name for one, split in splits.items() if split is None]:
        raise DataError(
            f"data.{role}: files in {folder} have names of splits, but {nameless[0]} has none; name the "
            "files that are meant"
        )
    else:
        chosen = [one for one, split in splits.items() if split == role]
        if not chosen:
            there = ", ".join(sorted(one.name for one in data)[:5])
            raise DataError(f"data.{role}: no file in {folder} has the name of a {role} split: {there}")
    left = [one for one in every if one not in chosen and not _ABOUT.match(one.name)]
    return Files(tuple(chosen), tuple(str(one.relative_to(folder)) for one in left))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _split_of(path: Path) -> str | None:
    """The split whose word is in a file's name, or else in that of its folder."""
    for part in reversed(path.parts):
        words = set(re.split(r"[^a-z]+", part.lower()))
        found = [split for split, names in _SPLITS.items() if words.intersection(names)]
        if len(found) == 1:
            return found[0]
    return None


def _saved_parts(folder: Path) -> list[Path] | None:
    """Arrow files of a folder that `save_to_disk` wrote, in their order; None: it is no such folder.

    Raises:
        DataError: what it says of itself cannot be read, or it has splits, of which one is to be named.
    """
    splits, state = folder / "dataset_dict.json", folder / "state.json"
    try:
        if state.is_file():
            content = json.loads(state.read_text(encoding="utf-8"))
            return [folder / file["filename"] for file in content["_data_files"]]
        if splits.is_file():
            known = json.loads(splits.read_text(encoding="utf-8"))["splits"]
            some = ", ".join(str(folder / split) for split in known)
            raise DataError(f"{folder} holds a dataset of several splits; name one of {some}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"{folder}: not a folder that datasets saved: {reason}") from None
    return None
