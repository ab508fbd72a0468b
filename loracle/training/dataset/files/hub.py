"""Datasets of the hub, read with `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from loracle.config.data.sources import HubDataset
from loracle.errors import DataError
from loracle.training.hub import hub_silence

_ROWS_AT_ONCE = 1024


def read_hub(source: HubDataset, role: str, told: list[str]) -> Iterator[tuple[str, Any]]:
    """Rows of a dataset of the hub; `told` gets the names of splits that it has besides the one read.

    Raises:
        DataError: `datasets` is not installed, or cannot find or read it.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"data.{role}: {source} is a dataset of the hub, which needs a package more: "
            "pip install 'loracle[datasets]'"
        ) from None
    from loracle.training.dataset.files.tables import label_names, rows_of  # pyarrow, as datasets does

    datasets.disable_progress_bars()
    silence = None if Path(source.hub).is_dir() else hub_silence()
    try:
        with _cache_alone(datasets, silence is not None):
            table = _loaded(datasets, source, role, told, silence is None)
            labels = label_names(table.features.arrow_schema)
            start = 0
            for some in table.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
                yield from rows_of(some, str(source), labels, start)
                start += some.num_rows
    except DataError:
        raise
    except Exception as error:  # of any kind: the hub, its client, files of other people
        asked = f". The hub was not asked: {silence}" if silence else ""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"data.{role}: {source} cannot be read from the hub: {reason}{asked}") from None


def _loaded(datasets: Any, source: HubDataset, role: str, told: list[str], answers: bool) -> Any:
    """The rows of a split: the one that is named, else that of the role."""
    if source.split is None and answers:
        there = datasets.get_dataset_split_names(source.hub, source.config, revision=source.revision)
        if role not in there:
            raise DataError(
                f"data.{role}: {source} has no split {role!r}; name one of {', '.join(there)} as split"
            )
        told += [name for name in there if name != role]
    return datasets.load_dataset(
        source.hub, source.config, split=source.split or role, revision=source.revision
    )


@contextmanager
def _cache_alone(datasets: Any, chosen: bool) -> Iterator[None]:
    """Where it is `chosen`, `datasets` looks into its cache at once; it would ask for half a minute first."""
    settings: tuple[Any, ...] = (constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in settings]
    try:
        for module in settings if chosen else ():
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(settings, before, strict=True):
            module.HF_HUB_OFFLINE = value
