"""Rows of chats: `messages`; `conversations` as of ShareGPT; prompt and completion as lists of turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loracle.errors import DataError
from loracle.training.dataset.fields import (
    FOR_TEMPLATE,
    TURN_CONTENT,
    check_texts,
    is_nothing,
    is_text,
    left_aside,
    named,
    parse_json,
    shown,
    turn_content,
    turn_weight,
)
from loracle.training.dataset.shapes.example import Example, Message
from loracle.training.dataset.shapes.registry import (
    all_texts,
    for_template,
    is_list_of_objects,
    shape,
    text_in,
)

# Who speaks, as ShareGPT and LLaMA-Factory call them.
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "assistant"), "assistant"),
    **dict.fromkeys(("observation", "function_response", "tool"), "tool"),
}


@shape("messages", "messages")
def _messages_row(row: Mapping[str, Any], choices: tuple[str, ...], source: str) -> Example:
    return _chat(row, ("messages",), _messages(row["messages"], source), choices, source)


@shape("sharegpt", "conversations")
def _sharegpt(row: Mapping[str, Any], choices: tuple[str, ...], source: str) -> Example:
    """Turns of `from` and `value`, with a `system` text beside them, if there is one."""
    given = _with_speakers(row.get("conversations"))
    if not is_list_of_objects(given) or not given:
        raise DataError(f"{source}: conversations is a list of turns; got {shown(given)}")
    turns = [_standard(turn, source) for turn in given]
    if not is_nothing(row.get("system")):
        turns.insert(0, {"role": "system", "content": text_in(row, "system", source)})
    return _chat(row, ("conversations", "system"), _messages(turns, source), choices, source)


def chat_lists(
    row: Mapping[str, Any], names: tuple[str, str], choices: tuple[str, ...], source: str
) -> Example:
    """A prompt that is a list of turns, and a completion that is another, or the text of the last turn."""
    asked, answer = row[names[0]], row.get(names[1])
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    for name, value in zip(names, (asked, answer), strict=True):
        if not is_list_of_objects(value) or not value:
            raise DataError(f"{source}: {name} is a list of turns here; got {shown(value)}")
    turns = _messages([*asked, *(answer or [])], source)
    return _chat(row, names, turns, choices, source, asked=len(asked))


def _chat(
    row: Mapping[str, Any],
    read: tuple[str, ...],
    turns: tuple[Message, ...],
    choices: tuple[str, ...],
    source: str,
    asked: int | None = None,
) -> Example:
    beside = for_template(row, source)
    texts = all_texts([turn.as_turn for turn in turns])
    unread = left_aside(row, (*read, "choices", *FOR_TEMPLATE), texts, source)
    return Example(source, messages=turns, choices=choices, for_template=beside, unread=unread, asked=asked)


def _with_speakers(given: Any) -> Any:
    """Turns of a list that leaves out who speaks: texts (LIMA, UltraChat), or objects of an `input` and an
    `output` (Capybara), of the user and the assistant by turns; anything else as it is."""
    if not isinstance(given, list):
        return given
    if all(isinstance(turn, dict) and turn.keys() == {"input", "output"} for turn in given):
        given = [turn[name] for turn in given for name in ("input", "output")]
    if not all(is_text(turn) for turn in given):
        return given
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(given)]


def _standard(turn: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A turn of `from` and `value` as one of `role` and `content`, with calls of functions as tool calls."""
    more = {name: value for name, value in turn.items() if name not in ("from", "value")}
    for theirs, ours in (("from", "role"), ("value", "content")):
        if turn.get(theirs) is not None:
            if more.get(ours) is not None:
                raise DataError(f"{source}: a turn has {theirs} and {ours}; give one of them")
            more[ours] = turn[theirs]
    role = more.get("role")
    if role == "function_call":
        return {
            **more,
            "role": "assistant",
            "content": None,
            "tool_calls": _calls(more.get("content"), source),
        }
    if isinstance(role, str):
        more["role"] = _ROLES.get(role, role)
    return more


def _calls(value: Any, source: str) -> list[dict[str, Any]]:
    """Calls of functions, which LLaMA-Factory writes as a JSON text: `{"name": ..., "arguments": ...}`."""
    found = parse_json(value, f"{source}: a function_call") if isinstance(value, str) else value
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(c, dict) and is_text(c.get("name")) for c in calls):
        raise DataError(f"{source}: a function_call is a name and arguments in JSON; got {shown(value)}")
    return [{"type": "function", "function": call} for call in calls]


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
    if "tool_calls" in more and not is_list_of_objects(more["tool_calls"]):
        raise DataError(f"{source}: tool_calls is a list of objects; got {shown(more['tool_calls'])}")
    learnt = turn_weight(turn, source) == 1
    if isinstance(content, tuple):
        return Message(turn["role"], "\n".join(content), more, learnt, parts=content)
    return Message(turn["role"], content, more, learnt)
