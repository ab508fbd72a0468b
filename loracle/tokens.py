"""Examples as tokens, and which of them count in the loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loracle.chat import Piece, chat_pieces
from loracle.errors import DataError, ModelError
from loracle.examples import FORMS, Example

Indices = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 4096  # texts in one call of the tokenizer


@dataclass(frozen=True)
class Encoded:
    """Examples as tokens, stored flat: example i is `tokens[starts[i]:ends[i]]`.

    Attributes:
        tokens: (total,) token ids.
        counted: (total,) whether a token counts in the loss; never the first of an example.
        starts, ends: (n,) bounds of each example.
        prompt_lengths: (n,) tokens before the last completion: what generation starts from.
        counts: (n,) tokens that count in the loss.
        positions: (n,) which of the examples given each is.
        dropped: examples that were too long.
    """

    tokens: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]
    starts: Indices
    ends: Indices
    prompt_lengths: Indices
    counts: Indices
    positions: Indices
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Indices:
        """Tokens of each example, shape (n,)."""
        return self.ends - self.starts

    def select(self, chosen: npt.ArrayLike) -> Encoded:
        """The chosen examples, in the given order; no token is copied."""
        index = np.asarray(chosen, dtype=np.int64)
        return replace(
            self,
            starts=self.starts[index],
            ends=self.ends[index],
            prompt_lengths=self.prompt_lengths[index],
            counts=self.counts[index],
            positions=self.positions[index],
        )


@dataclass(frozen=True)
class _Row:
    """Tokens of one example before they are stored flat."""

    tokens: list[int]
    counted: list[bool]
    prompt_length: int


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    max_length: int,
    too_long: Literal["drop", "error"] = "drop",
    *,
    stop_ids: Collection[int] | None = None,
    remedy: str = "raise data.max_length",
) -> Encoded:
    """Examples as tokens, with the tokens that count in the loss.

    The prompt's tokens are those that the prompt has alone, so that generation sees what training saw.
    A completion ends with a token of `stop_ids` (default: the tokenizer's end-of-sequence token), which
    is added where text or chat template bring none. `remedy` is what errors advise against too long ones.

    Raises:
        DataError: an example of more than `max_length` tokens where `too_long` is `error`; more than half
            of them, or all, where it is `drop`; messages that the chat template refuses, or no template.
        ModelError: the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-sequence token, so no completion could end")
    stops = set(stop_ids) if stop_ids is not None else {int(tokenizer.eos_token_id)}
    rows: list[_Row] = []
    positions: list[int] = []
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        block = examples[start : start + _ROWS_AT_ONCE]
        for offset, row in enumerate(_tokenise(block, tokenizer, stops)):
            if row.prompt_length == 0 and block[offset].form != "text":
                raise DataError(f"{block[offset].source}: the tokenizer finds no token in the prompt")
            if len(row.tokens) <= max_length:
                rows.append(row)
                positions.append(start + offset)
            elif too_long == "error":
                raise DataError(
                    f"{block[offset].source}: {len(row.tokens)} tokens, but {max_length} are allowed; "
                    f"shorten it, {remedy} or set data.too_long: drop"
                )
    dropped = len(examples) - len(rows)
    if not rows or dropped > len(examples) / 2:
        raise DataError(
            f"{dropped} of {len(examples)} examples have more than {max_length} tokens (the first: "
            f"{_first_dropped(examples, positions)}); {remedy} or shorten them"
        )
    return _flat(rows, positions, dropped)


def _first_dropped(examples: Sequence[Example], kept: list[int]) -> str:
    missing = set(range(len(examples))) - set(kept)
    return examples[min(missing)].source if missing else "none"


def _flat(rows: list[_Row], positions: list[int], dropped: int) -> Encoded:
    ends = np.cumsum([len(row.tokens) for row in rows], dtype=np.int64)
    counted = np.array([flag for row in rows for flag in row.counted], dtype=np.bool_)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return Encoded(
        tokens=np.array([token for row in rows for token in row.tokens], dtype=np.int32),
        counted=counted,
        starts=starts,
        ends=ends,
        prompt_lengths=np.array([row.prompt_length for row in rows], dtype=np.int64),
        counts=np.add.reduceat(counted, starts, dtype=np.int64),
        positions=np.array(positions, dtype=np.int64),
        dropped=dropped,
    )


def _tokenise(block: Sequence[Example], tokenizer: Any, stops: set[int]) -> Iterator[_Row]:
    """Rows of a block of examples. Pieces keep the tokens that they have when everything before is given.

    Where the tokens of a prompt are not the first tokens of the whole (a merge across the boundary), the
    pieces are tokenised one by one: the boundary is exact in both cases.
    """
    pieces = [_pieces(example, tokenizer) for example in block]
    beginnings = [
        "".join(text for text, _ in own[: count + 1]) for own in pieces for count in range(len(own))
    ]
    ids = iter(_ids(beginnings, tokenizer))
    special = {form: _opening(tokenizer) if form != "messages" else [] for form in FORMS}
    for example, own in zip(block, pieces, strict=True):
        growing = [next(ids) for _ in own]
        whole = growing[-1]
        if all(whole[: len(part)] == part for part in growing):
            bounds = [0, *(len(part) for part in growing)]
            parts = [whole[a:b] for a, b in pairwise(bounds)]
        else:
            parts = _ids([text for text, _ in own], tokenizer)
        yield _row(special[example.form], parts, [flag for _, flag in own], stops, tokenizer.eos_token_id)


def _row(opening: list[int], parts: list[list[int]], flags: list[bool], stops: set[int], end: int) -> _Row:
    """Joins pieces: a counted piece counts up to its last stop token, and the example ends with one."""
    tokens, counted = list(opening), [False] * len(opening)
    prompt_length = len(tokens)
    for number, (part, flag) in enumerate(zip(parts, flags, strict=True)):
        last_stop = max((i for i, token in enumerate(part) if token in stops), default=None)
        if number == len(parts) - 1:
            prompt_length = len(tokens)
            part = [*part, end] if last_stop is None else part[: last_stop + 1]
            last_stop = len(part) - 1
        learnt = len(part) if last_stop is None else last_stop + 1
        tokens += part
        counted += [flag and i < learnt for i in range(len(part))]
    counted[0] = False  # nothing stands before it to predict it from
    return _Row(tokens, counted, prompt_length)


def _ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _opening(tokenizer: Any) -> list[int]:
    """Special tokens that the tokenizer puts before a text, such as begin-of-sequence."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    dressed: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(dressed) - len(plain) + 1):
        if dressed[start : start + len(plain)] == plain:
            return dressed[:start]
    return []


def _pieces(example: Example, tokenizer: Any) -> list[Piece]:
    if example.text is not None:
        return [(example.text, True)]
    if not example.messages:
        return [(example.prompt or "", False), (example.completion or "", True)]
    if tokenizer.chat_template is None:
        raise DataError(
            f"{example.source}: rows are messages, but the tokenizer has no chat template; use a chat model "
            "or rows of prompt and completion"
        )
    return chat_pieces(example, tokenizer)
