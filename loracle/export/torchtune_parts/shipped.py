"""Rows and learning rate of this folder as components of torchtune 0.6: `config.yaml` names them.

The rows are tokens already, with -100 as the label of those that do not count in the loss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

IGNORED = -100


@dataclass(frozen=True)
class Padding:
    """In the place of a tokenizer, which rows of tokens need for two things alone.

    Attributes:
        pad_id: token behind the shorter rows of a batch; it counts in no loss.
        max_seq_len: tokens of the longest row.
    """

    pad_id: int
    max_seq_len: int


class Rows(Dataset[Any]):
    """So many rows, one pass over the file after the other, each in an order of its own.

    Args:
        tokenizer: see `Padding`.
        source: the file.
        count: rows to give: steps x effective batch.
        seed: of the orders.
        packed: whether its rows are blocks of several; each is filled up to the longest that may be.
    """

    def __init__(
        self, tokenizer: Padding, *, source: str, count: int, seed: int, packed: bool = False
    ) -> None:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        self._rows = [json.loads(line) for line in lines]
        self._tokenizer, self._packed = tokenizer, packed
        random, n = np.random.default_rng(seed), len(self._rows)
        self._order = np.concatenate([random.permutation(n) for _ in range(-(-count // n))])[:count]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[int(self._order[index])]
        return self._block(row) if self._packed else row

    def _block(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        missing = self._tokenizer.max_seq_len - len(row["tokens"])
        lengths = [*row["seq_lens"], *([missing] if missing else [])]
        return {
            "tokens": torch.tensor(row["tokens"] + [self._tokenizer.pad_id] * missing),
            "labels": torch.tensor(row["labels"] + [IGNORED] * missing),
            "input_pos": torch.cat([torch.arange(length) for length in lengths]),
            "seq_lens": torch.tensor(lengths),
        }


def schedule(
    optimizer: Any,
    *,
    num_training_steps: int,
    name: str,
    num_warmup_steps: int,
    arguments: dict[str, Any] | None = None,
    last_epoch: int = -1,
) -> Any:
    """A schedule of transformers by name; torchtune has none but the cosine."""
    from transformers import get_scheduler

    return get_scheduler(name, optimizer, num_warmup_steps, num_training_steps, arguments)
