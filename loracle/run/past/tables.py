"""Tables of past runs, a row a run: CSV as W&B and MLflow export it, or any other with usual column names."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loracle.errors import ConfigError
from loracle.run.past.result import Result, Source, flat, mapping_in, number

_SEPARATORS = ",;\t"
_STATES = ("state", "status")
_OVER = {"finished", "complete", "completed", "done", "success", "succeeded", "3"}  # 3: MLflow's FINISHED
_LARGEST = 200 * 2**20  # bytes


def read_table(path: Path) -> Source:
    """A CSV file. A run that did not finish has its settings and no score.

    Raises:
        ConfigError: it cannot be read, or is no table.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"search.past: {path} has more than {_LARGEST >> 20} MB; export fewer columns")
        text = path.read_text(encoding="utf-8-sig")
        dialect = max(_SEPARATORS, key=text.partition("\n")[0].count)
        rows = list(csv.DictReader(text.splitlines(keepends=True), delimiter=dialect))
    except OSError as error:
        raise ConfigError(f"search.past: {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"search.past: {path} is no table of text: {error}") from None
    if not rows:
        raise ConfigError(f"search.past: {path} has no rows under a line of column names")
    return Source(str(path), [_result(row) for row in rows])


def _result(row: Mapping[str | None, Any]) -> Result:
    cells = dict(_cells({str(name): cell for name, cell in row.items() if name is not None}))
    states = [str(cell).lower() for name, cell in cells.items() if name.lower() in _STATES and cell]
    if any(state not in _OVER for state in states):
        return Result(cells, {})
    numbers = {name: value for name, cell in cells.items() if (value := number(cell)) is not None}
    return Result(
        cells, {name: value if math.isfinite(value) else math.nan for name, value in numbers.items()}
    )


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Cells by column; of one that holds a mapping, as `config` and `summary` of W&B's API, its parts."""
    for name, cell in row.items():
        inside = mapping_in(cell)
        if inside is None:
            yield name, cell
        else:
            yield from flat(inside, f"{name}.")
