"""Rows of a guard: as a split has them, or plain text in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from loracle.config.data.settings import DataConfig
from loracle.config.metrics.guard import GuardConfig
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.training.dataset.files import read_examples
from loracle.training.dataset.files.encoding import OR_NAMED, encoding_of
from loracle.training.dataset.files.places import format_of
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokenizer import Reading

_PIECE = 800  # characters, at most: some two hundred tokens
_LEAST = 20  # characters
_SAMPLE = 20_000  # characters, by which their number in a token is reckoned
_SUFFIXES = (".txt", ".md", "")
# Notices of how a file was read; how rows are laid out is the guard's own matter.
_OF_FILES = ("encoding_guessed", "separator_named", "quotation_marks", "line_breaks_in_cells")


def guard_rows(
    name: str, guard: GuardConfig, data: DataConfig, texts: Reading, told: list[Notice]
) -> tuple[Example, ...]:
    """The rows that a guard watches. A text file is read in pieces of whole lines, of at most 800 characters
    and of no more tokens than an example may have. `told` gets what a user must see of how files were read.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    source = guard.data
    if isinstance(source, Path) and source.suffix.lower() in _SUFFIXES and source.is_file():
        found = tuple(_pieces(_text(source, data), source, texts, data))
        if not found:
            raise DataError(f"guard.{name}: {source} holds no text")
        return found
    if isinstance(source, Path) and source.is_file() and format_of(source) is None:
        raise DataError(f"guard.{name}: {source}: a suffix {source.suffix!r} tells no format")
    settings = DataConfig(
        train=Path(), max_length=data.max_length, template=data.template, quoting=data.quoting
    )
    of_files: list[Notice] = []
    try:
        examples = read_examples(source, settings, "guard", of_files)
    except DataError as error:
        said = str(error).removeprefix("data.guard: ").removesuffix(OR_NAMED)  # which holds for texts alone
        raise DataError(f"guard.{name}: {said}") from None
    told += [replace(one, text=f"guard {name}: {one.text}") for one in of_files if one.name in _OF_FILES]
    return examples


def _text(path: Path, data: DataConfig) -> str:
    try:
        return path.read_text(encoding=encoding_of(path, data.encoding)[0])
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"guard: {path}: cannot be read: {error}") from None


def _pieces(text: str, path: Path, texts: Reading, data: DataConfig) -> Iterator[Example]:
    sample = text[:_SAMPLE]
    in_a_token = len(sample) / max(1, len(texts.tokenizer(sample)["input_ids"]))
    most = max(_LEAST, min(_PIECE, int(0.7 * in_a_token * texts.longest(data))))
    piece, began = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        for part in re.findall(f".{{1,{most}}}", line):
            if piece and len(piece) + len(part) >= most:
                yield Example(f"{path}:{began}", text=piece)
                piece, began = "", number
            piece = f"{piece}\n{part}" if piece else part
        if not line.strip() and len(piece) >= most // 2:  # the end of a paragraph
            yield Example(f"{path}:{began}", text=piece)
            piece, began = "", number + 1
    if piece.strip():
        yield Example(f"{path}:{began}", text=piece)
