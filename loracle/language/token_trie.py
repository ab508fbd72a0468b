"""Token sequences as a trie: their common beginning once, and every shared beginning once.

Nodes are numbered in preorder, so the subtree of node v is the range [v, ends[v]) and u is v or an ancestor
of v exactly if u <= v < ends[u].

Notation: p tokens of the prefix, m nodes, N texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trie:
    """Token sequences with their common beginning split off and shared beginnings merged.

    Attributes:
        prefix: (p,) tokens that every text begins with.
        tokens: (m,) token of each node, in preorder.
        parents: (m,) parent of each node, -1 at the top.
        depths: (m,) tokens between the prefix and the node.
        ends: (m,) one past the last node of the subtree.
        leaves: (N,) node of each text's last token.
        plain_tokens: tokens of all texts together: what one forward for every text reads.
    """

    prefix: Ids
    tokens: Ids
    parents: Ids
    depths: Ids
    ends: Ids
    leaves: Ids
    plain_tokens: int

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestors(self, node: int) -> Ids:
        """The nodes above `node`, topmost first."""
        found = []
        while (node := int(self.parents[node])) >= 0:
            found.append(node)
        return np.array(found[::-1], dtype=np.int64)

    def text(self, number: int) -> list[int]:
        """All tokens of a text, recovered from its leaf."""
        leaf = int(self.leaves[number])
        path = [*self.ancestors(leaf).tolist(), leaf]
        return [*self.prefix.tolist(), *self.tokens[path].tolist()]

    def subset(self, numbers: Sequence[int]) -> Trie:
        """The trie of some of the texts, under the same prefix."""
        p = len(self.prefix)
        return _merge(self.prefix, [np.array(self.text(number)[p:], dtype=np.int64) for number in numbers])

    @cached_property
    def leaf_nodes(self) -> Ids:
        """Nodes at which texts end, sorted, each once."""
        return np.unique(self.leaves)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return len(self.prefix) + int(self.depths.max()) + 1


def build_trie(texts: Iterable[Sequence[int]]) -> Trie:
    """The trie of token sequences, each the tokens of a whole text: pieces would tokenise differently.

    The prefix is the longest common beginning that leaves every text a token of its own.

    Raises:
        ValueError: there is no text, or an empty one.
    """
    rows = [np.asarray(text, dtype=np.int32) for text in texts]
    if not rows or min(len(row) for row in rows) == 0:
        raise ValueError("a trie needs at least one text, and no text may be empty")
    first, p = rows[0], min(len(row) for row in rows) - 1
    for row in rows:
        differing = np.flatnonzero(row[:p] != first[:p])
        p = int(differing[0]) if len(differing) else p
    return _merge(first[:p].astype(np.int64), [row[p:] for row in rows])


def chunks(
    trie: Trie, start: int, size: int, *, with_token: bool, nodes: int | None = None, stop: int | None = None
) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of nodes from `start` to `stop`.

    A range has at most `size` positions: its nodes, and with a token one more for each text that ends
    there. With `nodes` only these appended positions count, and a range has at most `nodes` nodes.
    """
    stop = len(trie) if stop is None else stop
    leaves = trie.leaf_nodes
    while start < stop:
        most = min(stop, start + (size if nodes is None else nodes))
        before = np.searchsorted(leaves, start)
        if with_token:
            here = np.arange(start, most + 1)
            ending = np.searchsorted(leaves, here) - before
            positions = ending if nodes is not None else ending + here - start
            most = int(here[np.searchsorted(positions, size, side="right") - 1])
        yield start, most
        start = most


def _merge(prefix: Ids, suffixes: Sequence[npt.NDArray[Any]]) -> Trie:
    """Sorts the suffixes, so that a node is new exactly where a row departs from the row before."""
    lengths = np.array([len(suffix) for suffix in suffixes], dtype=np.int64)
    n, width = len(suffixes), int(lengths.max())
    table = np.full((n, width), -1, dtype=np.int64)  # -1 sorts a text before its own continuations
    for row, suffix in enumerate(suffixes):
        table[row, : len(suffix)] = suffix
    order = np.lexsort(table.T[::-1])
    table, lengths = table[order], lengths[order]

    column = np.arange(width)
    differs = np.ones((n, width), dtype=bool)
    differs[1:] = table[1:] != table[:-1]
    new = np.maximum.accumulate(differs, axis=1) & (column < lengths[:, None])  # (n, width)
    rows, columns = np.nonzero(new)  # row by row: preorder
    m = len(rows)
    node = np.full((n, width), -1, dtype=np.int64)
    node[rows, columns] = np.arange(m)
    node = np.maximum.accumulate(node, axis=0)  # of every row's own path, up to its length
    parents = np.where(columns > 0, node[rows, columns - 1], -1)

    sizes = np.ones(m, dtype=np.int64)
    for depth in range(width - 1, 0, -1):
        at = np.flatnonzero(columns == depth)
        np.add.at(sizes, parents[at], sizes[at])
    leaves = np.empty(n, dtype=np.int64)
    leaves[order] = node[np.arange(n), lengths - 1]
    return Trie(
        prefix=prefix,
        tokens=table[rows, columns],
        parents=parents,
        depths=columns.astype(np.int64),
        ends=np.arange(m) + sizes,
        leaves=leaves,
        plain_tokens=int(lengths.sum()) + n * len(prefix),
    )
