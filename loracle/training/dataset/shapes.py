"""One row of a dataset as an example: the shapes that a row can have, and what is wrong with others.

A new shape is a function, registered with `shape`, that makes an example of one of three forms: `prompt` and
`completion`, `messages` (a chat), or `text`. The loss counts the tokens of the completion (of every assistant
turn, or of the whole text), its end-of-sequence token included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from loracle.errors import DataError
from loracle.training.dataset.fields import (
    FOR_TEMPLATE,
    TURN_CONTENT,
    check_texts,
    instead,
    is_nothing,
    is_text,
    leaves,
    left_aside,
    named,
    parse_json,
    shown,
    turn_content,
    turn_weight,
)

Form = Literal["prompt and completion", "messages", "text"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role, content: who says what; no content where a turn only calls tools.
        more: all other fields of the turn, for the chat template.
        learnt: False for a turn of weight 0, which is read and not learnt.
    """

    role: str
    content: str | None
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    learnt: bool = True

    @property
    def as_turn(self) -> dict[str, Any]:
        """The turn as the chat template is given it."""
        return {"role": self.role, "content": self.content, **self.more}

    @property
    def says(self) -> tuple[Any, ...]:
        """Equal for turns that the chat template renders alike."""
        return (self.role, self.content, *([_canonical(self.more)] if self.more else []))


@dataclass(frozen=True)
class Example:
    """One row of a dataset, in exactly one of the three forms.

    Attributes:
        source: `file:line` (or row), for errors.
        prompt, completion: what the model reads and what it shall write.
        messages: a chat; the last turn is the assistant's and plays the part of the completion.
        text: free text, learnt whole.
        choices: the answers that are possible, where a metric chooses among them.
        for_template: fields of the row that the chat template is given, such as `tools`.
        unread: names of fields that hold something and are not read.
    """

    source: str
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] = ()
    text: str | None = None
    choices: tuple[str, ...] = ()
    for_template: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unread: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """Which of the three forms the row has."""
        if self.messages:
            return "messages"
        return "text" if self.text is not None else "prompt and completion"

    @property
    def reference(self) -> str | None:
        """What the model shall write after the prompt; None for free text, and where only the chat template
        can tell: for a last turn that calls tools or thinks."""
        if not self.messages:
            return self.completion
        last = self.messages[-1]
        return None if TURN_CONTENT & last.more.keys() else last.content

    @property
    def content(self) -> tuple[Any, ...]:
        """Everything but where the row stands: equal for two rows that teach the same."""
        turns = tuple(turn.says for turn in self.messages)
        skipped = tuple(i for i, turn in enumerate(self.messages) if not turn.learnt)
        extra = (_canonical(self.for_template), skipped) if self.for_template or skipped else ()
        return (self.prompt, self.completion, turns, self.text, self.choices, *extra)

    @property
    def question(self) -> tuple[Any, ...]:
        """All that stands before the answer: equal for rows that ask the same. A text asks for itself."""
        if not self.messages:
            return (self.text,) if self.text is not None else (self.prompt,)
        return (tuple(turn.says for turn in self.messages[:-1]), _canonical(self.for_template))


Reader = Callable[[Mapping[str, Any], tuple[str, ...], str], Example]


@dataclass(frozen=True)
class Shape:
    """One way to write a row. A row has it that has any of its fields.

    `read` makes an example of a row, its choices and where it stands, and raises DataError in one line.
    """

    fields: tuple[str, ...]
    read: Reader


SHAPES: dict[str, Shape] = {}  # by their names for people, in the order in which messages list them


def as_example(row: Any, source: str) -> Example:
    """A row of a file as an example; `source` says where it stands. Raises DataError, in one line."""
    if not isinstance(row, dict):
        raise DataError(f"{source}: a row is an object with fields; got {shown(row)}")
    found = [name for name, own in SHAPES.items() if any(row.get(f) is not None for f in own.fields)]
    if len(found) != 1:
        fields = ", ".join(map(named, list(row)[:20])) or "none"
        problem = f"has fields of two forms ({found[0]}; {found[1]})" if found else "has no form"
        raise DataError(
            f"{source}: a row {problem}; give {', or '.join(SHAPES)}. "
            f"Its fields: {fields}{instead(row) if not found else ''}"
        )
    choices = row.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(map(is_text, choices)):
        raise DataError(f"{source}: choices is a list of texts; got {shown(choices)}")
    return SHAPES[found[0]].read(row, tuple(choices), source)


def read_fields() -> set[str]:
    """Names of fields that any shape reads."""
    return {*(name for own in SHAPES.values() for name in own.fields), "choices", *FOR_TEMPLATE}


def shape(name: str, *fields: str) -> Callable[[Reader], Reader]:
    """Registers the function below it as the reader of rows with these fields."""

    def register(read: Reader) -> Reader:
        SHAPES[name] = Shape(fields, read)
        return read

    return register


@shape("prompt and completion", "prompt", "completion")
def _pair(row: Mapping[str, Any], choices: tuple[str, ...], source: str) -> Example:
    texts, unread = _texts(row, ("prompt", "completion"), source)
    return Example(source, prompt=texts[0], completion=texts[1], choices=choices, unread=unread)


@shape("messages", "messages")
def _chat(row: Mapping[str, Any], choices: tuple[str, ...], source: str) -> Example:
    turns, for_template = _messages(row["messages"], source), _for_template(row, source)
    texts = [str(leaf) for turn in turns for _, leaf in leaves(turn.as_turn)]
    unread = left_aside(row, ("messages", "choices", *FOR_TEMPLATE), texts, source)
    return Example(source, messages=turns, choices=choices, for_template=for_template, unread=unread)


@shape("text", "text")
def _free_text(row: Mapping[str, Any], choices: tuple[str, ...], source: str) -> Example:
    texts, unread = _texts(row, ("text",), source)
    return Example(source, text=texts[0], choices=choices, unread=unread)


def _texts(row: Mapping[str, Any], names: tuple[str, ...], source: str) -> tuple[list[str], tuple[str, ...]]:
    """The texts in these fields of a row, and the names of fields that are not read."""
    for name in names:
        if not is_text(value := row.get(name)):
            raise DataError(f"{source}: {name} must be text; got {shown(value)}{_hint(row, name)}")
        if not value.strip():
            raise DataError(f"{source}: {name} is empty")
    texts = [row[name] for name in names]
    return texts, left_aside(row, (*names, "choices"), texts, source)


def _hint(row: Mapping[str, Any], name: str) -> str:
    """Where a field is missing altogether, the names of those that the row has instead."""
    if row.get(name) is not None:
        return ""
    if said := instead(row):
        return said
    read = read_fields()
    others = [named(other) for other, value in row.items() if other not in read and not is_nothing(value)]
    return f"; the row's other fields: {', '.join(others[:20])}" if others else ""


def _for_template(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of a row that go to the chat template beside its turns; a text spells one in JSON."""
    found = {name: row[name] for name in FOR_TEMPLATE if not is_nothing(row.get(name))}
    for name, given in found.items():
        value = parse_json(given, f"{source}: {name}") if isinstance(given, str) else given
        wants_object = name == "chat_template_kwargs"
        if not (isinstance(value, dict) if wants_object else _is_list_of_objects(value)):
            expected = "an object" if wants_object else "a list of objects"
            raise DataError(f"{source}: {name} is {expected}; got {shown(value)}")
        check_texts(value, name, source)
        found[name] = value
    return {name: value for name, value in found.items() if value}


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _messages(value: Any, source: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{source}: messages is a list of turns; got {shown(value)}")
    turns = [_turn(turn, source) for turn in value]
    last = turns[-1]
    if last.role != "assistant" or not ((last.content or "").strip() or TURN_CONTENT & last.more.keys()):
        raise DataError(
            f"{source}: the last turn must be the assistant's, with text to learn; "
            f"got {named(last.role)}: {shown(last.content)}"
        )
    if not last.learnt:
        raise DataError(
            f"{source}: the last turn has a weight of 0, so nothing could be scored by it; end the chat with "
            "the last turn that shall be learnt"
        )
    if len(turns) == 1:
        raise DataError(f"{source}: a chat needs a turn before the assistant's")
    return tuple(turns)


def _turn(turn: Any, source: str) -> Message:
    if not isinstance(turn, dict) or not is_text(turn.get("role")):
        raise DataError(f"{source}: a turn is a role and a content, both text; got {shown(turn)}")
    content = turn_content(turn.get("content"), source)
    own = ("role", "content", "weight")
    more = {name: value for name, value in turn.items() if name not in own and not is_nothing(value)}
    if content is None and not TURN_CONTENT & more.keys():
        raise DataError(f"{source}: a turn is a role and a content, both text; got {shown(turn)}")
    check_texts(more, "a turn", source)
    if "tool_calls" in more and not _is_list_of_objects(more["tool_calls"]):
        raise DataError(f"{source}: tool_calls is a list of objects; got {shown(more['tool_calls'])}")
    return Message(turn["role"], content, more, turn_weight(turn, source) == 1)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=repr)
