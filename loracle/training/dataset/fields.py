"""Fields of rows and turns: which hold something to read or to learn, and what must not be passed over.

A field that no form reads is left aside and told of, unless its name says that it holds a part of the
question or the answer: then a row that went without it would teach something else, and it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeGuard

from loracle.errors import DataError

Path = tuple[str | int, ...]

# Fields of a turn that say something: a chat template that leaves them out is refused.
TURN_CONTENT = frozenset(
    {
        *("tool_calls", "function_call", "tools", "functions", "tool_plan", "tool_responses", "refusal"),
        *("reasoning_content", "reasoning", "thinking", "thoughts"),
        *("image", "images", "audio", "audios", "video", "videos", "file", "files"),
    }
)
# Fields of a row that a chat template is given.
FOR_TEMPLATE = ("tools", "documents", "chat_template_kwargs")

_ANSWERS = {
    *("answer", "answers", "response", "responses", "reply", "solution", "summary", "ground_truth"),
    *("output", "outputs", "output_text", "expected", "expected_output", "reference", "references"),
    *("label", "labels", "label_text", "label_name", "target", "targets", "target_text"),
    *("code", "canonical_solution", "generated_solution", "highlights"),
    *("chosen", "rejected", "preferred_output", "non_preferred_output", "kto_tag"),
}
_QUESTIONS = {
    *("instruction", "instructions", "input", "inputs", "input_text", "question", "questions", "query"),
    *("context", "system", "system_prompt", "history", "functions", "conversations", "conversation"),
    *("passage", "paragraph", "article", "dialogue", "problem", "premise", "hypothesis"),
}
_MEDIA = {"image", "images", "audio", "audios", "video", "videos", "file", "files"}
_WEIGHTS = {"weight", "weights", "sample_weight", "example_weight", "loss_weight"}
_LOSS_OF_TURN = {"train", "training", "trainable", "learn", "loss", "loss_mask", "mask"}
_LEARNT = ("prompt", "completion", "messages", "text")  # fields of the three forms
_PAIR = {"chosen", "rejected"}  # of an answer that was preferred to another, alone or in other names
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_DEEPEST = 50  # levels of nesting; real tool calls have fewer than ten


# -- fields that are not read -----------------------------------------------------------------------


def left_aside(
    row: Mapping[str, Any], read: tuple[str, ...], texts: list[str], source: str
) -> tuple[str, ...]:
    """Names of fields that hold something and are not `read`. `texts` is what the row teaches with.

    Raises:
        DataError: one of them holds a part of the question or the answer that is in none of the texts.
    """
    unread = [name for name, value in row.items() if name not in read and not is_nothing(value)]
    for name in unread:
        key = key_of(name)
        if key in _MEDIA or key in FOR_TEMPLATE:
            raise DataError(
                f"{source}: field {named(name)} is not read with {_and(read)}; "
                f"{'only text can be learnt' if key in _MEDIA else 'it needs rows of messages'}. "
                "Remove the field to train without it"
            )
        if key in _WEIGHTS and str(row[name]) not in ("1", "1.0"):
            raise DataError(
                f"{source}: field {named(name)} is {shown(row[name])}, but every row counts alike; repeat "
                "rows that shall count more, or remove the field"
            )
        answers = key in _ANSWERS or key == "completion" or _of_a_pair(key)
        if answers or key in _QUESTIONS or key in _LEARNT:
            if _stands_in(row[name], texts, _is_free(read)) or _is_rendering(row[name], texts):
                continue
            raise DataError(f"{source}: {_unread_content(name, answers, read)}{_judged(row[name], read)}")
    return tuple(map(str, unread))


def meant(name: Any) -> str | None:
    """The field of a form that a name spells, whatever spaces, quotes, marks and capitals it has besides."""
    key = key_of(name)
    return key if key in _LEARNT else None


def instead(row: Mapping[str, Any]) -> str:
    """What to do about a row in which a field of its form is missing, where its names tell; else empty."""
    said = [f"{shown(str(name))} to {field}" for name in row if (field := meant(name)) and field not in row]
    if said:
        return f"; rename {', '.join(said)} (exactly so, without spaces around it)"
    pair = [named(name) for name, value in row.items() if _of_a_pair(key_of(name)) and not is_nothing(value)]
    if pair:
        return (
            f"; {' and '.join(pair)} are an answer that was preferred and one that was not: pairs are not "
            "learnt, so name what the model reads prompt, the answer it shall write completion "
            "(data.columns, such as completion: chosen), and remove the other"
        )
    return ""


def key_of(name: Any) -> str:
    """A name in the spelling that names are compared in."""
    return str(name).strip("\ufeff \t\r\n\"'").lower().replace("-", "_").replace(" ", "_")


def _of_a_pair(key: str) -> bool:
    """Whether a name is `chosen` or `rejected`, or that with the name of something to read or to learn."""
    words = key.split("_")
    rest = "_".join(word for word in words if word not in _PAIR)
    known = {"", *_LEARNT, *_ANSWERS, *_QUESTIONS, "message"}
    return not _PAIR.isdisjoint(words) and rest in known


def is_pair(names: Collection[str]) -> bool:
    """Whether two of the names are of an answer that was preferred and one that was not."""
    words = {word for name in names if _of_a_pair(key_of(name)) for word in key_of(name).split("_")}
    return words >= _PAIR


def _judged(value: Any, read: tuple[str, ...]) -> str:
    """More about a completion that is said to be good or bad."""
    if not isinstance(value, bool) or _is_free(read) or "label" in read:
        return ""
    return "; answers that are judged by true and false are preference data (KTO), which is not learnt"


def _unread_content(name: Any, is_answer: bool, read: tuple[str, ...]) -> str:
    if _is_free(read):
        return (
            f"field {named(name)} would not be learnt: rows of text are learnt as they are. Name what the "
            "model reads prompt and what it shall write completion (data.columns), or remove the field"
        )
    part = "an answer" if is_answer else "a part of the question"
    chat = " (data.as_chat: true has turns for it)" if key_of(name) in ("system", "history") else ""
    return (
        f"field {named(name)} holds {part} that stands in none of {_and(read)}, so it would not be learnt; "
        f"put it there{chat}, or remove or rename the field"
    )


def _is_free(read: tuple[str, ...]) -> bool:
    """Whether the fields that are read are those of free text."""
    return "text" in read and "label" not in read


def _stands_in(value: Any, texts: list[str], is_text: bool) -> bool:
    """Whether all of a value is in the texts already. A number in free text is there by chance."""
    for _, leaf in leaves(value):
        if isinstance(leaf, bool) or (is_text and not isinstance(leaf, str)):
            return False
        if not any(str(leaf).strip() in text for text in texts):
            return False
    return True


def _is_rendering(value: Any, texts: list[str]) -> bool:
    """Whether a value is a text that holds all texts of a pair, as they stand in the prompt of a dataset."""
    return isinstance(value, str) and len(texts) > 1 and all(text.strip() in value for text in texts)


def _and(read: tuple[str, ...]) -> str:
    return " and ".join(name for name in read if name not in ("choices", *FOR_TEMPLATE))


# -- turns ------------------------------------------------------------------------------------------


def turn_weight(turn: Mapping[str, Any], source: str) -> int:
    """0 where a turn says that it shall not be learnt, else 1.

    Raises:
        DataError: another weight, a weight on a turn that is not learnt anyway, or another name for it.
    """
    other = sorted(str(name) for name, value in turn.items() if name in _LOSS_OF_TURN and value is not None)
    if other:
        raise DataError(
            f"{source}: field {named(other[0])} of a turn is not read; give a turn of the assistant that "
            "shall not be learnt a weight of 0"
        )
    weight = turn.get("weight")
    if weight is None:
        return 1
    if not isinstance(weight, int | float) or weight not in (0, 1):
        raise DataError(f"{source}: the weight of a turn is 0 or 1; got {shown(weight)}")
    if weight == 1 and turn.get("role") != "assistant":
        raise DataError(
            f"{source}: a turn of {named(turn.get('role'))} has a weight of 1, but only turns of the "
            "assistant are learnt; remove it"
        )
    return int(weight)


def turn_content(value: Any, source: str) -> str | tuple[str, ...] | None:
    """The text of a turn, or its texts where it has several parts. A list of one part of text is that text.

    Raises:
        DataError: anything else, such as an image.
    """
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for part in value:
            if part.get("type", "text") != "text" or not is_text(part.get("text")):
                kind = part.get("type")
                raise DataError(f"{source}: a turn has a part of type {named(kind)}; only text can be learnt")
        if len(value) > 1:
            return tuple(part["text"] for part in value)
        value = value[0]["text"]
    if value is not None and not is_text(value):
        raise DataError(f"{source}: a turn is a role and a content, both text; got content {shown(value)}")
    return value


# -- values -----------------------------------------------------------------------------------------


def parse_json(text: str, source: str) -> Any:
    """What a JSON text spells. Raises DataError with the place; also where an object names a field twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if "\n" in text.strip() else ""
        raise DataError(f"{source}{line}: not valid JSON: {error.msg} (column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source}: not valid JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the field {named(twice)} twice")
    return found


def is_nothing(value: Any) -> bool:
    """Whether a field is there but says nothing: null, empty text, an empty list."""
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All texts, numbers and truth values in a nested value, with the way to them; nothing for nulls."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    elif not is_nothing(value):
        yield path, value


def check_texts(value: Any, what: str, source: str, depth: int = 0) -> None:
    """Raises DataError where a nested value holds half a character, or is nested beyond reason."""
    if depth > _DEEPEST:
        raise DataError(f"{source}: {what} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str) and not is_text(value):
        raise DataError(f"{source}: {what} holds half a character (a lone surrogate): {shown(value)}")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_texts(key, what, source, depth + 1)
            check_texts(inner, what, source, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_texts(inner, what, source, depth + 1)


def is_text(value: Any) -> TypeGuard[str]:
    """A string that can be written as UTF-8; JSON escapes can spell half a character."""
    return isinstance(value, str) and _HALF_CHARACTER.search(value) is None


def named(name: Any) -> str:
    """A field's name for a message of one line."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 60 else shown(text)


def shown(value: Any) -> str:
    """A value for a message of one line, cut where it is long."""
    text = ascii(value) if isinstance(value, str) and not is_text(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def refuse_twice(names: list[str], place: object) -> None:
    """Raises DataError where two columns have one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{place}: two columns are named {named(twice)}; rename one of them")
