"""Where other trainers' rows come from, in our words: a file, or a dataset of the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loracle.export.incoming.kinds import Source
from loracle.text.escape import printable

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst")
_CONFIG = ("name", "dataset_config", "dataset_config_name", "subset")
# What is read of a dataset, or said of its rows elsewhere.
_READ = {
    "path",
    "dataset_name",
    "dataset_path",
    "data_files",
    "split",
    "revision",
    "type",
    "ds_type",
    *_CONFIG,
}
_ROWS = ("columns", "formatting", "tags")  # by which LLaMA-Factory reads rows


def listed(settings: Mapping[str, Any]) -> list[Any]:
    """What a file names as its datasets to train on, one after the other."""
    return items_of(settings.get("datasets") or settings.get("dataset") or settings.get("dataset_name"))


def items_of(given: Any) -> list[Any]:
    """Datasets one after the other: of a list, of one mapping, or of names between commas."""
    if isinstance(given, dict):
        given = [given]
    if not isinstance(given, list):
        return str(given).split(",") if given else []
    return [one for item in given for one in _one_a_file(item)]


def _one_a_file(item: Any) -> list[Any]:
    """A dataset of several files as one each; of the hub, it stays what it is."""
    files = item.get("data_files") if isinstance(item, dict) else None
    if not isinstance(files, list) or "/" in str(item.get("path") or ""):
        return [item]
    return [{**item, "data_files": file} for file in files]


def files_of(items: Sequence[Any], source: Source, output: Path) -> list[str] | None:
    """Paths of datasets as seen from the config's folder; None where one of them is no file here."""
    found = [_file(place_of(_registered(item, source)), source, output) for item in items]
    files = [path for path in found if path is not None]
    return files if len(files) == len(found) else None


def _file(place: str, source: Source, output: Path) -> str | None:
    found = next((p for p in (Path(place), source.path.parent / place) if p.is_file()), None)
    return None if found is None else os.path.relpath(found.resolve(), output.absolute().parent)


def train_source(item: Any, source: Source, output: Path, note: Callable[[str], None]) -> Any:
    """`data.train` for one of them: a path as seen from the config's folder, or a mapping with `hub`.

    Args:
        item: a mapping, or a name alone.
        source: the file that names it.
        output: of the config.
        note: is told what has to be looked at.
    """
    item = _registered(item, source)
    place = place_of(item)
    about = dict(item) if isinstance(item, dict) else {}
    if unread := [str(key) for key, value in about.items() if key not in _READ and value]:
        note(
            f"data: {printable(place, 60)}: {printable(', '.join(unread), 120)} of it: not read here; "
            "loracle data shows what rows become, and data.columns, data.shape and data.loss_on change it"
        )
    if (found := _file(place, source, output)) is not None:
        if "[" in str(split := about.get("split")):
            note(f"data: {printable(place, 60)}: split {split}: the whole file is read here")
        return found
    name = _hub_id(item, place, source)
    if name is None:
        hint = "" if "/" in place or place.endswith(_FILES) else f" (of the hub: {{hub: {place}}})"
        note(f"data.train: {place}: is no file here; put the file there or name yours{hint} (docs/data.md)")
        return place
    settings = source.settings
    config = next((about[key] for key in _CONFIG if about.get(key)), settings.get("dataset_config"))
    split = about.get("split") or settings.get("dataset_train_split")
    if about.get("data_files"):
        note(f"data_files: {printable(repr(about['data_files']), 60)}: all of {name} is read here")
    told = {"hub": name, "config": config, "split": split, "revision": about.get("revision")}
    note(f"data.train: {name} is read from the hub (pip install 'loracle[datasets]'); a folder needs ./")
    return {key: str(value) for key, value in told.items() if value}


def _registered(item: Any, source: Source) -> Any:
    """A dataset of LLaMA-Factory by what `dataset_info.json` says of its name, where that is there."""
    if not isinstance(item, str):
        return item
    folder = source.path.parent / str(source.settings.get("dataset_dir") or "data")
    for place in (folder, source.path.parent):
        try:
            about = json.loads((place / "dataset_info.json").read_text(encoding="utf-8"))[item.strip()]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if not isinstance(about, dict):
            continue
        rows = {key: about[key] for key in _ROWS if about.get(key)}
        if about.get("hf_hub_url"):
            own = {"path": about["hf_hub_url"], "name": about.get("subset"), "split": about.get("split")}
            return own | rows
        if about.get("file_name"):
            return {"path": str((place / str(about["file_name"])).resolve()), **rows}
    return item


def place_of(item: Any) -> str:
    """File or name of a dataset, as axolotl, TRL and oumi have it."""
    if not isinstance(item, dict):
        return str(item).strip()
    files = item.get("data_files") or item.get("dataset_path")
    first = files[0] if isinstance(files, list) and files else files
    return str(first or item.get("path") or item.get("dataset_name") or "train.jsonl")


def _hub_id(item: Any, place: str, source: Source) -> str | None:
    """The id of a dataset of the hub; None where a file or folder is meant."""
    name = str(item.get("path") or item.get("dataset_name") or "") if isinstance(item, dict) else place
    if not _HUB_ID.fullmatch(name) or name.endswith(_FILES):
        return None
    return None if (source.path.parent / name).exists() or Path(name).exists() else name
