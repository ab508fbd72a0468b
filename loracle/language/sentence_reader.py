"""A sentence encoder that reads prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module, util
from typing import Any

import torch
from torch import Tensor, nn

from loracle.errors import ModelError
from loracle.language.pretrained import fingerprint_of, loading, refuse_long, token_ids


class SentenceReader:
    """A sentence encoder of sentence-transformers, pooled as its own modules say.

    The learnable token stands where the tokenizer would put one more word at the end of the text: before the
    special tokens that close it (`[SEP]`, `</s>`), or last where there are none. So what closes a text still
    closes it, and position, attention and token type are those of a word.
    """

    dtype = torch.float32

    def __init__(
        self, source: str, name: str, batch_size: int, device: torch.device, trust_remote_code: bool
    ):
        if util.find_spec("sentence_transformers") is None:
            raise ModelError(f"{name} is a sentence encoder; pip install 'loracle[encoder]' to use one")
        library = import_module("sentence_transformers")
        with loading(name):
            self.model: Any = library.SentenceTransformer(
                source,
                device=str(device),
                trust_remote_code=trust_remote_code,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        self.model.eval().requires_grad_(False)
        self.name, self.batch_size, self.device = name, batch_size, device
        self.dimension = int(self.model.get_embedding_dimension())
        transformer = getattr(self.model[0], "auto_model", None)
        if transformer is None:
            kind = type(self.model[0]).__name__
            raise ModelError(
                f"{name} begins with a {kind}, which is no transformer; name another language.model"
            )
        # Authors cut texts short of what the positions allow (MiniLM: at 256 of 512). Here a text is read
        # whole or refused, so the real limit counts.
        positions = _position_limit(transformer)
        if positions is not None:
            self.model.max_seq_length = positions
        self.limit: int | None = self.model.max_seq_length
        self.instruction: str = self.model.prompts.get(self.model.default_prompt_name) or ""
        self.embeddings = _word_embeddings(transformer)
        self.token: Tensor | None = None
        if self.embeddings:
            self.token = self.embeddings[0].weight.detach().mean(dim=0).cpu()  # as in `CausalReader`
        special = self.model.tokenizer("rank", return_special_tokens_mask=True)["special_tokens_mask"]
        self._closing = len(special) - 1 - max(i for i, one in enumerate(special) if not one)

    @cached_property
    def fingerprint(self) -> str:
        how = f"encoder, {self.model!r}, {self.instruction!r}"
        return fingerprint_of(self.model, self.model.tokenizer, how)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return token_ids(self.model.tokenizer, [self.instruction + text for text in texts])

    def encode(self, texts: Sequence[str], token: Tensor | None = None) -> Tensor:
        """Features (n, d) of n texts, in batches of similar length.

        Raises:
            PromptError: a text has more tokens than the encoder has positions.
            ModelError: a learnable token was given, and the encoder cannot have one.
        """
        ids = self.token_ids(texts)
        extra = 0 if token is None else 1
        refuse_long(ids, self.limit, extra, self.name, [f"text ending in {text[-60:]!r}" for text in texts])
        if not ids:
            return torch.zeros(0, self.dimension)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        with torch.set_grad_enabled(token is not None and torch.is_grad_enabled()):
            parts = [
                self._encode_batch([texts[row] for row in order[start : start + self.batch_size]], token)
                for start in range(0, len(order), self.batch_size)
            ]
            return torch.cat(parts)[torch.tensor(order).argsort()]

    def _encode_batch(self, texts: list[str], token: Tensor | None) -> Tensor:
        """(b, d). Padding on either side is hidden by the attention mask."""
        inputs: dict[str, Any] = self.model.preprocess(texts, prompt=self.instruction or None)
        inputs = {key: v.to(self.device) if isinstance(v, Tensor) else v for key, v in inputs.items()}
        if token is None:
            return self._features(inputs)
        mask = inputs["attention_mask"]  # (b, t)
        width = mask.shape[1]
        place = width - mask.flip(1).argmax(dim=1) - self._closing  # (b,)
        column = torch.arange(width + 1, device=self.device)[None, :]  # (1, t + 1)
        # The last word once more: it brings mask and token type of a word, and its embedding is replaced.
        source = column - (column >= place[:, None]).long()  # (b, t + 1)
        for key, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == mask.shape:
                inputs[key] = value.gather(1, source)
        with self._embedded(token, column == place[:, None]):
            return self._features(inputs)

    def _features(self, inputs: dict[str, Any]) -> Tensor:
        features: Tensor = self.model(inputs)["sentence_embedding"]
        return features[:, : self.dimension].float().cpu()  # shorter if its authors say `truncate_dim`

    @contextmanager
    def _embedded(self, token: Tensor, here: Tensor) -> Iterator[None]:
        """While it lasts, the word embeddings give `token` (e,) where `here` (b, t) is true.

        A hook instead of `inputs_embeds`: the model itself then derives positions from token ids, as it does
        for any text, and need not know that argument.
        """
        replaced = []

        def replace(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            replaced.append(embedded.shape[:2] == here.shape)
            if not replaced[-1]:
                return embedded
            return torch.where(here[:, :, None], token.to(embedded), embedded)

        hooks = [module.register_forward_hook(replace) for module in self.embeddings]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if replaced != [True]:
            raise ModelError(
                f"{self.name} cannot have a learnable token, because it does not read through its word "
                "embeddings; set language.learnable_token: false"
            )


def _position_limit(model: Any) -> int | None:
    """Tokens that an encoder has positions for; RoBERTa and its kin lose those up to the padding index."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return limit - padding - 1 if limit is not None and padding is not None else limit


def _word_embeddings(model: Any) -> list[nn.Embedding]:
    """The modules that turn token ids into vectors: one, or several of one matrix (T5); none if hidden."""
    try:
        weight = model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        return []
    return [module for module in model.modules() if getattr(module, "weight", None) is weight]
