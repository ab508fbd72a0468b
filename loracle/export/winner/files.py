"""Files that dialects write: with a head that says what they are, and the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.config.yaml_file import dump
from loracle.export.winner.reading import Winner
from loracle.text.comments import comment_head

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example

ROWS = "train.jsonl"
TEMPLATE = "chat_template.jinja"


def header(winner: Winner, what: str, notes: Sequence[str]) -> str:
    """Comments for the head of a file: what it is, of what, how the batch is split, and what it cannot say.

    Args:
        what: how it is used, in a sentence.
        notes: what the dialect cannot say, or does otherwise.
    """
    trained = winner.trained
    said = [
        f"{what} Exported by Loracle {winner.recipe['loracle']} from {winner.output.name}/best.",
        f"Batch: {winner.split}. Steps: {trained['steps']} over {trained['examples']} rows.",
        f"Loss: {trained['loss']}.",
        f"Seed: {winner.training['seed']}.",
    ]
    return comment_head(said, "What this file cannot say, or its trainer does otherwise:", notes)


def yaml_text(head: str, content: Mapping[str, Any]) -> str:
    """YAML below a head."""
    return head + dump(dict(content))


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes files of settings by name."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def template_text(winner: Winner, rows: Sequence[Example]) -> dict[str, str]:
    """The chat template by file name, where the run gave its model one (data.template) and rows are chats."""
    if winner.config.data.template is None or rows[0].form != "messages":
        return {}
    return {TEMPLATE: (winner.adapter / TEMPLATE).read_text(encoding="utf-8")}


def write_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `train.jsonl`, JSON Lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / ROWS).write_text(text, encoding="utf-8")


def python_literal(content: Mapping[str, Any], indent: str = "    ") -> str:
    """Keyword arguments, one a line."""
    return "".join(f"{indent}{name}={value!r},\n" for name, value in content.items())
