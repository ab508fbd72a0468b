"""Checksums of a model's weights: any changed bit changes them; and of its tokenizer and settings.

Those of weights are computed on the device in whole-number arithmetic, so they are exact and independent of
order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from loracle.records.contents import text_hash

# Words summed at once. On a CPU what fits into its cache takes half the time.
_CHUNK = {"cpu": 1 << 15}
_LARGE_CHUNK = 1 << 22
_STEP = 2 * 0x9E3779B97F4A7  # between the weights of neighbouring words
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
# Names and places, what follows from `dtype`, and what no training uses.
_NO_SETTINGS = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "use_cache"}
)


def weights_fingerprint(
    model: torch.nn.Module, before: Callable[[torch.Tensor], object] | None = None
) -> str:
    """Checksum of the bits of all parameters and buffers, by name, element by element: what a run records.

    `before` is called with each of them before it is read.
    """
    return _digest(_named(model), before, wide=False)


def weights_checksum(model: torch.nn.Module) -> str:
    """The same eight bytes at a time, in a third of the time: what is compared after every training."""
    return tensors_checksum(_named(model))


def tensors_checksum(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The same of any tensors with their names."""
    return _digest(tensors, None, wide=True)


def _named(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _digest(
    tensors: Iterable[tuple[str, torch.Tensor]],
    before: Callable[[torch.Tensor], object] | None,
    *,
    wide: bool,
) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        if before is not None:
            before(tensor)
        total = _checksum(tensor, wide)
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:{total};".encode())
    return digest.hexdigest()[:32]


def _checksum(tensor: torch.Tensor, wide: bool) -> int:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.detach().contiguous().view(-1)
    bits = flat.view(torch.int8 if flat.dtype == torch.bool else _INTEGERS[flat.element_size()])
    parts = [bits]
    if wide and bits.element_size() < 8:
        each = 8 // bits.element_size()
        if bits.storage_offset() % each:
            bits = bits.clone()  # a view of wider words has to begin at one
        whole = len(bits) // each * each
        parts = [bits[:whole].view(torch.int64), bits[whole:]]
    return sum(_weighted_sum(part) for part in parts)


def _weighted_sum(bits: torch.Tensor) -> int:
    """Sum of the words, each times 1 + its position x `_STEP`, modulo 2**64. These weights are odd, so a
    change of one word always changes the sum."""
    size = min(len(bits), _CHUNK.get(bits.device.type, _LARGE_CHUNK))
    weights = torch.arange(size, device=bits.device) * _STEP + 1
    product = torch.empty_like(weights)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), size or 1):
        words = bits[start : start + size].to(torch.int64)
        part = slice(len(words))
        total += torch.mul(words, weights[part], out=product[part]).sum()
        weights += _signed(size * _STEP)
    return int(total)


def _signed(number: int) -> int:
    """The number modulo 2**64, as 64 bits with a sign have it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


# -- tokenizer and settings ---------------------------------------------------------------------------


def tokenizer_contents(tokenizer: Any) -> dict[str, str]:
    """Hashes by name, of a tokenizer and its chat template, for a record: the same in all versions."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # How the last call padded and cut is state, not content.
        parts = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
        text = json.dumps(parts, sort_keys=True)
    else:
        text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return _of_tokenizer(tokenizer, text)


def tokenizer_checksums(tokenizer: Any) -> dict[str, str]:
    """The same in a sixth of the time, for processes of one run: as the tokenizer is now, which changes with
    how it was called last."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return tokenizer_contents(tokenizer) if backend is None else _of_tokenizer(tokenizer, backend.to_str())


def settings_hash(content: Any) -> str:
    """Of a model's settings as they stand in their file: what transformers adds differs between versions."""
    return text_hash(json.dumps(_settings(content), sort_keys=True, default=str))


def _of_tokenizer(tokenizer: Any, text: str) -> dict[str, str]:
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    template = json.dumps(getattr(tokenizer, "chat_template", None), sort_keys=True, default=str)
    return {"tokenizer": text_hash(f"{text}\n{special}"), "chat template": text_hash(template)}


def _settings(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _settings(value) for key, value in content.items() if key not in _NO_SETTINGS}
    return content
