"""One row of a dataset as an example: the forms that a row can have, and what is wrong with others.

Three forms: `prompt` and `completion`, `messages` (a chat), or `text`. The loss counts the tokens of the
completion (of every assistant turn, or of the whole text), its end-of-sequence token included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from loracle.errors import DataError

Form = Literal["prompt and completion", "messages", "text"]

FORMS: dict[Form, tuple[str, ...]] = {
    "prompt and completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


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


def as_example(row: Any, source: str) -> Example:
    """A row of a file as an example; `source` says where it stands. Raises DataError, in one line."""
    if not isinstance(row, dict):
        raise DataError(f"{source}: a row is an object with fields; got {_shown(row)}")
    forms = [form for form, fields in FORMS.items() if any(row.get(f) is not None for f in fields)]
    if len(forms) != 1:
        fields = ", ".join(map(_named, list(row)[:20])) or "none"
        problem = f"has fields of two forms ({forms[0]}; {forms[1]})" if forms else "has no form"
        raise DataError(
            f"{source}: a row {problem}; give prompt and completion, or messages, or text. "
            f"Its fields: {fields}"
        )
    choices = row.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(map(is_text, choices)):
        raise DataError(f"{source}: choices is a list of texts; got {_shown(choices)}")
    if forms[0] == "messages":
        return Example(source, messages=_messages(row["messages"], source), choices=tuple(choices))
    for field in FORMS[forms[0]]:
        if not is_text(value := row.get(field)):
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
        if not is_text(role) or not is_text(content):
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


def is_text(value: Any) -> TypeGuard[str]:
    """A string that can be written as UTF-8; JSON escapes can spell half a character."""
    return isinstance(value, str) and _HALF_CHARACTER.search(value) is None


def _named(name: Any) -> str:
    """A field's name for a message of one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 60 else _shown(text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
