"""A decoder that reads prompts: the plain path, one padded forward for every text.

`trie_forward.py` computes the same features for a whole space at a fraction of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from loracle.errors import ModelError
from loracle.language.pretrained import fingerprint_of, refuse_long, token_ids


class CausalReader:
    """A decoder: the hidden state at a text's last token, or at a learnable token appended to it."""

    def __init__(self, model: Any, tokenizer: Any, name: str, layer: int = -1, batch_size: int = 32):
        """`layer` counts hidden states: 0 is the embedding, -1 the last (after the final norm)."""
        while hasattr(model, "get_base_model"):  # a PeftModel; `reading` switches its adapters off
            model = model.get_base_model()
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size
        self.backbone: Any = getattr(
            model, "base_model", model
        )  # without the head: its logits are not needed
        config = self.backbone.config.get_text_config()
        self.layers = int(config.num_hidden_layers)
        if not -self.layers - 1 <= layer <= self.layers:
            raise ModelError(
                f"language.layer: {name} has hidden states 0 to {self.layers} (or -{self.layers + 1} to -1); "
                f"got {layer}"
            )
        self.layer = layer % (self.layers + 1)
        self.dimension = int(config.hidden_size)
        self.limit: int | None = getattr(config, "max_position_embeddings", None)
        embedding: nn.Embedding = self.backbone.get_input_embeddings()
        self.device, self.dtype = embedding.weight.device, embedding.weight.dtype
        # The mean of all embeddings: in the middle of what the model has read and saying nothing yet, which
        # is also where transformers starts an added token. The end-of-text embedding would say "what came
        # before is over", and not every tokenizer has one.
        self.token: Tensor | None = embedding.weight.detach().float().mean(dim=0).cpu()

    @cached_property
    def fingerprint(self) -> str:
        how = f"causal, last token, layer {self.layer}, {self.dtype}"
        return fingerprint_of(self.backbone, self.tokenizer, how)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return token_ids(self.tokenizer, texts)

    def encode(self, texts: Sequence[str], token: Tensor | None = None) -> Tensor:
        """Features (n, d) of n texts, one padded forward for every `batch_size` of them.

        Raises:
            PromptError: a text has more tokens than the model has positions.
        """
        ids = self.token_ids(texts)
        extra = 0 if token is None else 1
        refuse_long(ids, self.limit, extra, self.name, [f"text ending in {text[-60:]!r}" for text in texts])
        if not ids:
            return torch.zeros(0, self.dimension)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        with self.reading(), torch.set_grad_enabled(token is not None and torch.is_grad_enabled()):
            parts = [
                self._encode_batch([ids[row] for row in order[start : start + self.batch_size]], token)
                for start in range(0, len(order), self.batch_size)
            ]
            back = torch.empty(len(order), dtype=torch.long)
            back[torch.tensor(order)] = torch.arange(len(order))
            return torch.cat(parts)[back]

    def _encode_batch(self, ids: list[list[int]], token: Tensor | None) -> Tensor:
        """(b, d). Padded on the right, where no position of a causal model sees it."""
        lengths = torch.tensor([len(row) for row in ids], device=self.device)  # (b,)
        extra = 0 if token is None else 1
        width = int(lengths.max()) + extra
        padded = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=self.device)  # (b, t)
        place = torch.arange(width, device=self.device)[None, :]  # (1, t)
        mask = (place < lengths[:, None] + extra).long()
        embedded = self.embed(padded)  # (b, t, e)
        if token is not None:
            here = (place == lengths[:, None])[:, :, None]
            embedded = torch.where(here, token.to(embedded), embedded)
        hidden = self.hidden(inputs_embeds=embedded, attention_mask=mask, use_cache=False)
        last = lengths - 1 + extra
        return hidden[torch.arange(len(ids), device=self.device), last].float().cpu()

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids: one more axis, (..., e)."""
        embedded: Tensor = self.backbone.get_input_embeddings()(ids)
        return embedded

    def hidden(self, **inputs: Any) -> Tensor:
        """Hidden states (b, t, d) of the chosen layer in one forward of the backbone."""
        last = self.layer == self.layers
        output = self.backbone(**inputs, output_hidden_states=not last)
        states: Tensor = output.last_hidden_state if last else output.hidden_states[self.layer]
        return states

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The bare model in evaluation mode without gradients of its own; afterwards it is as found.

        Raises:
            ModelError: an adapter is merged into the weights.
        """
        modules = list(self.model.modules())
        modes = [module.training for module in modules]
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        adapted: list[Any] = [module for module in modules if hasattr(module, "_disable_adapters")]
        switches = [module._disable_adapters for module in adapted]
        if any(getattr(module, "merged", False) for module in adapted):
            raise ModelError(
                f"{self.name} has an adapter merged into its weights; unmerge it to read prompts"
            )
        try:
            self.model.eval()
            for parameter in wanted:
                parameter.requires_grad_(False)
            for module in adapted:  # not `enable_adapters`, which would also touch gradients
                module._disable_adapters = True
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for parameter in wanted:
                parameter.requires_grad_(True)
            for module, switch in zip(adapted, switches, strict=True):
                module._disable_adapters = switch
