"""What to write in the config for rows whose columns have other names, where the names tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Names that public datasets give to what is asked and to what is answered, the likelier ones first.
_ASKED = (
    *("prompt", "instruction", "question", "query", "problem", "request", "inputs", "input_text", "input"),
    *("article", "document", "dialogue", "dialog", "passage", "user", "human", "ctx", "source_text", "text"),
)
_ANSWERED = (
    *("completion", "response", "output", "answer", "answers", "solution", "generated_solution", "code"),
    *("canonical_solution", "summary", "highlights", "targets", "target", "target_text", "output_text"),
    *("assistant", "bot", "reply"),
)
_BESIDE = ("context", "passage", "background", "paragraph", "evidence")  # what a question is about
_SYSTEM = ("system", "system_prompt")
_LABELLED = ("text", "sentence", "review", "content", "tweet", "query", "question", "utterance")
_LABELS = ("label", "label_text", "label_name", "category", "intent")
_TEXTS = ("content", "code", "document", "article", "body", "story")  # learnt whole
_CHATS = ("conversation", "conversations", "dialog", "dialogue", "chat", "turns", "data", "chat_history")


@dataclass(frozen=True)
class Suggestion:
    """`data.columns` by which a row has a shape, and whether its texts are turns of a chat then."""

    shape: str
    columns: Mapping[str, str]
    as_chat: bool = False

    @property
    def said(self) -> str:
        """The line for a config file."""
        columns = ", ".join(f"{ours}: {theirs}" for ours, theirs in self.columns.items())
        lines = [f"data.columns: {{{columns}}}"] if columns else []
        return " and ".join([*lines, *(["data.as_chat: true"] if self.as_chat else [])])


def suggestion(row: Mapping[str, Any]) -> Suggestion | None:
    """The columns that would make a row one of a shape; None: its names do not tell."""
    names = {name.lower(): name for name in row if isinstance(name, str)}
    chat = next((names[name] for name in _CHATS if name in names and _are_turns(row[names[name]])), None)
    if chat is not None:
        if isinstance(row[chat][0], Mapping) and "role" in row[chat][0]:
            return _other_than_there(row, "messages", {"messages": chat})
        return _other_than_there(row, "sharegpt", {"conversations": chat})
    asked = _first(row, names, _ASKED)
    answer = _first(row, names, [name for name in _ANSWERED if names.get(name) != asked], number=True)
    if asked is None or answer is None:
        return _label(row, names) or _text(row, names)
    beside = _first(row, names, [name for name in _BESIDE if names.get(name) != asked], empty=True)
    system = _first(row, names, _SYSTEM, empty=True)
    if beside is not None or asked.lower() == "instruction":
        shape, columns = "alpaca", {"instruction": asked, "input": beside, "output": answer}
    elif asked.lower() == "prompt":
        shape, columns = "prompt/completion", {"prompt": asked, "completion": answer}
    else:
        shape, columns = "question/answer", {"question": asked, "answer": answer}
    columns["system"] = system
    told = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    return _other_than_there(row, shape, told, as_chat=system is not None or bool(row.get("tools")))


def nested(row: Mapping[str, Any]) -> str:
    """Where a question or an answer is no text but holds several, that it does; else empty."""
    names = [*_ASKED, *_ANSWERED]
    found = next(
        (name for name in row if str(name).lower() in names and isinstance(row[name], list | dict)), None
    )
    return f"; {found} holds several values, and what is read and learnt are texts" if found else ""


def _label(row: Mapping[str, Any], names: Mapping[str, str]) -> Suggestion | None:
    """Of a text and its label, by the label's name where a number stands beside it."""
    text = _first(row, names, _LABELLED)
    labels = [names[name] for name in _LABELS if name in names and isinstance(row[names[name]], str | int)]
    if text is None or not labels:
        return None
    label = next((name for name in labels if isinstance(row[name], str)), labels[0])
    columns = {"text": text, "label": label}
    told = {ours: theirs for ours, theirs in columns.items() if ours != theirs}
    return Suggestion("text/label", told) if told else None


def _text(row: Mapping[str, Any], names: Mapping[str, str]) -> Suggestion | None:
    text = _first(row, names, _TEXTS)
    return None if text is None else _other_than_there(row, "text", {"text": text})


def _other_than_there(
    row: Mapping[str, Any], shape: str, columns: Mapping[str, str], *, as_chat: bool = False
) -> Suggestion | None:
    """The suggestion without columns that have our name already; None where one of ours is another column."""
    told = {ours: theirs for ours, theirs in columns.items() if ours != theirs}
    if any(ours in row for ours in told) or not (told or as_chat):
        return None
    return Suggestion(shape, told, as_chat)


def _first(
    row: Mapping[str, Any],
    names: Mapping[str, str],
    wanted: Sequence[str],
    *,
    empty: bool = False,
    number: bool = False,
) -> str | None:
    """The column of the first name that holds a text; a number, or nothing, where that may be as well."""
    for name in wanted:
        if (column := names.get(name)) is not None:
            value = row[column]
            if (isinstance(value, str) and value.strip()) or (number and isinstance(value, int)):
                return column
            if empty and not value:
                return column
    return None


def _are_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping | str) for turn in value)
