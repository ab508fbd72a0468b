"""Configs in new files: the one that `loracle init` writes. Paths in a config are seen from its
folder, those of a command line from the current one."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

from loracle.config.yaml_file import YamlError, parse
from loracle.errors import ConfigError

_BESIDE = "train.jsonl"  # the training data, where none are named: beside the config


def write_config(path: Path, model: str, train: str | None) -> list[str]:
    """Writes a commented config into a new file; folders are made where there are none.

    Args:
        path: of the file.
        model: hub id, or folder seen from the current one.
        train: file seen from the current folder; None: `train.jsonl` beside the config.

    Returns:
        What is named and not there yet.

    Raises:
        ConfigError: the file is there, or cannot be written, or a name cannot stand in a config.
    """
    folder = path.parent
    is_folder = Path(model).is_dir() or model.startswith((".", os.sep))
    names = {
        "model": _seen_from(folder, model) if is_folder else model,
        "train": _BESIDE if train is None else _seen_from(folder, train),
    }
    text = files("loracle.config").joinpath("template.yaml").read_text(encoding="utf-8")
    for key, name in names.items():
        text = text.replace(f"{{{{{key}}}}}", json.dumps(name, ensure_ascii=False))
    try:
        parse(text)
    except YamlError as error:
        raise ConfigError(f"{path} would not be readable: {error}") from None
    write_new(path, text)
    needed = [names["train"], names["model"]] if is_folder else [names["train"]]
    return [str(folder / name) for name in needed if not (folder / name).exists()]


def write_new(path: Path, text: str) -> None:
    """Writes a file that is not there yet, with the folders above it. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        taken = path if path.exists() else path.parent
        raise ConfigError(f"{taken} exists already; name another file or remove it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _seen_from(folder: Path, name: str) -> str:
    """A path seen from the current folder, as it is seen from another.

    One that is there in the other folder alone is taken for what was meant.
    """
    if os.path.isabs(name) or (not os.path.exists(name) and os.path.exists(folder / name)):
        return name
    place, last = os.path.split(os.path.normpath(name))
    # Links in either folder are followed: `..` goes up from where they lead.
    return os.path.join(
        os.path.relpath(os.path.realpath(place), os.path.realpath(folder)), last
    ).removeprefix("./")
