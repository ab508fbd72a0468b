"""The shapes that a row can have, which of them one has, and what is wrong with others.

A new shape is a function, registered with `shape`, that makes an example of one of three forms: `prompt` and
`completion`, `messages` (a chat), or `text`. The loss counts the tokens of the completion (of every assistant
turn, or of the whole text), its end-of-sequence token included, unless the settings say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loracle.config.data.settings import NO_DATA, DataConfig
from loracle.errors import DataError
from loracle.training.dataset.fields import (
    FOR_TEMPLATE,
    check_texts,
    instead,
    is_nothing,
    is_text,
    leaves,
    named,
    parse_json,
    shown,
)
from loracle.training.dataset.shapes.columns import renamed
from loracle.training.dataset.shapes.example import Example
from loracle.training.dataset.shapes.preferences import compares, preference
from loracle.training.dataset.shapes.suggestion import nested, suggestion

Reader = Callable[[Mapping[str, Any], tuple[str, ...], str], Example]

_FIRST = ("prompt/completion", "messages", "text")  # shapes that go before others which a row has as well
LABELLED = "text/label"


@dataclass(frozen=True)
class Shape:
    """One way to write a row. A row has it that has all of its fields.

    `read` makes an example of a row, its choices and where it stands, and raises DataError in one line; so
    does `chat`, which makes a chat of a pair of texts.
    """

    fields: tuple[str, ...]
    read: Reader
    chat: Reader | None = None


SHAPES: dict[str, Shape] = {}  # by name, in the order in which messages list them


def shape(name: str, *fields: str, chat: Reader | None = None) -> Callable[[Reader], Reader]:
    """Registers the function below it as the reader of rows with these fields."""

    def register(read: Reader) -> Reader:
        SHAPES[name] = Shape(fields, read, chat)
        return read

    return register


def as_example(row: Any, source: str, settings: DataConfig = NO_DATA, name: str | None = None) -> Example:
    """A row of a file as an example.

    Args:
        row: with our names for its columns; see `columns.renamed`.
        source: says where it stands.
        settings: `shape`, `as_chat` and `loss_on` of them count.
        name: of its shape, where that is known.

    Raises:
        DataError: in one line, where it is not a row that can be learnt whole.
    """
    name = name or settings.shape or shape_of(row, source)
    choices = row.get("choices") or ()
    if not isinstance(choices, list | tuple) or not all(map(is_text, choices)):
        raise DataError(f"{source}: choices is a list of texts; got {shown(choices)}")
    own = SHAPES[name]
    try:
        example = (own.chat or own.read if settings.as_chat else own.read)(row, tuple(choices), source)
    except DataError as error:
        hint = "" if settings.columns or settings.shape else _columns(row, choices, source)
        raise DataError(f"{error}{hint}") from None
    if settings.as_chat and not example.messages:
        raise DataError(
            f"{source}: rows of {example.form} cannot go through the chat template as turns of a user and an "
            "assistant; remove data.as_chat"
        )
    return replace(example, shape=name).learning(settings.loss_on)


def shape_of(row: Any, source: str) -> str:
    """The name of the shape that a row has. Raises DataError where it has none, or several."""
    if not isinstance(row, dict):
        raise DataError(f"{source}: a row is an object with fields; got {shown(row)}")
    there = {name for name, value in row.items() if value is not None}
    found = [name for name, own in SHAPES.items() if there.issuperset(own.fields)]
    if LABELLED in found and [name for name in found if name in _FIRST] == ["text"]:
        return LABELLED
    found = [name for name in found if name in _FIRST] or found
    pair = preference(row) if not found or compares(row) or found == ["text"] else None
    if not found and pair is None:  # the reader of a shape that is there in part says what is missing
        whole = [name for name, own in SHAPES.items() if row.keys() >= set(own.fields)]
        found = [name for name in whole if there.intersection(SHAPES[name].fields)]
        found = found or [name for name in _FIRST if there.intersection(SHAPES[name].fields)]
    if len(found) == 1 and pair is None:
        return found[0]
    fields = ", ".join(map(named, list(row)[:20])) or "none"
    hint = ""
    if pair is not None:
        problem, hint = pair
    elif found:
        problem = (
            f"has fields of two forms ({found[0]}; {found[1]}); choose one with data.shape, or remove fields"
        )
    else:
        hint = instead(row) or _columns(row, (), source)
        forms = f"; give {', or '.join(SHAPES)}, or say with data.columns which column is what"
        problem = "has no form" + ("" if hint else forms)
        hint = hint or nested(row)
    raise DataError(f"{source}: a row {problem}. Its fields: {fields}{hint}")


def _columns(row: Mapping[str, Any], choices: Sequence[str], source: str) -> str:
    """What to write in the config, where columns of other names make a row that is read; else empty."""
    if (found := suggestion(row)) is None or preference(row) is not None:
        return ""
    own = SHAPES[found.shape]
    try:
        ((_, mapped),) = renamed([(source, row)], found.columns, source)
        (own.chat or own.read if found.as_chat else own.read)(mapped, tuple(choices), source)
    except DataError:
        return ""
    return f"; with {found.said} it is read"


def read_fields() -> set[str]:
    """Names of fields that any shape reads."""
    return {*(name for own in SHAPES.values() for name in own.fields), "choices", *FOR_TEMPLATE}


# -- what readers have in common --------------------------------------------------------------------


def text_in(row: Mapping[str, Any], name: str, source: str) -> str:
    """The text in a field. Raises DataError where it is no text, or an empty one."""
    if not is_text(value := row.get(name)):
        raise DataError(f"{source}: {name} must be text; got {shown(value)}{_hint(row, name)}")
    if not value.strip():
        raise DataError(f"{source}: {name} is empty")
    return value


def answer_in(row: Mapping[str, Any], name: str, source: str) -> str:
    """The text in a field of an answer; whole numbers and truth are spelt as JSON spells them."""
    value = row.get(name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, int):
        return text_in(row, name, source)
    if (choices := row.get("choices")) and str(value) not in map(str, choices):
        raise DataError(
            f"{source}: {name} is {value}, which is none of the row's choices; write the choice itself, and "
            "the choices into what the model reads where it shall know them"
        )
    return str(value)


def for_template(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of a row that go to the chat template beside its turns; a text spells one in JSON."""
    found = {name: row[name] for name in FOR_TEMPLATE if not is_nothing(row.get(name))}
    for name, given in found.items():
        value = parse_json(given, f"{source}: {name}") if isinstance(given, str) else given
        wants_object = name == "chat_template_kwargs"
        if not (isinstance(value, dict) if wants_object else is_list_of_objects(value)):
            expected = "an object" if wants_object else "a list of objects"
            raise DataError(f"{source}: {name} is {expected}; got {shown(value)}")
        check_texts(value, name, source)
        found[name] = value
    return {name: value for name, value in found.items() if value}


def is_list_of_objects(value: Any) -> bool:
    """Whether a value is a list, of mappings alone."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def all_texts(value: Any) -> list[str]:
    """All that a nested value says, as texts."""
    return [str(leaf) for _, leaf in leaves(value)]


def _hint(row: Mapping[str, Any], name: str) -> str:
    """Where a field is missing altogether, the names of those that the row has instead."""
    if row.get(name) is not None:
        return ""
    if said := instead(row):
        return said
    read = read_fields()
    others = [named(other) for other, value in row.items() if other not in read and not is_nothing(value)]
    return f"; the row's other fields: {', '.join(others[:20])}" if others else ""
