"""Chats as the model's chat template renders them, cut where an assistant's turn begins and ends."""

from __future__ import annotations

from typing import Any

import jinja2

from loracle.errors import DataError
from loracle.examples import Example

Piece = tuple[str, bool]  # a stretch of text, and whether it counts in the loss


def chat_pieces(example: Example, tokenizer: Any) -> list[Piece]:
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
