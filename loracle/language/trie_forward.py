"""Exact features of many texts that share beginnings, at a fraction of the tokens.

Under causal attention a token's hidden state depends on the tokens before it alone. So the prefix that all
texts share is read once, the rest is merged into a trie whose every node is read once, and a token appended
to each text is one more position against keys and values that are already there. All three are exact: the
features equal those of one forward for every text, up to rounding. `token_trie.py` has the trie.

A chunk is a range of nodes, read as one packed sequence in which a token
sees the prefix and its ancestors, at a position equal to its depth. What a chunk needs from the chunks
before it are the ancestors of its first node (its spine): one path.

Notation: p tokens of the prefix, m nodes, N texts, q positions of one forward, d features, e embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from loracle.errors import ModelError
from loracle.language.causal_reader import CausalReader
from loracle.language.token_trie import Ids, Trie, chunks

KeysValues = list[tuple[Tensor, Tensor]]  # one pair a layer, each (1, heads, positions, head width)
Progress = Callable[[int, int], None]

_CHUNK = {"cpu": 256, "mps": 1024}  # positions of one forward; measured in benchmarks/features.py
_CHUNK_GPU = 2048
_SMALLEST_CHUNK = 32
_NEVER = np.int64(2**62)  # a padding key: larger than any node, so nobody's ancestor


class NotATree(ModelError):
    """A model whose layers do not keep keys and values for every token, or attend in an unknown way."""


class TreeReader:
    """Reads all texts of a trie with one decoder, within a memory budget.

    Attributes:
        chunk: positions of one forward, the same for all.
        computed: positions computed so far, padding aside.
        stored: nodes whose keys and values are kept, the first ones.
        capacity: nodes whose keys and values fit.
    """

    def __init__(
        self,
        reader: CausalReader,
        trie: Trie,
        *,
        keep: bool,
        memory_bytes: float,
        half_precision: bool = False,
        chunk: int | None = None,
        prefix: KeysValues | None = None,
    ):
        """Reads the prefix.

        Args:
            reader: the decoder.
            trie: what to read.
            keep: store keys and values of the nodes, as many as fit, for the next reading with a token.
            memory_bytes: budget beyond the model, for features, keys and values and the work of a forward.
            half_precision: store keys and values in bfloat16.
            chunk: positions of one forward, if smaller than what suits the device.
            prefix: keys and values of the prefix, if known.

        Raises:
            NotATree: the model cannot be read so.
            ModelError: the budget is too small.
        """
        self.reader, self.trie = reader, trie
        self._spine_width = int(trie.depths.max())
        self.computed, self.stored = 0, 0
        with self._attention():
            self.prefix = prefix if prefix is not None else self._read_prefix()
        self._windows = _windows(reader.backbone.config.get_text_config(), trie.longest + 1)
        self._kept_dtype = torch.bfloat16 if half_precision else reader.dtype
        self._budget(memory_bytes, keep, chunk)
        self._store: KeysValues = _each(self.prefix, self._room) if self.capacity else []
        self._observed: tuple[tuple[int, ...], TreeReader, Tensor] | None = None

    def read(self, token: Tensor | None, progress: Progress | None = None) -> Tensor:
        """Features (N, d), float32 on the CPU, without gradient.

        Without a token: at the last token of each text. With one (e,): at that token, appended to each; only
        these positions are computed where keys and values are stored.
        """
        out = torch.empty(len(self.trie.leaves), self.reader.dimension)
        with self._attention(), torch.no_grad():
            start = 0
            if token is not None:
                start = self.stored
                self._refresh(token, out, progress)
            self._sweep(start, token, out, progress)
        return out

    def rows(self, numbers: Sequence[int], token: Tensor | None) -> Tensor:
        """Features (n, d) of some texts, float32 on the CPU; differentiable in `token` (e,).

        Keys and values of their nodes are kept until other texts are asked for: fitting a token costs one
        position a text and step.
        """
        key = tuple(int(number) for number in numbers)
        if self._observed is None or self._observed[0] != key:
            part = TreeReader(
                self.reader,
                self.trie.subset(key),
                keep=True,
                memory_bytes=float("inf"),
                half_precision=self._kept_dtype != self.reader.dtype,
                chunk=self.chunk,
                prefix=self.prefix,
            )
            self._observed = (key, part, part.read(None))
            self.computed += part.computed
        _, part, last = self._observed
        if token is None:
            return last
        with part._attention():
            leaves = part.trie.leaf_nodes
            hidden = part._token_pass(0, len(part.trie), leaves, token, len(part.trie), len(leaves))
            self.computed += len(leaves)
            return hidden[torch.from_numpy(np.searchsorted(leaves, part.trie.leaves)).to(hidden.device)].cpu()

    # -- passes -------------------------------------------------------------------------------------

    def _read_prefix(self) -> KeysValues:
        """Keys and values of the prefix. Without one, the shape of them is learnt from a token."""
        ids = self.trie.prefix if len(self.trie.prefix) else self.trie.tokens[:1]
        cache = transformers.DynamicCache()
        with torch.no_grad():
            tokens = torch.from_numpy(ids)[None].to(self.reader.device)
            self.reader.hidden(
                inputs_embeds=self.reader.embed(tokens),
                past_key_values=cache,
                use_cache=True,
                attention_mask=None,
            )
        if len(cache.layers) != self.reader.layers or cache.get_seq_length() != len(ids):
            raise NotATree(f"{self.reader.name} does not keep keys and values for every layer")
        self.computed += len(self.trie.prefix)
        p = len(self.trie.prefix)
        return [(layer.keys[:, :, :p], layer.values[:, :, :p]) for layer in cache.layers]

    def _sweep(self, start: int, token: Tensor | None, out: Tensor, progress: Progress | None) -> None:
        """Computes all nodes from `start`, and the token after each text; stores what fits."""
        trie, p = self.trie, len(self.trie.prefix)
        leaves = trie.leaf_nodes
        spine_nodes = trie.ancestors(start) if start < len(trie) else np.zeros(0, dtype=np.int64)
        spine = self._gather(spine_nodes)
        for low, high in chunks(trie, start, self.chunk, with_token=token is not None):
            ending = leaves[np.searchsorted(leaves, low) : np.searchsorted(leaves, high)]
            appended = ending if token is not None else ending[:0]
            nodes = np.arange(low, high)
            padding = np.full(self.chunk - len(nodes) - len(appended), -1)
            queries = np.concatenate([nodes, appended, padding])
            ids = torch.from_numpy(np.concatenate([trie.tokens[nodes], 0 * appended, 0 * padding]))
            embedded = self.reader.embed(ids.to(self.reader.device))  # (q, e)
            if token is not None:
                embedded[len(nodes) : len(nodes) + len(appended)] = token.to(embedded)
            past_nodes = _pad(spine_nodes, self._spine_width)
            hidden, cache = self._forward(
                _append(self.prefix, spine), past_nodes, queries, len(nodes), embedded
            )
            self.computed += len(nodes) + len(appended)

            at = len(nodes) + np.arange(len(ending)) if token is not None else ending - low
            self._write(out, low, high, ending, hidden[torch.from_numpy(at).to(hidden.device)], progress)
            self._keep(cache, low, high, p + self._spine_width)
            if high < len(trie):
                below = trie.ancestors(high)
                place = np.where(
                    below >= low, p + self._spine_width + below - low, p + np.searchsorted(spine_nodes, below)
                )
                index = torch.from_numpy(place).to(self.reader.device)
                spine = self._widen(_select(cache, index))
                spine_nodes = below

    def _refresh(self, token: Tensor, out: Tensor, progress: Progress | None) -> None:
        """Computes the token after each text whose nodes are all stored."""
        leaves = self.trie.leaf_nodes
        nodes = 2 * self.chunk  # keys of one forward; about as many texts end there as a chunk has positions
        ranges = list(chunks(self.trie, 0, self.chunk, with_token=True, nodes=nodes, stop=self.stored))
        ending = [
            leaves[np.searchsorted(leaves, low) : np.searchsorted(leaves, high)] for low, high in ranges
        ]
        width = max((len(ends) for ends in ending), default=0)
        for (low, high), ends in zip(ranges, ending, strict=True):
            if len(ends):
                hidden = self._token_pass(low, high, ends, token, nodes, width)
                self._write(out, low, high, ends, hidden, progress)
                self.computed += len(ends)

    def _token_pass(self, low: int, high: int, leaves: Ids, token: Tensor, nodes: int, width: int) -> Tensor:
        """Features (n, d) at the token after each of `leaves`, against the stored nodes [low, high).

        Keys are padded to `nodes` and positions to `width`, so that all passes have one shape.
        """
        above = self.trie.ancestors(low)
        missing = nodes - (high - low)
        stored = _each(
            self._store, lambda side: _zeros_behind(side[:, :, low:high], missing).to(self.reader.dtype)
        )
        past = _append(_append(self.prefix, self._gather(above)), stored)
        past_nodes = np.concatenate([_pad(above, self._spine_width), _pad(np.arange(low, high), nodes)])
        queries = np.concatenate([leaves, np.full(width - len(leaves), -1)])
        embedded = token.to(device=self.reader.device, dtype=self.reader.dtype).expand(width, -1)
        hidden, _ = self._forward(past, past_nodes, queries, 0, embedded)
        return hidden[: len(leaves)].float()

    def _forward(
        self, past: KeysValues, past_nodes: Ids, queries: Ids, n_nodes: int, embedded: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """One forward of packed positions.

        Args:
            past: keys and values of the prefix and of `past_nodes`.
            past_nodes: nodes behind the prefix, `_NEVER` for padding.
            queries: (q,) the first `n_nodes` are nodes; then the texts' last nodes that the token is
                appended to; then -1 for padding.
            n_nodes: how many of `queries` are nodes.
            embedded: (q, e).

        Returns:
            Hidden states (q, d), and keys and values of past and queries.
        """
        p = len(self.trie.prefix)
        after = (np.arange(len(queries)) >= n_nodes) & (queries >= 0)  # one position behind their node
        keys = np.concatenate([past_nodes, np.where(np.arange(len(queries)) < n_nodes, queries, _NEVER)])
        known = keys != _NEVER
        ends, depths = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        ends[known], depths[known] = self.trie.ends[keys[known]], self.trie.depths[keys[known]]
        position = np.where(queries >= 0, p + self.trie.depths[queries] + after, 0)

        device = self.reader.device
        query, key, end = (torch.from_numpy(array).to(device) for array in (queries, keys, ends))
        visible = (key[None, :] <= query[:, None]) & (query[:, None] < end[None, :])  # (q, past + q)
        own = len(past_nodes) + torch.arange(len(queries), device=device)
        visible[torch.arange(len(queries), device=device), own] = True  # the appended tokens see themselves
        visible = torch.nn.functional.pad(visible, (p, 0), value=True)  # and all see the prefix
        where = torch.from_numpy(position).to(device)
        key_position = torch.from_numpy(np.concatenate([np.arange(p), p + depths])).to(device)
        key_position[p + len(past_nodes) :] = where

        cache = transformers.DynamicCache()
        for layer, (k, v) in enumerate(past):
            cache.update(k, v, layer)
        hidden = self.reader.hidden(
            inputs_embeds=embedded[None],
            position_ids=where[None],
            attention_mask=self._masks(visible, where, key_position),
            past_key_values=cache,
            use_cache=True,
        )
        return hidden[0], [(layer.keys, layer.values) for layer in cache.layers]

    def _masks(self, visible: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor | dict[str, Tensor]:
        """Additive attention masks (1, 1, q, keys): one, or one for each type of layer if windows differ.

        `visible` is (q, keys); `query_at` (q,) and `key_at` (keys,) are positions, which windows measure.
        """
        lowest = torch.finfo(self.reader.dtype).min
        masks = {}
        for kind, window in self._windows.items():
            seen = visible if window is None else visible & (query_at[:, None] - key_at[None, :] < window)
            mask = torch.zeros(seen.shape, dtype=self.reader.dtype, device=seen.device)
            masks[kind] = mask.masked_fill_(~seen, lowest)[None, None]
        return masks.get("", masks)

    # -- keys and values ----------------------------------------------------------------------------

    def _keep(self, cache: KeysValues, low: int, high: int, offset: int) -> None:
        """Stores nodes [low, high), which stand at `offset` of a forward's keys, if there is room for all."""
        if low != self.stored or high > self.capacity:
            return
        for (keys, values), (new_keys, new_values) in zip(self._store, cache, strict=True):
            keys[:, :, low:high] = new_keys[:, :, offset : offset + high - low]
            values[:, :, low:high] = new_values[:, :, offset : offset + high - low]
        self.stored = high

    def _gather(self, nodes: Ids) -> KeysValues:
        """Stored keys and values of a spine, padded to the widest."""
        if not len(nodes):
            return self._widen(_each(self.prefix, lambda side: side[:, :, :0]))
        index = torch.from_numpy(nodes).to(self.reader.device)
        return self._widen(_each(_select(self._store, index), lambda side: side.to(self.reader.dtype)))

    def _widen(self, spine: KeysValues) -> KeysValues:
        """Padded with zeros to the width of the widest spine."""
        missing = self._spine_width - spine[0][0].shape[2]
        return _each(spine, lambda side: _zeros_behind(side, missing))

    def _room(self, like: Tensor) -> Tensor:
        """Space for the keys or values of `capacity` nodes."""
        shape = (*like.shape[:2], self.capacity, like.shape[3])
        return torch.empty(shape, dtype=self._kept_dtype, device=like.device)

    def _write(
        self, out: Tensor, low: int, high: int, nodes: Ids, hidden: Tensor, progress: Progress | None
    ) -> None:
        """Puts features of the `nodes` where texts in [low, high) end into the rows of these texts."""
        start, stop = np.searchsorted(self._sorted_leaves, [low, high])
        texts = self._by_leaf[start:stop]
        row = np.searchsorted(nodes, self.trie.leaves[texts])
        out[torch.from_numpy(texts)] = hidden.detach().float().cpu()[torch.from_numpy(row)]
        if progress is not None and stop > start:
            progress(int(stop), len(out))

    @cached_property
    def _by_leaf(self) -> Ids:
        """Texts in the order of their leaves."""
        return np.argsort(self.trie.leaves, kind="stable")

    @cached_property
    def _sorted_leaves(self) -> Ids:
        return self.trie.leaves[self._by_leaf]

    # -- limits -------------------------------------------------------------------------------------

    def _budget(self, memory_bytes: float, keep: bool, chunk: int | None) -> None:
        """Sets `chunk` and `capacity` so that all fits."""
        largest = _CHUNK.get(self.reader.device.type, _CHUNK_GPU)
        largest = min(largest if chunk is None else chunk, max(2 * len(self.trie), _SMALLEST_CHUNK))
        self.chunk = largest
        features = len(self.trie.leaves) * self.reader.dimension * 4
        fixed = features + len(self.trie) * 6 * 8
        while fixed + self.work_bytes(self.chunk) > memory_bytes and self.chunk > _SMALLEST_CHUNK:
            self.chunk = max(self.chunk // 2, _SMALLEST_CHUNK)
        left = memory_bytes - fixed - self.work_bytes(self.chunk)
        if left < 0:
            needed = (fixed + self.work_bytes(self.chunk)) / 1e9
            raise ModelError(
                f"language.memory_gb: {self.reader.name} needs {needed:.2f} GB beyond the model to read "
                f"{len(self.trie.leaves):,} prompts; {memory_bytes / 1e9:.2f} GB are allowed"
            )
        size = torch.empty(0, dtype=self._kept_dtype).element_size()
        node_bytes = sum(side.shape[1] * side.shape[3] * size for pair in self.prefix for side in pair)
        self.capacity = min(len(self.trie), int(min(left, 2**62) // node_bytes)) if keep else 0

    def work_bytes(self, chunk: int) -> int:
        """An upper estimate of what one forward holds at once, in bytes."""
        config = self.reader.backbone.config.get_text_config()
        size = torch.empty(0, dtype=self.reader.dtype).element_size()
        keys = len(self.trie.prefix) + self._spine_width + 3 * chunk
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        states = chunk * (10 * config.hidden_size + 3 * inner) * size
        if self.reader.layer != self.reader.layers:
            states += chunk * config.hidden_size * (self.reader.layers + 1) * size
        held = sum(side.shape[1] * side.shape[3] for pair in self.prefix for side in pair) * keys * size
        repeated = 4 * keys * heads * width * size
        scores = chunk * keys * (3 * size + 4)  # masks, as numbers and as truth values
        if self._implementation() == "eager":
            scores += 3 * heads * chunk * keys * 4
        return int(states + held + repeated + scores)

    def _implementation(self) -> str:
        """The attention that takes a mask of any form: the model's own if it does."""
        own = self.reader.backbone.config._attn_implementation
        return own if own in ("sdpa", "eager") else "sdpa"

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """The bare model, with an attention that takes any mask; afterwards it is as found."""
        config = self.reader.backbone.config
        own = config._attn_implementation
        with self.reader.reading():
            try:
                config._attn_implementation = self._implementation()
                yield
            finally:
                config._attn_implementation = own


def _each(pairs: KeysValues, change: Callable[[Tensor], Tensor]) -> KeysValues:
    return [(change(keys), change(values)) for keys, values in pairs]


def _select(pairs: KeysValues, index: Tensor) -> KeysValues:
    return _each(pairs, lambda side: side.index_select(2, index))


def _zeros_behind(side: Tensor, count: int) -> Tensor:
    """Keys or values with `count` more positions of zeros."""
    return torch.nn.functional.pad(side, (0, 0, 0, count))


def _append(first: KeysValues, second: KeysValues) -> KeysValues:
    return [
        (torch.cat([k, more_k], dim=2), torch.cat([v, more_v], dim=2))
        for (k, v), (more_k, more_v) in zip(first, second, strict=True)
    ]


def _pad(nodes: Ids, width: int) -> Ids:
    return np.concatenate([nodes, np.full(width - len(nodes), _NEVER)])


def _windows(config: Any, longest: int) -> dict[str, int | None]:
    """Attention window of each type of layer, None for all; the key is "" where one mask serves all layers.

    Raises:
        NotATree: layers that attend in another way, or do not attend.
    """
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or [])
    strange = types - {"full_attention", "sliding_attention"}
    if strange:
        raise NotATree(f"layers of type {', '.join(sorted(strange))} cannot be read as a tree")
    if window is None or window >= longest or types == {"full_attention"}:
        return {"": None}
    if not types:
        return {"": window}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(types)}
