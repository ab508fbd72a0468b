"""Datasets: read, check, split, take nested subsets, and turn examples into tokens.

Three forms of example: `prompt` and `completion`, `messages` (a chat), or `text`. The loss counts the tokens
of the completion (of every assistant turn, or of the whole text), its end-of-sequence token included.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeGuard

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from loracle.config import DataConfig
from loracle.errors import DataError, ModelError

Form = Literal["prompt and completion", "messages", "text"]
Indices = npt.NDArray[np.int64]

_FORMS: dict[Form, tuple[str, ...]] = {
    "prompt and completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_SPLIT_STREAM, _PROXY_STREAM = 1, 2  # one seed, independent random streams
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_ROWS_AT_ONCE = 4096  # texts in one call of the tokenizer

csv.field_size_limit(2**31 - 1)  # a long text is not an error


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One row of a dataset, in exactly one of the three forms.

    Attributes:
        source: `file:line` (or row), for errors.
        prompt, completion: what the model reads and what it shall write.
        messages: a chat; the last turn is the assistant's and plays the part of the completion.
        text: free text, learnt whole.
        choices: the answers that are possible, where a metric chooses among them.
    """

    source: str
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] = ()
    text: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """Which of the three forms the row has."""
        if self.messages:
            return "messages"
        return "text" if self.text is not None else "prompt and completion"

    @property
    def reference(self) -> str | None:
        """What the model shall write after the prompt; None for free text."""
        return self.messages[-1].content if self.messages else self.completion

    @property
    def content(self) -> tuple[Any, ...]:
        """Everything but where the row stands: equal for two rows that teach the same."""
        turns = tuple((turn.role, turn.content) for turn in self.messages)
        return (self.prompt, self.completion, turns, self.text, self.choices)


@dataclass(frozen=True)
class Splits:
    """Examples to train on, to choose by and to report on; `fingerprint` is the sha256 of all of them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    fingerprint: str


# -- splits and subsets -----------------------------------------------------------------------------


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Reads all files and splits off what has no file of its own, by seed.

    Identical rows never stand on both sides of an automatic split.

    Raises:
        DataError: a missing or malformed file, a row of a wrong or another form, one file in two roles,
            or an empty split.
    """
    files = {"train": config.train, "validation": config.validation, "test": config.test}
    given = {name: path for name, path in files.items() if path is not None}
    _refuse_shared_files(given)
    parts = {name: read_examples(path, config.format, f"data.{name}") for name, path in given.items()}
    for examples in parts.values():
        if examples[0].form != parts["train"][0].form:
            raise DataError(
                f"{examples[0].source}: rows are {examples[0].form}, but those of {config.train} are "
                f"{parts['train'][0].form}; all files need one form"
            )
    shares = {"test": config.test_fraction, "validation": config.validation_fraction}
    wanted = {name: round(share * len(parts["train"])) for name, share in shares.items() if name not in parts}
    for name, size in wanted.items():
        if size == 0:
            raise DataError(
                f"the {name} split is empty: {shares[name]:g} of {len(parts['train'])} examples; "
                f"raise data.{name}_fraction or name a file in data.{name}"
            )
    parts |= _carve(parts["train"], wanted, seed)
    if not parts["train"]:
        raise DataError(
            f"the train split is empty: {config.train} has too few distinct examples for "
            f"{' and '.join(f'data.{name}_fraction={shares[name]:g}' for name in wanted)}"
        )
    digest = hashlib.sha256()
    for name in ("train", "validation", "test"):
        digest.update(json.dumps([name, [e.content for e in parts[name]]]).encode())
    return Splits(parts["train"], parts["validation"], parts["test"], digest.hexdigest())


def proxy_size(n_examples: int, fraction: float, minimum: int) -> int:
    """Number of examples in a proxy: `fraction` of them, rounded up, but at least `minimum`, at most all."""
    return min(n_examples, max(math.ceil(fraction * n_examples - 1e-9), minimum))


def proxy_positions(n_examples: int, fraction: float, minimum: int, seed: int) -> Indices:
    """Sorted positions of a proxy, shape (proxy_size,). With one seed, a smaller proxy lies in a larger."""
    order = np.random.default_rng((_PROXY_STREAM, seed)).permutation(n_examples)
    return np.sort(order[: proxy_size(n_examples, fraction, minimum)]).astype(np.int64)


def _refuse_shared_files(given: Mapping[str, Path]) -> None:
    roles: dict[Path, str] = {}
    for name, path in given.items():
        other = roles.setdefault(path.resolve(), name)
        if other != name:
            raise DataError(
                f"data.{name} and data.{other} are one file ({path}); a model that has seen an example "
                f"cannot be judged by it. Leave out data.{name} for an automatic split"
            )


def _carve(
    examples: tuple[Example, ...], wanted: Mapping[str, int], seed: int
) -> dict[str, tuple[Example, ...]]:
    """Takes splits of at least the wanted sizes out of `examples`, which keep their order."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, example in enumerate(examples):
        groups.setdefault(example.content, []).append(position)
    identical = list(groups.values())
    order = iter(np.random.default_rng((_SPLIT_STREAM, seed)).permutation(len(identical)))
    parts: dict[str, tuple[Example, ...]] = {}
    rest = set(range(len(examples)))
    for name, size in wanted.items():
        taken: list[int] = []
        while len(taken) < size and (group := next(order, None)) is not None:
            taken += identical[group]
        rest -= set(taken)
        parts[name] = tuple(examples[i] for i in sorted(taken))
    return parts | {"train": tuple(examples[i] for i in sorted(rest))}


# -- reading ----------------------------------------------------------------------------------------


def read_examples(path: Path, file_format: str = "auto", key: str = "data") -> tuple[Example, ...]:
    """All rows of a file; `key` is the setting that named it, for errors. Raises as `load_splits`."""
    if not path.is_file():
        raise DataError(f"{key}: {path} {'is not a file' if path.exists() else 'does not exist'}")
    if file_format == "auto":
        if path.suffix.lower() not in _SUFFIXES:
            raise DataError(
                f"{key}: {path}: a suffix {path.suffix!r} tells no format; rename the file to one of "
                f"{', '.join(_SUFFIXES)} or set data.format"
            )
        file_format = _SUFFIXES[path.suffix.lower()]
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        "jsonl": _read_jsonl,
        "json": _read_json,
        "csv": _read_csv,
        "parquet": _read_parquet,
    }
    examples: list[Example] = []
    try:
        for source, row in readers[file_format](path):
            example = _example(row, source)
            if examples and example.form != examples[0].form:
                raise DataError(
                    f"{source}: a row of {example.form}, but {examples[0].source} has {examples[0].form}; "
                    "all rows need one form"
                )
            examples.append(example)
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text") from None
    if not examples:
        raise DataError(f"{key}: {path} holds no examples")
    return tuple(examples)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse_json(line, f"{path}:{number}")


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(rows, list):
        raise DataError(f"{path}: a JSON dataset is a list of objects; for one object a line, use .jsonl")
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        line = 1
        try:
            columns = len(reader.fieldnames or ())
            line = reader.line_num + 1  # where the next row begins; it may have several lines
            while (row := next(reader, None)) is not None:
                source = f"{path}:{line}"
                if "" in row or None in row.values():
                    raise DataError(f"{source}: a row needs {columns} columns")
                nested = {k: _parse_json(row[k], source) for k in ("messages", "choices") if row.get(k)}
                yield source, row | nested
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{line}: not valid CSV: {error}") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}: row {number}", row


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{source}{line}: not valid JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON: {error}") from None


def _example(row: Any, source: str) -> Example:
    if not isinstance(row, dict):
        raise DataError(f"{source}: a row is an object with fields; got {_shown(row)}")
    forms = [form for form, fields in _FORMS.items() if any(row.get(f) is not None for f in fields)]
    if len(forms) != 1:
        fields = ", ".join(map(_named, list(row)[:20])) or "none"
        problem = f"has fields of two forms ({forms[0]}; {forms[1]})" if forms else "has no form"
        raise DataError(
            f"{source}: a row {problem}; give prompt and completion, or messages, or text. "
            f"Its fields: {fields}"
        )
    choices = row.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(map(_is_text, choices)):
        raise DataError(f"{source}: choices is a list of texts; got {_shown(choices)}")
    if forms[0] == "messages":
        return Example(source, messages=_messages(row["messages"], source), choices=tuple(choices))
    for field in _FORMS[forms[0]]:
        if not _is_text(value := row.get(field)):
            raise DataError(f"{source}: {field} must be text; got {_shown(value)}")
        if not value.strip():
            raise DataError(f"{source}: {field} is empty")
    if forms[0] == "text":
        return Example(source, text=row["text"], choices=tuple(choices))
    return Example(source, prompt=row["prompt"], completion=row["completion"], choices=tuple(choices))


def _messages(value: Any, source: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{source}: messages is a list of turns; got {_shown(value)}")
    turns = []
    for turn in value:
        role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
        if not _is_text(role) or not _is_text(content):
            raise DataError(f"{source}: a turn is a role and a content, both text; got {_shown(turn)}")
        turns.append(Message(role, content))
    if turns[-1].role != "assistant" or not turns[-1].content.strip():
        raise DataError(
            f"{source}: the last turn must be the assistant's, with text to learn; "
            f"got {_named(turns[-1].role)}: {_shown(turns[-1].content)}"
        )
    if len(turns) == 1:
        raise DataError(f"{source}: a chat needs a turn before the assistant's")
    return tuple(turns)


def _is_text(value: Any) -> TypeGuard[str]:
    """A string that can be written as UTF-8; JSON escapes can spell half a character."""
    return isinstance(value, str) and _HALF_CHARACTER.search(value) is None


def _named(name: Any) -> str:
    """A field's name for a message of one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 60 else _shown(text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# -- tokens -----------------------------------------------------------------------------------------


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


Piece = tuple[str, bool]  # a stretch of text, and whether it counts in the loss


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
    special = {form: _opening(tokenizer) if form != "messages" else [] for form in _FORMS}
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
    return _chat_pieces(example, tokenizer)


def _chat_pieces(example: Example, tokenizer: Any) -> list[Piece]:
    """The rendered chat, cut before and after each assistant turn.

    Some templates render an early turn differently once later turns follow (they drop its thoughts):
    such a turn is read but not learnt.
    """
    whole = _render(example, len(example.messages), False, tokenizer)
    pieces: list[Piece] = []
    done = 0
    for number, turn in enumerate(example.messages):
        if turn.role != "assistant":
            continue
        last = number == len(example.messages) - 1
        before = _render(example, number, True, tokenizer) if number else ""
        after = whole if last else _render(example, number + 1, False, tokenizer)
        if whole.startswith(before) and whole.startswith(after) and done <= len(before) < len(after):
            pieces += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
            done = len(after)
        elif last:
            raise DataError(
                f"{example.source}: the chat template does not render the last turn after its own "
                "generation prompt, so training and generation would differ"
            )
    return [piece for piece in pieces if piece[0]]


def _render(example: Example, turns: int, generation: bool, tokenizer: Any) -> str:
    chat = [{"role": turn.role, "content": turn.content} for turn in example.messages[:turns]]
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation))
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        raise DataError(
            f"{example.source}: the chat template refuses these messages: {' '.join(str(error).split())}"
        ) from None
