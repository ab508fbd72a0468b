"""Files that say in comments what they are, and what they cannot say."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loracle.config.yaml_file import dump
from loracle.export.winner.reading import Winner
from loracle.text.escape import printable

_WIDTH = 100  # characters


def header(winner: Winner, what: str, notes: Sequence[str]) -> list[str]:
    """Lines for the head of a file: what it is, of what, how the batch is split, and what it cannot say.

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
    lines = [line for text in said for line in textwrap.wrap(printable(text), _WIDTH)]
    if notes:
        lines.append("What this file cannot say, or its trainer does otherwise:")
    for note in notes:
        lines += textwrap.wrap(
            printable(note), _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
    return lines


def write_yaml(path: Path, lines: Sequence[str], content: Mapping[str, Any]) -> None:
    """YAML below lines of comment."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    path.write_text(head + dump(dict(content)), encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON Lines."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def python_literal(content: Mapping[str, Any], indent: str = "    ") -> str:
    """Keyword arguments, one a line."""
    return "".join(f"{indent}{name}={value!r},\n" for name, value in content.items())
