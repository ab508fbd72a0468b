"""Dropout whose masks belong to examples, so that nothing about their company changes a training.

`torch.nn.Dropout` draws from one stream of random numbers: what a token loses depends on how many tokens came
before it, and so on the micro-batch, on padding, and on activations that are computed again. Here a mask is
a function of seed, step, example, position of the token in its own sequence, module and feature, and of
nothing else. There is no state: the backward pass computes the mask once more and nothing is stored for it.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in two levels.
SplitMix64 (Steele et al. 2014) makes 64 bits of (seed, step, example, position), and 32 bits of (module, pair
of features) once for all. Both meet in one 32-bit word for two features, by xor, a multiplication, a
xor-shift, and a multiplication with an odd number of the token's own; the halves of the word are uniform on
16 bits, and a feature is dropped where its half is below `probability`.
`tests/training/model/test_dropout.py` holds mean, variance and independence between tokens, steps, examples,
modules and features; `benchmarks/dropout.py` measures cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from loracle.errors import ModelError
from loracle.records.notices import Notice
from loracle.text.escape import printable

_UNITS = 1 << 16  # a probability is a whole number of these parts
_MULTIPLIER = 0x7FEB352D  # of Wellons' hash function lowbias32
_GOLDEN = 0x9E3779B97F4A7C15
_OF_OTHER_HEADS = ("classifier", "summary")  # settings of dropout that no causal language model has
# Elements masked at once: on a CPU what fits into its cache, elsewhere what bounds the working memory.
_BLOCK = {"cpu": 1 << 17}
_LARGE_BLOCK = 1 << 22

Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


# -- keys -------------------------------------------------------------------------------------------


def token_keys(seed: int, step: int, examples: Sequence[int] | Indices, width: int) -> Words:
    """64 random bits for each token of some examples: (b, width), the same in whatever company.

    `examples` are any whole numbers that tell examples apart, (b,).
    """
    return _keys(seed, step, np.asarray(examples, dtype=np.int64)[:, None], np.arange(width))


def _keys(seed: int, step: int, owners: Indices, places: Indices) -> Words:
    """Of tokens, by the example that each belongs to and its place in it; the two are broadcast together."""
    start = _mixed(_words(seed) ^ _mixed(_words(step)))
    rows = _mixed(_words(owners) ^ start)
    return _mixed(rows + _words(places + 1) * np.uint64(_GOLDEN))


def token_words(keys: Words, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys, (b, t), as two random words a token: one to add, any, and one to multiply by, odd; (b, t, 1)."""
    halves = keys.view(np.int32).reshape(*keys.shape, 2)
    both = torch.from_numpy(halves).to(device, non_blocking=True)
    return both[..., :1].contiguous(), both[..., 1:] | 1


def _words(values: int | Indices) -> Words:
    if isinstance(values, int):
        return np.array([values % (1 << 64)], dtype=np.uint64)
    return values.astype(np.uint64)


def _mixed(words: Words) -> Words:
    """The finaliser of SplitMix64: every bit of the result depends on every bit given."""
    words = words + np.uint64(_GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _feature_words(module: str, features: int) -> torch.Tensor:
    """32 random bits for each pair of features of a module, (1, features / 2), rounded up."""
    start = np.frombuffer(hashlib.blake2b(module.encode(), digest_size=8).digest(), dtype=np.uint64)
    pairs = np.arange(1, (features + 1) // 2 + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return torch.from_numpy((_mixed(start + pairs) >> np.uint64(32)).astype(np.uint32).view(np.int32))[None]


# -- which tokens a model sees ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Tokens:
    """Two random words for each token: `added` any, `times` odd, both (b, t, 1) and int32."""

    added: torch.Tensor
    times: torch.Tensor
    kept: torch.Tensor | None  # (b, t), the positions whose logits are computed

    def of(self, shape: torch.Size, kept: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The words of the rows of an input of this shape, (rows, 1) each; None if it has other rows."""
        b, t, _ = self.added.shape
        rows = _without_ones(*shape[:-1])  # some put a dimension of heads between
        if kept and self.kept is not None:
            added, times = self.added[self.kept], self.times[self.kept]
            return (added, times) if rows == _without_ones(len(added)) else None
        if rows not in (_without_ones(b, t), _without_ones(b * t)):
            return None
        return self.added.view(-1, 1), self.times.view(-1, 1)


def _without_ones(*sizes: int) -> tuple[int, ...]:
    return tuple(size for size in sizes if size != 1)


class Masks:
    """The masks of one training: tells all dropout modules of a model which tokens they see.

    It belongs to the training loop, which puts every forward pass and its backward pass into `of`.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._device = device
        self._tokens: _Tokens | None = None

    @contextmanager
    def of(
        self,
        step: int,
        examples: Sequence[int] | Indices,
        width: int,
        kept: torch.Tensor | None = None,
        parts: tuple[Indices, Indices] | None = None,
    ) -> Iterator[None]:
        """In this block the model sees these examples, right-padded to `width` tokens.

        `kept`, (b, width), are the positions that reach the output layer, where not all do. `parts`, where
        rows have several examples: which one each token is of, as what is added to `examples`, and which
        token of it that is; (b, width) each.
        """
        if parts is None:
            keys = token_keys(self._seed, step, examples, width)
        else:
            owners, places = parts
            keys = _keys(self._seed, step, owners + np.asarray(examples, dtype=np.int64)[:, None], places)
        self._tokens = _Tokens(*token_words(keys, self._device), kept)
        try:
            yield
        finally:
            self._tokens = None

    @contextmanager
    def part(self, part: slice) -> Iterator[None]:
        """In this block, inside of one of `of`, the output layer sees some of the kept positions alone."""
        whole = self._tokens
        if whole is not None and whole.kept is not None:
            chosen = torch.zeros_like(whole.kept)
            rows, columns = whole.kept.nonzero(as_tuple=True)
            chosen[rows[part], columns[part]] = True
            self._tokens = replace(whole, kept=chosen)
        try:
            yield
        finally:
            self._tokens = whole

    def words(self, module: str, shape: torch.Size, kept: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Two words for each row of a module's input, (rows, 1) each.

        Raises:
            ModelError: the rows are not the tokens of the batch.
        """
        if self._tokens is None:
            raise RuntimeError(f"dropout of {module} outside of Masks.of")
        found = self._tokens.of(shape, kept)
        if found is None:
            b, t, _ = self._tokens.added.shape
            raise ModelError(
                f"dropout: {module} sees an input of shape {tuple(shape)} for {b} x {t} tokens, so it is not "
                "known which token is which; leave it out of training.targets, or set the knob dropout to 0"
            )
        return found


def rounded(p: float) -> float:
    """The probability that is meant by `p`, below 1."""
    return min(round(p * _UNITS), _UNITS - 1) / _UNITS


class Drops:
    """Masks of the tokens of a batch where each row has a probability of its own."""

    def __init__(self, keys: Words, probabilities: npt.NDArray[np.float64], device: torch.device) -> None:
        """`keys`, (b, t), as `token_keys` makes them; `probabilities`, (b,), as `rounded` makes them."""
        self._added, self._times = (words.view(-1, 1) for words in token_words(keys, device))
        least = np.repeat(probabilities * _UNITS - _UNITS // 2, keys.shape[1]).astype(np.int16)
        self._least = torch.from_numpy(least[:, None]).to(device)

    def of(self, words: torch.Tensor, features: int) -> torch.Tensor:
        """Which features a module drops, (b t, features); `words` are those of its `ExampleDropout`."""
        return (_mixed_with(self._added, self._times, words) < self._least)[:, :features]


class ExampleDropout(nn.Module):
    """Dropout of one adapted module, in training mode; a probability of 0 does nothing.

    Attributes:
        p: probability, settable; it is rounded to a multiple of 2^-16.
    """

    words: torch.Tensor

    def __init__(self, p: float, module: str, features: int, masks: Masks, *, kept: bool = False) -> None:
        super().__init__()
        self.p = p
        self._module = module
        self._masks = masks
        self._kept = kept
        self.register_buffer("words", _feature_words(module, features), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drops features of `x`, (..., features), and scales up the others."""
        units = round(self.p * _UNITS)
        if not self.training or units == 0:
            return x
        added, times = self._masks.words(self._module, x.shape, self._kept)
        dropped: torch.Tensor = _Drop.apply(x, added, times, self.words, units)  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Drop(torch.autograd.Function):
    """Applies a mask, and the same mask to the gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, added: torch.Tensor, times: torch.Tensor, words: torch.Tensor, units: int
    ) -> torch.Tensor:
        ctx.save_for_backward(added, times, words)
        ctx.units = units
        return masked(x, added, times, words, units)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        added, times, words = ctx.saved_tensors
        return masked(gradient, added, times, words, ctx.units), None, None, None, None


def masked(
    x: torch.Tensor, added: torch.Tensor, times: torch.Tensor, words: torch.Tensor, units: int
) -> torch.Tensor:
    """`x`, (..., features), without the features that its rows' words drop, the others scaled up."""
    features = x.shape[-1]
    rows = x.reshape(-1, features)
    result = torch.empty_like(rows)
    scale = _UNITS / (_UNITS - units) if units < _UNITS else 0.0
    size = max(1, _BLOCK.get(x.device.type, _LARGE_BLOCK) // features)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        stays = _stays(added[part], times[part], words, units)[:, :features]
        torch.mul(rows[part], stays, out=result[part]).mul_(scale)
    return result.view(x.shape)


def _stays(added: torch.Tensor, times: torch.Tensor, words: torch.Tensor, units: int) -> torch.Tensor:
    """Which features stay: (rows, features), one more where their number is odd."""
    return _mixed_with(added, times, words) >= units - _UNITS // 2


def _mixed_with(added: torch.Tensor, times: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Random 16 bits for each row and feature, signed: (rows, features), one more where that is odd."""
    mixed = torch.bitwise_xor(added, words)  # (rows, pairs)
    mixed.mul_(_MULTIPLIER)
    mixed.bitwise_xor_(mixed >> 16)
    mixed.mul_(times)
    return mixed.view(torch.int16)


# -- on a model -------------------------------------------------------------------------------------


def key_dropout(model: Any, masks: Masks, *, kept_logits: bool) -> None:
    """Puts dropout with these masks in the place of PEFT's in every adapted module of `model`.

    `kept_logits` says that the output layer sees counted positions alone. State and settings of the adapter
    stay as they are.

    Raises:
        ModelError: a module of a kind whose features are not the last dimension of its input.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for adapter, dropout in layer.lora_dropout.items():
            if not isinstance(dropout, nn.Dropout) or isinstance(layer.get_base_layer(), nn.Embedding):
                continue  # PEFT's embeddings have dropout and never use it
            if not isinstance(layer.get_base_layer(), nn.Linear | Conv1D):
                kind = type(layer.get_base_layer()).__name__
                raise ModelError(
                    f"dropout: {name} is a {kind}, which is not trained with dropout; leave it out of "
                    "training.targets, or set the knob dropout to 0"
                )
            own = ExampleDropout(
                dropout.p, name, layer.in_features, masks, kept=kept_logits and layer is output
            )
            own.train(dropout.training)
            layer.lora_dropout[adapter] = own.to(layer.get_base_layer().weight.device)


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """In this block adapters train, and no dropout but theirs acts.

    The base model stays as it is scored: its own dropout, layer drop or router noise would draw from a stream
    of random numbers, and GPT-2 has 0.1 of it by default. Layers whose activations are computed again heed
    `gradient_checkpointing` in training mode alone, so there the probabilities are set to 0 instead.
    """
    model.eval()
    restore = [(values, dict(values)) for values in map(vars, _recomputed(model))]
    restore += [(vars(config), dict(vars(config))) for config in _configs(model)]
    try:
        for values, _ in restore:
            values.update({name: 0.0 for name, value in values.items() if _is_dropout(name, value)})
        for layer in _recomputed(model):
            layer.training = True
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.training = True
                layer.lora_dropout.train()
        yield
    finally:
        for values, before in restore:
            values.update({name: value for name, value in before.items() if _is_dropout(name, value)})
        model.eval()


def own_dropout(model: nn.Module) -> dict[str, float]:
    """Probabilities of dropout that a base model brings along, by the names in its settings."""
    found: dict[str, float] = {}
    for config in _configs(model):
        found |= {name: value for name, value in vars(config).items() if _is_dropout(name, value) and value}
    return {name: value for name, value in found.items() if not name.startswith(_OF_OTHER_HEADS)}


def about_own_dropout(model: nn.Module) -> Iterator[Notice]:
    """That it is off: a training elsewhere with the same settings would have it."""
    found = own_dropout(model)
    if found:
        names = ", ".join(f"{name} {value:g}" for name, value in sorted(found.items()))
        yield Notice(
            "model",
            "own_dropout_off",
            f"the model's own dropout ({printable(names)}) is off in every training: only the knob dropout "
            "acts; to train like this elsewhere, set these to 0",
            len(found),
        )


def _recomputed(model: nn.Module) -> list[nn.Module]:
    """Modules whose activations the backward pass computes again; older models do it in the whole stack."""
    on = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    return [module for module in on if isinstance(module, GradientCheckpointingLayer)] or on


def _configs(model: nn.Module) -> list[Any]:
    configs = {id(c): c for c in (getattr(module, "config", None) for module in model.modules()) if c}
    return list(configs.values())


def _is_dropout(name: str, value: Any) -> bool:
    """Such as `resid_pdrop`, `attention_dropout` or `layerdrop`."""
    return "drop" in name and isinstance(value, float)
