"""Where rows come from: a file, a folder or a glob; several of them; or a dataset of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationError

from loracle.config.section import Section


class HubDataset(Section):
    """A dataset of the hub, read with `datasets`."""

    hub: str  # owner/name, or a name alone
    config: str | None = None
    split: str | None = None  # as `datasets` takes it, such as train[:1000]; None: that of the role
    revision: str | None = None

    def __str__(self) -> str:
        """The dataset for people."""
        parts = (self.hub, self.config, self.split and f"split {self.split}")
        return ", ".join(part for part in parts if part)


def _parsed(value: Any) -> Path | tuple[Path, ...] | HubDataset:
    if isinstance(value, Path | HubDataset):
        return value
    if isinstance(value, str) and "\0" not in value:
        return Path(value)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(one, str | Path) and "\0" not in str(one) for one in value):
            return tuple(map(Path, value))
        raise ValueError("input should be paths alone, where it is a list")
    if isinstance(value, Mapping):
        try:
            return HubDataset.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            known = ", ".join(HubDataset.model_fields)
            raise ValueError(
                f"a dataset of the hub is a mapping with hub and, if need be, config, split, revision; "
                f"{place}: {first['msg'].lower()} (known keys: {known})"
            ) from None
    raise ValueError("input is the path of a file, a folder or a glob, a list of them, or {hub: owner/name}")


Source = Annotated[Path | tuple[Path, ...] | HubDataset, PlainValidator(_parsed)]


def resolved(source: Path | tuple[Path, ...] | HubDataset, folder: Path) -> Source:
    """The same, with paths that are seen from `folder` made absolute."""
    if isinstance(source, tuple):
        return tuple((folder / path).resolve() for path in source)
    return (folder / source).resolve() if isinstance(source, Path) else source


def described(source: Path | tuple[Path, ...] | HubDataset) -> str:
    """A source in words; of paths, the whole."""
    return ", ".join(map(str, source)) if isinstance(source, tuple) else str(source)


def short_name(source: Path | tuple[Path, ...] | HubDataset) -> str:
    """What a source is called: the names of its files, or the id of a dataset."""
    if isinstance(source, HubDataset):
        return source.hub
    return ", ".join(path.name for path in source) if isinstance(source, tuple) else source.name
