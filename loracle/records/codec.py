"""Records as plain JSON data and back: one form for the journal, files of trials, the sockets of workers and
`--json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter

Record = TypeVar("Record")


def to_plain(record: Any) -> Any:
    """A record as JSON knows it: mappings, lists, texts, numbers (NaN and infinity too), null."""
    return _adapter(type(record)).dump_python(record, mode="json")


def from_plain(kind: type[Record], content: Any) -> Record:
    """The record of `kind` that `to_plain` gave; what else stands in `content` is left out.

    Raises:
        ValueError: it is none. Nothing is taken for what it is not: no text for a number, no truth value.
    """
    try:
        # Half of a character, as broken programs print it, has no place in JSON.
        text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not plain data: {error}") from None
    found: Record = _adapter(kind).validate_json(text, strict=True)
    return found


def json_text(content: Any, indent: int | None = 2) -> str:
    """JSON text with a newline at its end."""
    return json.dumps(content, indent=indent, ensure_ascii=False) + "\n"


def finite(content: Any) -> Any:
    """Plain data with null in the place of what JSON has no number for: NaN and infinity."""
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _made:  # making one takes milliseconds
        _made[kind] = TypeAdapter(kind)
    return _made[kind]


_made: dict[Any, TypeAdapter[Any]] = {}
