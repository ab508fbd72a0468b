"""Blocks: several examples in one row of at most so many tokens, so that little is filled up.

Best fit decreasing (Johnson 1973), as TRL packs with the strategy `bfd`: the longest example comes first,
and each goes into the fullest block that has room for it; of equally full ones into the oldest. It depends on
the lengths alone, so that all trainings on the same examples have the same blocks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from loracle.config.data.settings import DataConfig
from loracle.training.dataset.tokens import Encoded, Parts

Indices = npt.NDArray[np.int64]


def best_fit(lengths: Indices, most: int) -> list[list[int]]:
    """Which examples each block has, of lengths (n,) that are `most` or less each."""
    blocks: list[list[int]] = []
    rooms: list[int] = []  # that some block has left, ascending, each once
    with_room: defaultdict[int, deque[int]] = defaultdict(deque)
    for i in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[i])
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms[place]
            block = with_room[room].popleft()
            if not with_room[room]:
                del rooms[place]
        else:
            room, block = most, len(blocks)
            blocks.append([])
        blocks[block].append(i)
        left = room - length
        if left and not with_room[left]:
            insort(rooms, left)
        with_room[left].append(block)
    return blocks


def rows_of(encoded: Encoded, data: DataConfig, most: int) -> Encoded:
    """What batches are made of: the examples or, with `data.packing`, blocks of at most `most` tokens."""
    return in_blocks(encoded, most) if data.packing else encoded


def in_blocks(encoded: Encoded, most: int) -> Encoded:
    """The examples in blocks of at most `most` tokens: each block is a row, in which no example is cut."""
    return _joined(encoded, best_fit(encoded.lengths, most))


def _joined(encoded: Encoded, blocks: Sequence[Sequence[int]]) -> Encoded:
    members = np.array([i for block in blocks for i in block], dtype=np.int64)
    lengths = encoded.lengths[members]
    firsts = np.cumsum(lengths) - lengths  # (n,), where each example begins
    places = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(firsts, lengths)  # (total,)
    tokens = np.repeat(encoded.starts[members], lengths) + places
    sizes = np.array([len(block) for block in blocks], dtype=np.int64)
    begins = np.cumsum(sizes) - sizes  # (n blocks,), of their members
    starts, last = firsts[begins], begins + sizes - 1
    zeros = np.zeros(len(blocks), dtype=np.int64)
    return replace(
        encoded,
        tokens=encoded.tokens[tokens],
        counted=encoded.counted[tokens],
        starts=starts,
        ends=firsts[last] + lengths[last],
        prompt_lengths=zeros,  # nothing is written behind a block
        counts=np.add.reduceat(encoded.counts[members], begins),
        positions=zeros,
        goes_on=zeros.astype(np.bool_),
        parts=Parts(owners=np.repeat(encoded.positions[members], lengths), places=places),
    )


def unpacked(encoded: Encoded) -> Encoded:
    """The examples of blocks, block by block, each a row again."""
    parts = encoded.parts
    if parts is None:
        return encoded
    begins = np.flatnonzero(parts.places == 0)
    ends = np.append(begins[1:], len(encoded.tokens))
    order = np.concatenate(
        [
            np.arange(*np.searchsorted(begins, (start, end)))
            for start, end in zip(encoded.starts, encoded.ends, strict=True)
        ]
    )
    starts, ends = begins[order], ends[order]
    sums = np.append(0, np.cumsum(encoded.counted))
    zeros = np.zeros(len(starts), dtype=np.int64)
    return replace(
        encoded,
        starts=starts,
        ends=ends,
        prompt_lengths=zeros,
        counts=sums[ends] - sums[starts],
        positions=parts.owners[starts],
        goes_on=zeros.astype(np.bool_),
        parts=None,
    )
