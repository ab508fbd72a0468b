"""Chat templates: the user's own, for models that have none; and what one writes around an answer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from loracle.errors import DataError

_SAID = "Loracle wrote this"  # stands in no template
_TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True)
class Frame:
    """What a chat template writes around an answer that is plain text; nothing in rows that are no chats.

    Attributes:
        opening: between generation prompt and answer, as the empty thoughts of Qwen3.
        ending: behind it, up to the token that ends its turn: white space, or a mark that is no token.
        stop: the token that ends the turn; None: the template writes none.
    """

    opening: str = ""
    ending: str = ""
    stop: int | None = None

    @property
    def marks(self) -> bool:
        """Whether more than white space is written around an answer, or it ends at a token of its own."""
        return bool(self.opening.strip() or self.ending.strip()) or self.stop is not None

    def beside(self, stop_ids: Sequence[int]) -> Frame:
        """The frame where answers end at the model's own stop tokens anyway."""
        return replace(self, stop=None) if self.stop in stop_ids else self

    def stops(self, stop_ids: Sequence[int]) -> list[int]:
        """Tokens that an answer ends at: the model's own, and that of the template."""
        return list(dict.fromkeys([*stop_ids, *([] if self.stop is None else [self.stop])]))

    def answer(self, written: str) -> str:
        """The answer in what was written up to a stop token. Other marks and special tokens, as of tool calls
        and of thoughts that are not empty, are part of it."""
        opening, ending = self.opening.strip(), self.ending.strip()
        if written.startswith(self.opening):
            written = written.removeprefix(self.opening)  # of white space as much as the template writes
        elif opening and written.lstrip().startswith(opening):
            written = written.lstrip()[len(opening) :].lstrip()
        if self.ending:
            written = written.rstrip()
        return written[: -len(ending)].rstrip() if ending and written.endswith(ending) else written

    def spellings(self, answer: str) -> tuple[str, ...]:
        """All that may be written for an answer, without white space."""
        framed = "".join(f"{answer}{self.ending}".split())
        return framed, "".join(self.opening.split()) + framed


BARE = Frame()


def frame_of(tokenizer: Any) -> Frame:
    """What the tokenizer's chat template writes around an answer: asks the template itself. An empty frame
    where there is none, or where it does not render a question and its answer."""
    for as_parts in (False, True):  # templates of models that see read parts alone
        texts = (_TURNS[0]["content"], _SAID)
        said: list[Any] = [[{"type": "text", "text": text}] for text in texts] if as_parts else [*texts]
        turns = [{"role": turn["role"], "content": one} for turn, one in zip(_TURNS, said, strict=True)]
        with contextlib.suppress(Exception):  # a template is a program of its own, and raises anything
            whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
            before, found, behind = whole.rpartition(_SAID)
            asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
            if found:
                opening = before[len(asked) :] if before.startswith(asked) else ""
                return Frame(opening, *_end(tokenizer, behind))
    return BARE


def _end(tokenizer: Any, behind: str) -> tuple[str, int | None]:
    """What stands behind an answer: the text before the first token that has a name of its own, and that
    token."""
    named = {str(token): int(i) for i, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    places = [(behind.index(name), -len(name), name) for name in named if name in behind]
    if not places:
        return behind, None
    place, _, name = min(places)
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return (behind[:place], named[name]) if named[name] in ids else (behind, None)


def give_template(tokenizer: Any, path: Path | None) -> None:
    """Gives a tokenizer the chat template in a file, in the place of its own; None: it keeps that.

    Raises:
        DataError: the file cannot be read, or is no template.
    """
    if path is None:
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"data.template: {path} cannot be read: {reason}") from None
    if "messages" not in text:
        raise DataError(
            f"data.template: {path} names no messages, so it would render the same for every chat"
        )
    try:
        tokenizer.apply_chat_template(_TURNS, chat_template=text, tokenize=False)
    except TemplateSyntaxError as error:
        said = " ".join(str(error.message).split())
        raise DataError(f"data.template: {path}:{error.lineno}: not a chat template: {said}") from None
    except Exception:  # of any kind: a template is a program, and may refuse these turns
        pass
    tokenizer.chat_template = text
