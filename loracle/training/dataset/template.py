"""A chat template of the user's own, for models that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from loracle.errors import DataError

_TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


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
