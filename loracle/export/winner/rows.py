"""The rows that the winner was trained on, for trainers that read files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loracle.errors import LoracleError, StudyError
from loracle.export.winner.reading import Winner

if TYPE_CHECKING:
    from loracle.training.dataset.shapes import Example, Message
    from loracle.training.dataset.tokens import Encoded


def training_rows(winner: Winner, *, as_tokens: bool = False) -> tuple[Example, ...]:
    """The examples of the final training, in the order of the data; checked against what was recorded.

    `as_tokens`: whether they are exported as tokens, each with whether it counts.

    Raises:
        LoracleError: the data cannot be read, or is not what was trained on.
    """
    config = winner.config
    if config.data.loss_on == "all" and not as_tokens:
        raise StudyError(
            f"{config.output}: this run learnt every token (data.loss_on: all), which exports with rows of "
            "text cannot say; export to peft, torchtune, merged, gguf or vllm"
        )
    splits = winner.splits
    recorded = winner.provenance.get("data", {})
    rows = splits.train
    if recorded.get("dropped", {}).get("train"):
        rows = _short_enough(winner, rows)
    known = recorded.get("fingerprint", splits.fingerprint)
    if known != splits.fingerprint or len(rows) != winner.trained["examples"]:
        raise StudyError(
            f"{config.data.train}: the rows are no longer those that were trained on ({len(rows):,} now, "
            f"{winner.trained['examples']:,} then, contents compared); put the file back as it was"
        )
    return rows


def _short_enough(winner: Winner, rows: Sequence[Example]) -> tuple[Example, ...]:
    encoded = encoded_rows(winner, rows)
    return tuple(rows[i] for i in encoded.positions)


def encoded_rows(winner: Winner, rows: Sequence[Example]) -> Encoded:
    """Rows as the final training read them; those that are too long are left out."""
    from loracle.training.dataset.tokenizer import load_reading

    config = winner.config
    return load_reading(config).kept(rows, config.data)


def batched_rows(winner: Winner, rows: Sequence[Example]) -> Encoded:
    """What the batches of the final training were made of: rows or, where it packed, blocks of them."""
    from loracle.training.dataset.blocks import rows_of
    from loracle.training.dataset.tokenizer import load_reading

    reading, data = load_reading(winner.config), winner.config.data
    return rows_of(reading.kept(rows, data), data, reading.longest(data))


def ends_of_rows(winner: Winner) -> tuple[str, str]:
    """Special tokens that the tokenizer puts before a text, and the one that ends a completion, as text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(winner.adapter)
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    before = len(whole) - len(plain) if whole[-len(plain) :] == plain else 0
    return tokenizer.decode(whole[:before]) if before else "", str(tokenizer.eos_token)


def turn_stops(winner: Winner) -> list[int]:
    """Tokens that an answer ends at, where the chat template ends turns with another than the model's own;
    else none."""
    from loracle.training.dataset.template import frame_of
    from loracle.training.dataset.tokenizer import load_reading

    if winner.splits.train[0].form != "messages":
        return []
    reading = load_reading(winner.config)
    frame = frame_of(reading.tokenizer).beside(reading.stop_ids)
    return [] if frame.stop is None else frame.stops(reading.stop_ids)


def respelt_rows(
    winner: Winner, rows: Sequence[Example], trainer: str, *, reads_parts: bool = False
) -> tuple[Example, ...]:
    """Rows whose turns, as they stand in `train.jsonl`, the chat template renders as in the run.

    A content is one text in all turns or, where the template renders texts otherwise and the trainer hands
    over what it reads (`reads_parts`), a list of parts in all of them.

    Raises:
        LoracleError: the template renders some row neither so nor so.
    """
    if not rows[0].messages:
        return tuple(rows)
    from loracle.training.dataset.chat import Chats
    from loracle.training.dataset.tokenizer import load_reading

    chats = Chats(load_reading(winner.config).tokenizer)
    odd = ""
    for in_parts in (False, True) if reads_parts else (False,):
        found: list[Example] = []
        for row in rows:
            turns = chats.respelt(row, in_parts=in_parts)
            if turns is None:
                odd = odd or row.source
                break
            found.append(replace(row, messages=tuple(map(_respelt, row.messages, turns))))
        if len(found) == len(rows):
            return tuple(found)
    other = "" if reads_parts else "trl, or to "
    raise LoracleError(
        f"{odd}: the chat template renders this row otherwise where each turn is one text, which is all that "
        f"{trainer} reads; export --to {other}torchtune, which takes tokens"
    )


def _respelt(message: Message, turn: Mapping[str, Any]) -> Message:
    content = turn["content"]
    more = {name: value for name, value in turn.items() if name not in ("role", "content")}
    if isinstance(content, list):
        return replace(message, more=more, parts=tuple(part["text"] for part in content))
    return replace(message, content=content, more=more, parts=())


def plain_row(row: Example) -> dict[str, Any]:
    """A row as most trainers read it: `text`, `prompt` and `completion`, or `messages`."""
    if row.form == "messages":
        return {"messages": [turn.as_turn for turn in row.messages]}
    return {"text": row.text} if row.form == "text" else {"prompt": row.prompt, "completion": row.completion}


def about_skipped_turns(rows: Sequence[Example], trainer: str) -> Iterator[str]:
    """In words, that some turn of an assistant is read and not learnt (`weight: 0`)."""
    if any(not turn.learnt for row in rows for turn in row.messages):
        yield f"turns of weight 0: {trainer} learns them, Loracle read them only"


def single_answers(rows: Sequence[Example]) -> bool:
    """Whether every chat has one answer, which is its last turn."""
    return all(sum(turn.role == "assistant" for turn in row.messages) == 1 for row in rows)


def require_plain_turns(rows: Sequence[Example], dialect: str) -> None:
    """Raises LoracleError: a turn or row holds more than texts, and the dialect has no place for it."""
    for row in rows:
        more = {name for turn in row.messages for name in turn.more} | set(row.for_template)
        if more:
            raise LoracleError(
                f"{row.source}: {', '.join(sorted(more))} has no place in the data of {dialect}; "
                "export --to trl, which takes chats whole"
            )
