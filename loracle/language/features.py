"""What the language model makes of every candidate of a space: one row of numbers a candidate.

Frozen features are encoded once and kept on disk. With a learnable token the rows are functions of its
embedding, which the surrogate fits together with its own parameters.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import torch
from torch import Tensor

from loracle.errors import ModelError
from loracle.language.causal_reader import CausalReader
from loracle.language.feature_cache import read_matrix, write_matrix
from loracle.language.pretrained import refuse_long
from loracle.language.prompt import Prompt
from loracle.language.reader import LanguageModel
from loracle.language.token_trie import Trie, build_trie
from loracle.language.trie_forward import NotATree, TreeReader
from loracle.records.space import SearchSpace

Progress = Callable[[int, int], None]  # candidates done, candidates in all

_VERSION = 1  # of the arithmetic here and in `trie_forward.py`: raise it when features change
_BLOCK = 1024  # texts between two reports of progress
_SAMPLE = 4  # pairs of neighbours that show whether the tree is exact and how large rounding is
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}  # relative
_NOISE = 0.2  # rounding over a step of one knob, at most


class Features(Protocol):
    """Language features of a space's candidates; row i belongs to `space.candidates[i]`.

    Attributes:
        dimension: numbers in a row, d.
        token: (e,) start value of the learnable token's embedding; None: the features are frozen.
        shortlist: None where `all` is exact. Otherwise `all` gives the rows of the start token, whatever the
            token, and this many `rows` can be afforded after a fit.
    """

    dimension: int
    token: Tensor | None
    shortlist: int | None

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        """Rows (n, d), float32, of the candidates at `positions` (n,); differentiable in `token` (e,)."""
        ...

    def all(self, token: Tensor | None) -> Tensor:
        """Rows (N, d), float32, of all candidates, without gradient; see `shortlist`."""
        ...


class FixedFeatures:
    """Features that are known: encoded before, or made up for a test."""

    token: Tensor | None = None
    shortlist: int | None = None

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

    shortlist: int | None = None

    def __init__(self, texts: Sequence[str], model: LanguageModel, progress: Progress | None = None):
        self.texts, self.model, self.progress = texts, model, progress
        self.dimension = model.dimension
        self.token = model.token

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        return self.model.encode([self.texts[int(position)] for position in positions], token)

    def all(self, token: Tensor | None) -> Tensor:
        return encode_plainly(self.texts, self.model, token, self.progress)


class TreeFeatures:
    """Features with a learnable token by the token trie: those of the plain path, far cheaper."""

    shortlist: int | None = None

    def __init__(self, tree: TreeReader, progress: Progress | None = None):
        self.tree, self.progress = tree, progress
        self.dimension = tree.reader.dimension
        self.token = tree.reader.token

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        return self.tree.rows(positions.tolist(), token)

    def all(self, token: Tensor | None) -> Tensor:
        return self.tree.read(token, self.progress)


class ShortlistFeatures:
    """Features with a learnable token of a sentence encoder, exact where asked for by `rows`.

    An encoder reads every word in the light of every other, the token included, so nothing that was computed
    for one token serves another: all candidates are read once, with the start token.
    """

    shortlist: int | None = 256

    def __init__(self, texts: Sequence[str], model: LanguageModel, start: Tensor):
        """`start` is (N, d): rows with the start token, which are also those of no token in particular."""
        self.texts, self.model, self.start = texts, model, start
        self.dimension = model.dimension
        self.token = model.token

    def rows(self, positions: Tensor, token: Tensor | None) -> Tensor:
        if token is None:
            return self.start[positions]
        return self.model.encode([self.texts[position] for position in positions.tolist()], token)

    def all(self, token: Tensor | None) -> Tensor:
        return self.start


def build_features(
    space: SearchSpace,
    prompt: Prompt,
    model: LanguageModel,
    *,
    learnable_token: bool,
    cache_dir: Path | None,
    progress: Progress | None = None,
    memory_gb: float = 2.0,
    half_precision_cache: bool = False,
) -> Features:
    """Language features of all candidates of `space`.

    A decoder reads the texts as a token trie (`trie_forward.py`) once a sample of them has shown that this
    gives the features of one forward for each. Where it does not (positions by ALiBi, layers that do not
    attend), a warning says so and every text is read by itself. A sentence encoder always does the latter;
    with a learnable token it reads all candidates once, with the start token (`ShortlistFeatures`).

    Args:
        space: whose candidates are read.
        prompt: how a config is written.
        model: who reads.
        learnable_token: append a token whose embedding the surrogate fits; otherwise features are frozen.
        cache_dir: folder where features that never change are kept between runs; None keeps nothing.
        progress: called with the numbers of candidates done and in all.
        memory_gb: 10^9 bytes that reading may take beyond the model.
        half_precision_cache: keep keys and values of a float32 model in bfloat16.

    Raises:
        PromptError: a text is longer than the model reads; the message names the config.
        ModelError: a learnable token with a model that cannot have one, too small a memory, or a dtype whose
            rounding is not far below the distance between neighbouring configs.
    """
    if learnable_token and model.token is None:
        raise ModelError(f"{model.name} cannot have a learnable token; set language.learnable_token: false")
    texts = _Texts(space, prompt)
    token = model.token if learnable_token else None
    encoder = not isinstance(model, CausalReader)

    def finished(matrix: Tensor) -> Features:
        return FixedFeatures(matrix) if token is None else ShortlistFeatures(texts, model, matrix)

    path = None
    if cache_dir is not None and (encoder or not learnable_token):
        path = cache_dir / f"{_cache_key(space, prompt, model, token)}.safetensors"
        stored = read_matrix(path, (len(space.candidates), model.dimension))
        if stored is not None:
            return finished(torch.from_numpy(stored))

    read = _read_all(texts, model, token, progress, memory_gb * 1e9, half_precision_cache)
    if not isinstance(read, Tensor):
        return read
    if path is not None:
        write_matrix(path, read.numpy())
    return finished(read)


def _read_all(
    texts: _Texts,
    model: LanguageModel,
    token: Tensor | None,
    progress: Progress | None,
    memory_bytes: float,
    half_precision: bool,
) -> Tensor | Features:
    """Features (N, d) of all texts; of a decoder with a learnable token, what reads them whenever it moves.

    Raises:
        PromptError, ModelError: see `build_features`.
    """
    blocks = _checked_ids(texts, model, extra=0 if token is None else 1)
    sample = _neighbours(texts.space)
    tree: TreeReader | None = None
    if isinstance(model, CausalReader):
        trie = build_trie(row for block in blocks for row in block)
        tree = _read_as_tree(model, trie, texts, sample, token, memory_bytes, half_precision)
    else:
        for _ in blocks:
            pass

    def plainly(numbers: list[int]) -> Tensor:
        return model.encode([texts[number] for number in numbers], token)

    if tree is not None:
        _refuse_noise(model, sample, lambda numbers: tree.rows(numbers, token), plainly)
        return tree.read(None, progress) if token is None else TreeFeatures(tree, progress)
    _refuse_noise(model, sample, plainly)
    if token is not None and isinstance(model, CausalReader):
        return EncodedFeatures(texts, model, progress)
    return encode_plainly(texts, model, token, progress)


def encode_plainly(
    texts: Sequence[str], model: LanguageModel, token: Tensor | None, progress: Progress | None
) -> Tensor:
    """Features (N, d) by one forward for every text, without gradient."""
    parts = []
    for start in range(0, len(texts), _BLOCK):
        with torch.no_grad():
            parts.append(model.encode(texts[start : start + _BLOCK], token))
        if progress is not None:
            progress(min(start + _BLOCK, len(texts)), len(texts))
    return torch.cat(parts)


# -- texts --------------------------------------------------------------------------------------------


class _Texts(Sequence[str]):
    """The texts of all candidates, rendered when asked for: together they would take 100 MB."""

    def __init__(self, space: SearchSpace, prompt: Prompt):
        self.space, self.prompt = space, prompt

    def __len__(self) -> int:
        return len(self.space.candidates)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        return self.prompt.text(self.space.config(int(self.space.candidates[position])))


def _checked_ids(texts: _Texts, model: LanguageModel, extra: int) -> Iterator[list[list[int]]]:
    """Token ids of all texts, block by block; `extra` tokens more must fit. Raises PromptError."""
    for start in range(0, len(texts), _BLOCK):
        ids = model.token_ids(texts[start : start + _BLOCK])
        if model.limit is not None:
            row = max(range(len(ids)), key=lambda row: len(ids[row]))
            config = texts.space.config(int(texts.space.candidates[start + row]))
            refuse_long([ids[row]], model.limit, extra, model.name, [str(config)])
        yield ids


# -- is it exact, and is rounding small? --------------------------------------------------------------


def _neighbours(space: SearchSpace) -> list[tuple[int, int]]:
    """Positions of a few pairs of candidates one step apart, spread over the space; maybe none."""
    candidates = space.candidates
    pairs = []
    for position in np.linspace(0, len(candidates) - 1, _SAMPLE).astype(int).tolist():
        for neighbour in space.neighbours(int(candidates[position])):
            other = int(np.searchsorted(candidates, neighbour))
            if other < len(candidates) and candidates[other] == neighbour:
                pairs.append((position, other))
                break
    return pairs


def _read_as_tree(
    model: CausalReader,
    trie: Trie,
    texts: _Texts,
    sample: list[tuple[int, int]],
    token: Tensor | None,
    memory_bytes: float,
    half_precision: bool,
) -> TreeReader | None:
    """A reader of the trie, if a sample read so equals the plain path; otherwise None and a warning."""
    numbers = sorted({number for pair in sample for number in pair}) or [0]
    plain = model.encode([texts[number] for number in numbers], token)
    try:
        tree = TreeReader(
            model, trie, keep=token is not None, memory_bytes=memory_bytes, half_precision=half_precision
        )
        found = tree.rows(numbers, token)
    except torch.OutOfMemoryError:
        raise
    except (
        NotATree,
        TypeError,
        ValueError,
        NotImplementedError,
        IndexError,
        AttributeError,
        RuntimeError,
    ) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]  # whatever an architecture does not take
    else:
        tolerance = max(_TOLERANCE[model.dtype], _TOLERANCE[torch.bfloat16] if half_precision else 0)
        worst = float(_relative(found, plain).max())
        if worst <= tolerance:
            if half_precision:
                refuse_half_precision(found, plain, sample, numbers)
            return tree
        reason = f"features would differ from the plain path by {worst:.1e}, {tolerance:.0e} is allowed"
    warnings.warn(
        f"{model.name} cannot read the prompts as a tree ({reason}); every text is read by itself: "
        f"{trie.plain_tokens:,} tokens in place of {len(trie):,}",
        stacklevel=4,
    )
    return None


def _refuse_noise(
    model: LanguageModel, sample: list[tuple[int, int]], *ways: Callable[[list[int]], Tensor]
) -> None:
    """Raises ModelError if rounding is not far below the distance between neighbouring configs."""
    if not sample or model.dtype == torch.float32:
        return
    noise, distance = noise_floor(sample, *ways)
    if noise > _NOISE * distance:
        dtype = str(model.dtype).removeprefix("torch.")
        raise ModelError(
            f"{model.name} in {dtype} cannot tell neighbouring configs apart: its rounding moves "
            f"features by {noise:.1e}, a step of one knob by {distance:.1e}; set "
            "language.dtype: float32, or use another model"
        )


def refuse_half_precision(
    found: Tensor, plain: Tensor, sample: list[tuple[int, int]], numbers: list[int]
) -> None:
    """Raises ModelError if keys and values in bfloat16 blur neighbouring configs."""
    noise, distance = float(_relative(found, plain).median()), _step(plain, sample, numbers)
    if sample and noise > _NOISE * distance:
        raise ModelError(
            f"language.half_precision_cache: it moves features by {noise:.1e}, a step of one knob moves them "
            f"by {distance:.1e}; set it to false"
        )


def noise_floor(sample: list[tuple[int, int]], *ways: Callable[[list[int]], Tensor]) -> tuple[float, float]:
    """How far rounding and how far one step of a knob move features: medians of relative differences.

    Rounding is what the same candidates differ by when they are read in other ways that are equal in exact
    arithmetic: by each of `ways`, all at once and one by one.
    """
    numbers = sorted({number for pair in sample for number in pair})
    with torch.no_grad():
        readings = [way(numbers) for way in ways]
        readings += [torch.cat([way([number]) for number in numbers]) for way in ways]
    noise = max(float(_relative(other, readings[0]).median()) for other in readings[1:])
    return noise, _step(readings[0], sample, numbers)


def _step(rows: Tensor, sample: list[tuple[int, int]], numbers: list[int]) -> float:
    """Median relative difference between neighbours; row i of `rows` belongs to `numbers[i]`."""
    left, right = (rows[[numbers.index(pair[side]) for pair in sample]] for side in (0, 1))
    return float(_relative(left, right).median())


def _relative(found: Tensor, expected: Tensor) -> Tensor:
    """Relative difference of each row, (n,)."""
    expected = expected.detach()
    relative: Tensor = (found.detach() - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)
    return relative


def _cache_key(space: SearchSpace, prompt: Prompt, model: LanguageModel, token: Tensor | None) -> str:
    parts = [f"features {_VERSION}", space.fingerprint, prompt.fingerprint, model.fingerprint]
    if token is not None:
        parts.append(f"token {hashlib.sha256(token.contiguous().numpy().data).hexdigest()}")
    return hashlib.sha256("; ".join(parts).encode()).hexdigest()[:32]
