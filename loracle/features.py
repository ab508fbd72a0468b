"""What the language model makes of every candidate of a space: one row of numbers a candidate.

Frozen features are encoded once and kept on disk. With a learnable token the rows are functions of its
embedding, which the surrogate fits together with its own parameters.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from loracle.errors import ModelError
from loracle.language import LanguageModel, refuse_long
from loracle.prompt import Prompt
from loracle.space import SearchSpace

Progress = Callable[[int, int], None]  # candidates done, candidates in all

_VERSION = 1  # of this file's arithmetic: raise it when features change
_BLOCK = 1024  # texts between two reports of progress


class Features(Protocol):
    """Language features of a space's candidates; row i belongs to `space.candidates[i]`.

    Attributes:
        dimension: numbers in a row, d.
        token: (e,) start value of the learnable token's embedding; None: the features are frozen.
    """

    dimension: int
    token: Tensor | None

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        """Rows (n, d), float32, of the candidates at `positions` (n,); differentiable in `token` (e,)."""
        ...

    def all(self, token: Tensor | None) -> Tensor:
        """Rows (N, d), float32, of all candidates, without gradient."""
        ...


class FixedFeatures:
    """Features that are known: encoded before, or made up for a test."""

    token: Tensor | None = None

    def __init__(self, matrix: Tensor):
        """`matrix` is (N, d)."""
        self.matrix = matrix
        self.dimension = int(matrix.shape[1])

    def rows(self, positions: Tensor, token: Tensor | None = None) -> Tensor:
        return self.matrix[positions]

    def all(self, token: Tensor | None = None) -> Tensor:
        return self.matrix


class EncodedFeatures:
    """Features with a learnable token by the plain path: one forward for every text, every time."""

    def __init__(self, texts: Sequence[str], model: LanguageModel, progress: Progress | None = None):
        self.texts, self.model, self.progress = texts, model, progress
        self.dimension = model.dimension
        self.token = model.token

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        return self.model.encode([self.texts[int(position)] for position in positions], token)

    def all(self, token: Tensor | None) -> Tensor:
        with torch.no_grad():
            return encode_plainly(self.texts, self.model, token, self.progress)


def build_features(
    space: SearchSpace,
    prompt: Prompt,
    model: LanguageModel,
    *,
    learnable_token: bool,
    cache_dir: Path | None,
    progress: Progress | None = None,
) -> Features:
    """Language features of all candidates of `space`.

    Args:
        space: whose candidates are read.
        prompt: how a config is written.
        model: who reads.
        learnable_token: append a token whose embedding the surrogate fits; otherwise features are frozen.
        cache_dir: folder where frozen features are kept between runs; None keeps nothing.
        progress: called with the numbers of candidates done and in all.

    Raises:
        PromptError: a text is longer than the model reads; the message names the config.
        ModelError: a learnable token with a model that cannot have one.
    """
    if learnable_token and model.token is None:
        raise ModelError(f"{model.name} cannot have a learnable token; set language.learnable_token: false")
    configs = [space.config(int(index)) for index in space.candidates]
    texts = [prompt.text(config) for config in configs]
    extra = 1 if learnable_token else 0
    for start in range(0, len(texts), _BLOCK):
        ids, block = model.token_ids(texts[start : start + _BLOCK]), configs[start : start + _BLOCK]
        refuse_long(ids, model.limit, extra, model.name, [str(config) for config in block])
    if learnable_token:
        return EncodedFeatures(texts, model, progress)
    if cache_dir is None:
        return FixedFeatures(encode_plainly(texts, model, None, progress))
    path = cache_dir / f"{_cache_key(space, prompt, model)}.safetensors"
    matrix = read_matrix(path, (len(texts), model.dimension))
    if matrix is None:
        matrix = encode_plainly(texts, model, None, progress)
        write_matrix(path, matrix)
    return FixedFeatures(matrix)


def encode_plainly(
    texts: Sequence[str], model: LanguageModel, token: Tensor | None, progress: Progress | None
) -> Tensor:
    """Features (N, d) by one forward for every text."""
    parts = []
    for start in range(0, len(texts), _BLOCK):
        parts.append(model.encode(texts[start : start + _BLOCK], token))
        if progress is not None:
            progress(min(start + _BLOCK, len(texts)), len(texts))
    return torch.cat(parts)


# -- disk cache ---------------------------------------------------------------------------------------


def _cache_key(space: SearchSpace, prompt: Prompt, model: LanguageModel) -> str:
    parts = (f"features {_VERSION}", space.fingerprint, prompt.fingerprint, model.fingerprint)
    return hashlib.sha256("; ".join(parts).encode()).hexdigest()[:32]


def read_matrix(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """A stored matrix; None where there is none, or where the file is damaged, which then is removed."""
    try:
        with safe_open(path, framework="pt") as file:
            stored: Tensor = file.get_tensor("features")
            digest = (file.metadata() or {}).get("sha256")
        if stored.shape == shape and stored.dtype == torch.float32 and digest == _digest(stored):
            os.utime(path)  # the least recently used go first
            return stored
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError):
        pass  # damaged: computed and written again, as if it had never been there
    path.unlink(missing_ok=True)
    return None


def write_matrix(path: Path, matrix: Tensor) -> None:
    """Stores a matrix so that a reader sees the whole file or none, whoever else writes the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(handle)
    try:
        save_file({"features": matrix.contiguous()}, temporary, metadata={"sha256": _digest(matrix)})
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _digest(matrix: Tensor) -> str:
    return hashlib.sha256(matrix.contiguous().numpy().data).hexdigest()
