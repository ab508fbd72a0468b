"""Examples as tokens, and which of them count in the loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loracle.errors import DataError, ModelError
from loracle.training.dataset.chat import Chats, Piece, Remarks
from loracle.training.dataset.fields import shown
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.template import Frame, frame_of

Indices = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 4096  # texts in one call of the tokenizer
_ANCHORS = ("", "\n", "a", ".", "0")  # what a continuation is tokenised behind
_LOOK_AHEAD = 16  # tokens that are looked at together, to see whether they are white space


@dataclass(frozen=True)
class Parts:
    """Which example the tokens of blocks belong to.

    Attributes:
        owners: (total,) which of the examples given each token is of.
        places: (total,) which token of its example it is, from 0.
    """

    owners: Indices
    places: Indices


@dataclass(frozen=True)
class Encoded:
    """Examples as tokens, stored flat: example i is `tokens[starts[i]:ends[i]]`.

    Where rows are blocks of several examples (`blocks.py`), "example" means a block here.

    Attributes:
        tokens: (total,) token ids.
        counted: (total,) whether a token counts in the loss; never the first of an example.
        starts, ends: (n,) bounds of each example.
        prompt_lengths: (n,) tokens before the last completion: what generation starts from.
        counts: (n,) tokens that count in the loss.
        positions: (n,) which of the examples given each is; 0 of blocks.
        goes_on: (n,) whether the last completion goes on behind a stop token, where generation ends.
        dropped: examples that were too long.
        remarks: what else the user should know of the examples given.
        parts: of blocks, what their tokens belong to.
    """

    tokens: npt.NDArray[np.int32]
    counted: npt.NDArray[np.bool_]
    starts: Indices
    ends: Indices
    prompt_lengths: Indices
    counts: Indices
    positions: Indices
    goes_on: npt.NDArray[np.bool_]
    dropped: int = 0
    remarks: Remarks = field(default_factory=Remarks)
    parts: Parts | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_examples(self) -> int:
        """How many there are, those of blocks each for itself."""
        if self.parts is None:
            return len(self)
        begun = np.append(0, np.cumsum(self.parts.places == 0))
        return int((begun[self.ends] - begun[self.starts]).sum())

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
            goes_on=self.goes_on[index],
        )


@dataclass(frozen=True)
class _Row:
    """Tokens of one example before they are stored flat."""

    tokens: list[int]
    counted: list[bool]
    prompt_length: int
    goes_on: bool


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    max_length: int,
    too_long: Literal["drop", "error"] = "drop",
    *,
    stop_ids: Collection[int] | None = None,
    remedy: str = "raise data.max_length",
    learn_all: bool = False,
) -> Encoded:
    """Examples as tokens, with the tokens that count in the loss.

    The prompt's tokens are those that the prompt has alone, so that generation sees what training saw.
    A completion ends with a token of `stop_ids` (default: the tokenizer's end-of-sequence token), which
    is added where text or chat template bring none. Nothing behind a stop token is cut off but white space.
    `remedy` is what errors advise against too long ones. `learn_all`: every token counts that has one before
    it, prompts included.

    Raises:
        DataError: an example of more than `max_length` tokens where `too_long` is `error`; more than half
            of them, or all, where it is `drop`; messages that the chat template refuses or does not render
            whole, or no template; a prompt or completion without tokens.
        ModelError: the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-sequence token, so no completion could end")
    stops = set(stop_ids) if stop_ids is not None else {int(tokenizer.eos_token_id)}
    maker = _Maker(tokenizer, stops, learn_all)
    rows: list[_Row] = []
    positions: list[int] = []
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        block = examples[start : start + _ROWS_AT_ONCE]
        for offset, row in enumerate(maker.rows(block)):
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
    return replace(_flat(rows, positions), dropped=dropped, remarks=maker.remarks)


def _first_dropped(examples: Sequence[Example], kept: list[int]) -> str:
    missing = set(range(len(examples))) - set(kept)
    return examples[min(missing)].source if missing else "none"


def _flat(rows: list[_Row], positions: list[int]) -> Encoded:
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
        goes_on=np.array([row.goes_on for row in rows], dtype=np.bool_),
    )


class _Maker:
    """Makes rows of tokens, and keeps what is worth remarking."""

    def __init__(self, tokenizer: Any, stops: set[int], learn_all: bool = False) -> None:
        self.tokenizer = tokenizer
        self.learn_all = learn_all
        self.stops = stops
        self._chats = Chats(tokenizer)
        self.remarks = self._chats.remarks
        self._frame: Frame | None = None  # of chats
        self._opening = _opening(tokenizer)
        unknown = tokenizer.unk_token_id
        self._unknown = None if unknown in stops else unknown  # GPT-2 names one token for both
        self._blank: dict[tuple[int, ...], bool] = {}

    def rows(self, block: Sequence[Example]) -> Iterator[_Row]:
        """Rows of a block of examples. Pieces keep the tokens that they have when everything before is given.

        Where the tokens of a prompt are not the first tokens of the whole (a merge across the boundary), the
        prompt keeps those that it has alone and the rest goes on from there: the boundary is exact in both
        cases, and the tokens spell the same text.
        """
        pieces = [self._pieces(example) for example in block]
        beginnings = [
            "".join(text for text, _ in own[: count + 1]) for own in pieces for count in range(len(own))
        ]
        ids = iter(_ids(beginnings, self.tokenizer))
        for example, own in zip(block, pieces, strict=True):
            growing = [next(ids) for _ in own]
            parts = self._parts([text for text, _ in own], growing, example.source)
            if not example.text and not any(parts[:-1]):
                raise DataError(f"{example.source}: the tokenizer finds no token in the prompt")
            if not parts[-1]:
                what = "text" if example.text else "completion"
                raise DataError(f"{example.source}: the tokenizer finds no token in the {what}")
            opening = [] if example.messages or self._is_opened(growing[-1]) else self._opening
            row = self._row(opening, parts, [flag for _, flag in own], self._ends(example))
            size = len(self._opening)
            self.remarks.doubled += bool(size) and self._is_opened(row.tokens[size:])
            self.remarks.unopened += bool(example.messages) and not self._is_opened(row.tokens)
            yield row

    def _pieces(self, example: Example) -> list[Piece]:
        if example.text is not None:
            return [(example.text, True)]
        if not example.messages:
            return [(example.prompt or "", False), (example.completion or "", True)]
        if self.tokenizer.chat_template is None:
            raise DataError(
                f"{example.source}: rows are messages, but the tokenizer has no chat template; name a file "
                "with one in data.template, or use a chat model or rows of prompt and completion"
            )
        return self._chats.pieces(example)

    def _is_opened(self, tokens: list[int]) -> bool:
        """Whether a row brings the special tokens that open a text."""
        return tokens[: len(self._opening)] == self._opening

    def _parts(self, texts: list[str], growing: list[list[int]], source: str) -> list[list[int]]:
        """Tokens of each piece. `growing` are the tokens of the first piece, of the first two, and so on."""
        done: list[int] = []
        parts: list[list[int]] = []
        before = ""
        for text, whole in zip(texts, growing, strict=True):
            part: list[int] | None = whole[len(done) :]
            if whole[: len(done)] != done:
                part = self._continuation(done, text, whole, before)
            if part is None:
                raise DataError(
                    f"{source}: the tokenizer cannot write {shown(text)} behind what stands before it; move "
                    "the boundary between prompt and completion to the end of a word"
                )
            parts.append(part)
            done = done + part
            before += text
        return parts

    def _continuation(self, done: list[int], text: str, whole: list[int], before: str) -> list[int] | None:
        """Tokens that go on from `done` with `text`, so that all of them spell what `whole` spells.

        The tokens that the text has alone are tried first. Tokenizers like Llama 2's put a space before
        whatever comes first; the tokens behind another character do not have it. Where the tokenizer cannot
        spell a text exactly anyway, as one that joins all tokens with spaces, white space is not compared.
        """
        spelt = self._decode(whole)
        found = []
        for anchor in _ANCHORS:
            ids, start = (
                _ids([anchor + text, anchor], self.tokenizer)
                if anchor
                else (_ids([text], self.tokenizer)[0], [])
            )
            if ids[: len(start)] == start:
                found.append(ids[len(start) :])
                if self._decode(done + found[-1]) == spelt:
                    return found[-1]
        if spelt != before + text:
            # One of whole words may know both pieces and not the word that they make together.
            dense = {"".join(whole_text.split()) for whole_text in (before + text, spelt)}
            return next((part for part in found if "".join(self._decode(done + part).split()) in dense), None)
        return None

    def _ends(self, example: Example) -> set[int]:
        """Tokens that generation ends at."""
        if not example.messages:
            return self.stops
        self._frame = self._frame or frame_of(self.tokenizer)
        return set(self._frame.stops([*self.stops]))

    def _row(
        self, opening: list[int], parts: list[list[int]], flags: list[bool], ends: Collection[int]
    ) -> _Row:
        """Joins pieces. White space behind a stop token does not count, and goes from the end of the row."""
        tokens, counted = list(opening), [False] * len(opening)
        for part, flag in zip(parts[:-1], flags[:-1], strict=True):
            learnt = self._closed(part) or len(part)
            tokens += part
            counted += [flag and i < learnt for i in range(len(part))]
        prompt_length = len(tokens)
        end = self._closed(parts[-1])
        last = parts[-1][:end] if end else [*parts[-1], self._last_stop([*tokens, *parts[-1]])]
        tokens += last
        counted += [flags[-1]] * len(last)
        if self.learn_all:
            counted = [True] * len(tokens)
        counted[0] = False  # nothing stands before it to predict it from
        self.remarks.unknown += self._unknown in tokens
        return _Row(tokens, counted, prompt_length, self._goes_on(last, ends))

    def _closed(self, part: list[int]) -> int | None:
        """Tokens up to the last stop token, where only white space follows it; None where more does."""
        last = max((i for i, token in enumerate(part) if token in self.stops), default=None)
        return last + 1 if last is not None and self._is_blank(part[last + 1 :]) else None

    def _goes_on(self, last: list[int], ends: Collection[int]) -> bool:
        """Whether something follows the first of the tokens that generation ends at but white space and
        further ones."""
        first = next(i for i, token in enumerate(last) if token in ends)
        return not self._is_blank([token for token in last[first:] if token not in ends])

    def _last_stop(self, tokens: list[int]) -> int:
        """The stop token that a row uses itself, else the tokenizer's end-of-sequence token."""
        own = (token for token in reversed(tokens) if token in self.stops)
        return next(own, int(self.tokenizer.eos_token_id))

    def _is_blank(self, tokens: list[int]) -> bool:
        key = tuple(tokens[:_LOOK_AHEAD])
        if key not in self._blank:
            self._blank[key] = not self._decode(list(key)).strip()
        return self._blank[key] and (len(tokens) <= _LOOK_AHEAD or self._is_blank(tokens[_LOOK_AHEAD:]))

    def _decode(self, tokens: list[int]) -> str:
        return str(
            self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )


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
