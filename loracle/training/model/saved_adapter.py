"""A trained adapter in its folder: written aside, read back with plain PEFT, and then put in place."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from loracle.errors import ModelError
from loracle.text.files import move_files
from loracle.training.model.adapter import reloaded, save_adapter
from loracle.training.model.base_model import Base, Batch, counted_logits
from loracle.training.model.batching import Tokens
from loracle.training.model.module_tree import ModuleTree

_LENGTHS = (16, 10)  # tokens of two sequences
# What a saved adapter does may differ from what was trained by this share of its effect.
_TOLERANCE = {torch.float32: 1e-2}
_COARSE = 0.2


class SavedAdapter:
    """An adapter on its way into `folder`, whose files are old or new, never half of one, and never unread.

    Made while the base has no adapter; `write` is called while it has the trained one, and `finish` when that
    is off again.
    """

    def __init__(self, base: Base, tokens: Tokens, folder: Path) -> None:
        self._folder = folder
        self._partial = folder.with_name(f"{folder.name}.partial")
        self._check = SavedCheck(base, tokens)

    def write(self, model: Any, start: Mapping[str, torch.Tensor], tokenizer: Any = None) -> None:
        """Writes the adapter aside, and the tokenizer with it. `start`: see `adapter_start`."""
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        save_adapter(model, start, self._partial)
        _readable(self._partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(self._partial))
        self._check.trained()

    def finish(self) -> None:
        """Reads it back as any user would, and puts it in place.

        Raises:
            ModelError: plain PEFT cannot read it, or it does something else; it is left aside.
        """
        self._check.saved(self._partial)
        move_files(self._partial, self._folder)


def _readable(folder: Path) -> None:
    """Gives weights the mode of a new file: safetensors writes them for their owner alone."""
    mode = (folder / "adapter_config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(stat.S_IMODE(mode))


class SavedCheck:
    """Compares a trained adapter with what plain PEFT reads back, by their logits on a few tokens.

    Made while the base has no adapter; `trained` is called while it has the trained one, and `saved` when
    that is off again.
    """

    def __init__(self, base: Base, tokens: Tokens) -> None:
        self._base = base
        self._batch = two_sequences(base, tokens)
        self._untrained = self._logits()
        self._trained: torch.Tensor | None = None

    def trained(self) -> None:
        """Takes down what the trained adapter does."""
        self._trained = self._logits()

    def saved(self, folder: Path) -> None:
        """Compares with the adapter in a folder.

        Raises:
            ModelError: PEFT cannot read it, or it does something else.
        """
        assert self._trained is not None
        with reloaded(self._base, folder):
            distance = (self._logits() - self._trained).abs().max()
        effect = (self._trained - self._untrained).abs().max()
        rounding = 1e-5 * self._untrained.abs().max()
        allowed = _TOLERANCE.get(self._base.dtype, _COARSE) * effect + rounding
        if not bool(distance <= allowed):
            raise ModelError(
                f"the adapter in {folder}, read back by PEFT, does not do what was trained: logits of "
                f"{self._base.name} differ by {float(distance):.2g}, and the adapter moves them by "
                f"{float(effect):.2g}"
            )

    def _logits(self) -> torch.Tensor:
        tree = ModuleTree(self._base.model)  # recurrent models keep states
        with torch.inference_mode():
            logits = counted_logits(self._base, self._batch)
        tree.restore()
        return logits


def two_sequences(base: Base, tokens: Tokens) -> Batch:
    """Two sequences of different lengths, every token but the first in the loss."""
    most = min(_LENGTHS[0], base.max_positions or _LENGTHS[0])
    lengths = (most, max(2, most * _LENGTHS[1] // _LENGTHS[0]))
    if base.reading != "padded":
        lengths = (most, most)
    stream = torch.tensor(tokens[: sum(lengths)], dtype=torch.long)
    stream = stream.repeat(-(-sum(lengths) // len(stream)))[: sum(lengths)]
    ids = torch.full((2, most), base.pad_id, dtype=torch.long)
    keep = torch.zeros((2, most), dtype=torch.bool)
    for row, part in enumerate((stream[: lengths[0]], stream[lengths[0] :])):
        ids[row, : len(part)] = part
        keep[row, 1 : len(part)] = True
    rows, columns = torch.nonzero(keep, as_tuple=True)
    parts = (ids[:, :-1], keep[:, 1:], ids[rows, columns], rows, columns)
    return Batch(*(part.to(base.device) for part in parts))
