"""Settings of the data: where rows are, which shape they have, what is learnt of them, how they are split."""

from __future__ import annotations

import codecs
import difflib
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from loracle.config.data.sources import Source
from loracle.config.section import Count, Fraction, Section, Share

ShapeName = Literal[
    "prompt/completion",
    "messages",
    "text",
    "alpaca",
    "sharegpt",
    "question/answer",
    "prompt/response",
    "text/label",
]
LossOn = Literal["completion", "assistant", "all"]
Quoting = Literal["auto", "rfc4180", "none"]

# Fields that shapes read, which `columns` gives to columns of other names.
FIELDS = (
    *("prompt", "completion", "messages", "text", "instruction", "input", "output", "system", "history"),
    *("conversations", "question", "answer", "response", "label"),
    *("choices", "tools", "documents", "chat_template_kwargs"),
)


class DataConfig(Section):
    """Where the examples are, how they are read and split, and how large the proxy is."""

    train: Source
    validation: Source | None = None
    test: Source | None = None
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow"] = "auto"
    encoding: str | None = None  # of text files; None: UTF-8, else as detected
    separator: str | None = None  # of columns in CSV; None: as detected
    quoting: Quoting = "auto"  # quotation marks of CSV and TSV enclose cells, or are text, guards' included
    shape: ShapeName | None = None  # None: as the columns say
    columns: dict[str, str] | None = None  # ours: theirs
    as_chat: bool = False  # pairs of texts go through the chat template
    template: Path | None = None  # a chat template, where the model has none
    loss_on: LossOn | None = None  # None: completions of pairs, assistants of chats, all of texts
    packing: bool = False  # several examples share a row, none sees another, and batches have such rows
    validation_fraction: Share = 0.1
    test_fraction: Share = 0.1
    proxy: Fraction = 0.1
    proxy_minimum: Count = 200  # examples
    validation_limit: Count | None = 500  # examples scored in each trial
    # What a trial may cost at most, in full trainings: it has fewer examples than the three above say where
    # that is more. None: as they say.
    trial_cost: Fraction | None = None
    max_length: Count = 512  # tokens
    too_long: Literal["drop", "error"] = "drop"

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                b"".decode(codecs.lookup(value).name)
        except (LookupError, ValueError):
            raise ValueError("Python knows no encoding of this name; utf-8, cp1252, utf-16 ...") from None
        return value

    @field_validator("separator")
    @classmethod
    def _separator_is_one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value in '"\n\r\0'):
            raise ValueError("input should be one character, such as ';' or \"\\t\"")
        return value

    @field_validator("columns")
    @classmethod
    def _columns_are_ours_once(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for ours in value or {}:
            if ours not in FIELDS:
                close = difflib.get_close_matches(ours, FIELDS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"ours: {', '.join(FIELDS)}"
                raise ValueError(f"columns maps ours to theirs, and {ours!r} is none of ours; {hint}")
        named = list((value or {}).values())
        if twice := next((name for name in named if named.count(name) > 1), None):
            raise ValueError(f"the column {twice!r} is named twice; a column is read as one thing")
        return value

    @model_validator(mode="after")
    def _loss_fits_the_shape(self) -> DataConfig:
        chats = ("messages", "sharegpt")
        if self.shape == "text" and self.loss_on in ("completion", "assistant"):
            raise ValueError(f"loss_on: {self.loss_on}: rows of text are learnt whole; leave it out")
        if self.as_chat and self.shape in (*chats, "text"):
            what = "are chats already" if self.shape in chats else "have no prompt and completion"
            raise ValueError(f"as_chat: rows of {self.shape} {what}; leave it out")
        return self


NO_DATA = DataConfig(train=Path())  # of a run whose trainer has its own
