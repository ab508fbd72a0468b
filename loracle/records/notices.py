"""What a user must be told about input that was accepted: rows left out, overlaps, modules left frozen.

A notice is no error: the run goes on. `doctor`, `tune`, the report and `--json` show the same notices, each
as one line with its count. Whatever finds one (data, model, search, result) makes a `Notice`; the run gathers
them in one tuple, in the order data, model, search, result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loracle.records.codec import from_plain, to_plain

About = Literal["data", "model", "search", "result"]
ORDER: tuple[About, ...] = ("data", "model", "search", "result")
FILE = "notices.json"  # in the run folder


@dataclass(frozen=True)
class Notice:
    """One thing that a user must see.

    Attributes:
        about: which part of the run it concerns.
        name: stable, for programs: `rows_too_long`, `prompts_shared`, ...
        text: one sentence for people, with the count in it and what to do, without a full stop at its end.
            Text of foreign origin in it has been through `escape.printable`.
        count: how many rows, modules or trials it is about; None where nothing is counted.
    """

    about: About
    name: str
    text: str
    count: int | None = None


def gathered(*parts: Iterable[Notice]) -> tuple[Notice, ...]:
    """All notices, each once, in the order in which they are shown."""
    found = dict.fromkeys(notice for part in parts for notice in part)
    return tuple(sorted(found, key=lambda notice: ORDER.index(notice.about)))


def as_json(notices: Iterable[Notice]) -> list[dict[str, Any]]:
    """Notices as plain data for programs."""
    return [to_plain(notice) for notice in notices]


def read_notices(folder: Path) -> tuple[Notice, ...]:
    """What a run folder keeps of them; one that was begun before there were notices has none."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return gathered(from_plain(list[Notice], content))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):
        text = (
            f"{FILE} of this run cannot be read, so what it noted is not shown; loracle tune makes it again"
        )
        return (Notice("result", "notices_unreadable", text),)
