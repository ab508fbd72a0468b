"""Rows of what the model reads and what it shall write, as texts, and rows of free text.

Pairs are learnt as they stand, or as turns of a user and the assistant where `data.as_chat` has it so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from loracle.errors import DataError
from loracle.training.dataset.fields import FOR_TEMPLATE, is_nothing, is_text, left_aside, shown
from loracle.training.dataset.shapes.chats import chat_lists
from loracle.training.dataset.shapes.example import Example, Message
from loracle.training.dataset.shapes.registry import answer_in, for_template, shape, text_in

Row = Mapping[str, Any]

# What stands between the two texts of a pair: nothing where rows say themselves how a prompt ends.
BETWEEN = {("prompt", "completion"): "", ("prompt", "response"): "", ("question", "answer"): "\n"}
BETWEEN[("text", "label")] = "\n"

# R. Taori and others, Stanford Alpaca, 2023: train.py; with a line break behind the last heading, as in
# Alpaca-LoRA and Axolotl.
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)


# -- pairs ------------------------------------------------------------------------------------------


def _pair(asked: str, answer: str, row: Row, choices: tuple[str, ...], source: str) -> Example:
    if isinstance(row.get(asked), list | tuple):
        return chat_lists(row, (asked, answer), choices, source)
    texts = [text_in(row, asked, source), answer_in(row, answer, source)]
    unread = left_aside(row, (asked, answer, "choices"), texts, source)
    prompt = texts[0] + BETWEEN[asked, answer]
    return Example(source, prompt=prompt, completion=texts[1], choices=choices, unread=unread)


def _pair_as_chat(asked: str, answer: str, row: Row, choices: tuple[str, ...], source: str) -> Example:
    if isinstance(row.get(asked), list | tuple):
        return chat_lists(row, (asked, answer), choices, source)
    texts = text_in(row, asked, source), answer_in(row, answer, source)
    return _chat(row, (asked, answer), texts, choices, source)


for _asked, _answer in BETWEEN:
    _readers = (partial(_pair, _asked, _answer), partial(_pair_as_chat, _asked, _answer))
    shape(f"{_asked}/{_answer}", _asked, _answer, chat=_readers[1])(_readers[0])


# -- Alpaca -----------------------------------------------------------------------------------------


def _alpaca_as_chat(row: Row, choices: tuple[str, ...], source: str) -> Example:
    """`input` follows `instruction` behind an empty line; `system` and `history` come before, as in
    LLaMA-Factory."""
    asked = text_in(row, "instruction", source)
    if (more := _input(row, source)) is not None:
        asked += f"\n\n{more}"
    before: list[Message] = []
    if not is_nothing(row.get("history")):
        before += _earlier(row["history"], source)
    answer = answer_in(row, "output", source)
    return _chat(row, ("instruction", "input", "output", "history"), (asked, answer), choices, source, before)


@shape("alpaca", "instruction", "output", chat=_alpaca_as_chat)
def _alpaca(row: Row, choices: tuple[str, ...], source: str) -> Example:
    texts = [text_in(row, "instruction", source), answer_in(row, "output", source)]
    more = _input(row, source)
    prompt = f"{_WITHOUT_INPUT if more is None else _WITH_INPUT}### Instruction:\n{texts[0]}\n\n"
    if more is not None:
        texts.append(more)
        prompt += f"### Input:\n{more}\n\n"
    unread = left_aside(row, ("instruction", "input", "output", "choices"), texts, source)
    return Example(
        source, prompt=f"{prompt}### Response:\n", completion=texts[1], choices=choices, unread=unread
    )


def _input(row: Row, source: str) -> str | None:
    """What an instruction is about; None where there is nothing."""
    value = row.get("input")
    return None if is_nothing(value) or value == " " else text_in(row, "input", source)


def _earlier(history: Any, source: str) -> list[Message]:
    """Turns that came before: pairs of what was asked and answered; they are read, and not learnt."""
    pairs = history if isinstance(history, list | tuple) else [history]
    if not all(isinstance(p, list | tuple) and len(p) == 2 and all(map(is_text, p)) for p in pairs):
        raise DataError(f"{source}: history is a list of pairs of texts; got {shown(history)}")
    return [
        Message(role, text, learnt=role == "user")
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


# -- text -------------------------------------------------------------------------------------------


@shape("text", "text")
def _free_text(row: Row, choices: tuple[str, ...], source: str) -> Example:
    text = text_in(row, "text", source)
    unread = left_aside(row, ("text", "choices"), [text], source)
    return Example(source, text=text, choices=choices, unread=unread)


def _chat(
    row: Row,
    read: tuple[str, ...],
    texts: tuple[str, str],
    choices: tuple[str, ...],
    source: str,
    before: list[Message] | None = None,
) -> Example:
    """A pair of texts as turns of a user and the assistant, behind earlier ones and a row's `system`."""
    turns = [*(before or []), Message("user", texts[0]), Message("assistant", texts[1])]
    if not is_nothing(row.get("system")):
        turns.insert(0, Message("system", text_in(row, "system", source)))
    said = [str(turn.content) for turn in turns]
    unread = left_aside(row, (*read, "system", "choices", *FOR_TEMPLATE), said, source)
    beside = for_template(row, source)
    return Example(source, messages=tuple(turns), choices=choices, for_template=beside, unread=unread)
