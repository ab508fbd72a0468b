"""Chats as the model's chat template renders them, cut where an assistant's turn begins and ends.

The template is given turns and row whole. A template may pass over what it does not know, in silence; so
everything that a turn says is looked for in what was rendered.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from loracle.errors import DataError
from loracle.training.dataset.fields import TURN_CONTENT, Path, leaves, named, shown
from loracle.training.dataset.shapes import Example

Piece = tuple[str, bool]  # a stretch of text, and whether it counts in the loss
Turns = Sequence[dict[str, Any]]

_DATE = re.compile(r"""strftime_now\(\s*['"]([^'"]+)['"]""")  # its form, in a template that asks for the date
_PRINTED = ("'type': 'text'", '"type": "text"')  # by a template that takes parts for a text
_NOT_SAID = {"id", "type", "index", "call_id", "tool_call_id"}  # keys in a tool call that only link it


@dataclass
class Remarks:
    """What a user should know about rows that were accepted, counted.

    Attributes:
        turns: turns of the assistant that shall be learnt and are not.
        rows: rows that have such turns.
        fields: turns with a field that the chat template passes over, by its name.
        unknown: rows with characters that the tokenizer does not know.
        doubled: rows that begin with the token that opens a text twice.
        unopened: chats that do not begin with it, where the tokenizer puts it before texts.
        dated: rows into which the chat template writes the date of the day.
        joined: rows with turns of several parts, which the chat template does not read.
    """

    turns: int = 0
    rows: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    doubled: int = 0
    unopened: int = 0
    dated: int = 0
    joined: int = 0


class Chats:
    """Renders chats of one tokenizer; `remarks` are kept over all of them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.remarks = Remarks()
        self._roles: set[str] = set()  # that the template is known to render
        self._dates = _DATE.findall(str(tokenizer.chat_template))

    def pieces(self, example: Example) -> list[Piece]:
        """The rendered chat, cut before and after each assistant turn.

        Some templates render an early turn differently once later turns follow (they drop its thoughts):
        such a turn is read but not learnt, as is one of weight 0. So is one that a chat begins with, where no
        generation prompt stands before its text.

        Raises:
            DataError: the template refuses the chat, leaves out something that it says, or renders the last
                turn otherwise than after its own generation prompt.
        """
        chat = self._faithful(example)
        whole = chat.whole
        pieces: list[Piece] = []
        done = rewritten = 0
        for number, turn in enumerate(example.messages):
            if turn.role != "assistant" or not turn.learnt:
                continue
            last = number == len(example.messages) - 1
            before = chat.render(number, generation=True) if number else chat.before_first()
            after = whole if last else chat.render(number + 1)
            is_kept = before is not None and whole.startswith(before) and whole.startswith(after)
            if before is not None and is_kept and done <= len(before) < len(after):
                pieces += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
                done = len(after)
            elif last:
                end = shown((before or "")[-20:])
                raise DataError(
                    f"{example.source}: the chat template does not render the last turn after its own "
                    f"generation prompt, which ends with {end}, so training and generation would differ"
                )
            else:
                rewritten += 1
        self.remarks.turns += rewritten
        self.remarks.rows += rewritten > 0
        self.remarks.fields.update(chat.passed_over())
        self.remarks.dated += any(datetime.now().strftime(form) in whole for form in self._dates)
        return [piece for piece in pieces if piece[0]]

    def respelt(self, example: Example, *, in_parts: bool = False) -> Turns | None:
        """Turns that are rendered as the row is, each with one text or none as its content or, with
        `in_parts`, with a list of parts; None: the template renders none of these so. Raises as `pieces`."""
        chat = self._faithful(example)
        spelt: list[Turns] = []
        for turns in ([turn.as_turn for turn in example.messages], chat.turns):
            ways = [_in_parts(turns)] if in_parts else [[_in_one(t, by) for t in turns] for by in _JOINTS]
            spelt += ways
        for turns in spelt:
            with contextlib.suppress(Exception):  # a template is a program of its own, and raises anything
                if _Chat(turns, chat.beside, self.tokenizer).whole == chat.whole:
                    return turns
        return None

    def _faithful(self, example: Example) -> _Chat:
        """The first way to hand over the chat in which nothing is left out: as it is given first of all.

        Templates differ in how texts, a turn without text and the arguments of a tool call have to be spelt.
        """
        beside = {k: v for k, v in example.for_template.items() if k != "chat_template_kwargs"}
        beside |= example.for_template.get("chat_template_kwargs", {})
        refused = left_out = misspelt = None
        for turns in _spellings([turn.as_turn for turn in example.messages]):
            chat = _Chat(turns, beside, self.tokenizer)
            try:
                missing = chat.left_out(self._roles)
            except Exception as error:  # a template is a program of its own, and raises anything
                refused = refused or " ".join(str(error).split())[:300] or type(error).__name__
                continue
            if missing is None:
                self._roles.update(turn.role for turn in example.messages if (turn.content or "").strip())
                given = any(turn.parts for turn in example.messages)
                self.remarks.joined += given and not any(_is_parts(turn) for turn in turns)
                return chat
            if missing.by_spelling:
                misspelt = misspelt or missing
            else:
                left_out = left_out or missing
        left_out = left_out or misspelt  # what another spelling mends is no reason
        if left_out is None:
            raise DataError(f"{example.source}: the chat template refuses these messages: {refused}")
        raise DataError(
            f"{example.source}: the chat template does not render {left_out.what}; remove it, or choose a "
            "model whose template does"
        )


# -- rendering --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Missing:
    """What is said and not rendered, in words; or rendered otherwise, by its spelling alone."""

    what: str
    by_spelling: bool = False


@dataclass(frozen=True)
class _Chat:
    """Turns and what goes with them, ready to be rendered."""

    turns: Turns
    beside: dict[str, Any]
    tokenizer: Any

    def render(
        self, count: int | None = None, *, generation: bool = False, turns: Turns | None = None
    ) -> str:
        """The first `count` turns as text. Raises whatever the template does."""
        chosen = [copy.copy(turn) for turn in (turns or self.turns)[:count]]
        text = self.tokenizer.apply_chat_template(
            chosen, tokenize=False, add_generation_prompt=generation, **self.beside
        )
        return str(text)

    @cached_property
    def whole(self) -> str:
        """All turns as text."""
        return self.render()

    def before_first(self) -> str | None:
        """What stands before the text of a turn of the assistant that the chat begins with, up to the end of
        the generation prompt, which templates do not give for no turns at all; None: it is not there."""
        begun, asked = self.render(1), ""
        with contextlib.suppress(Exception):  # a template is a program of its own, and raises anything
            asked = self.render(1, generation=True)
        opening = asked[len(begun) :] if asked.startswith(begun) else ""
        return begun[: begun.index(opening) + len(opening)] if opening and opening in begun else None

    def left_out(self, known_roles: Collection[str]) -> _Missing | None:
        """The first thing that is said and not rendered; None: everything is.

        Fields are looked at one by one, texts of roles that are not known yet, and otherwise what does not
        stand in the rendering as often as it is said.
        """
        whole = self.whole
        for name in self.beside:
            rest = {key: value for key, value in self.beside.items() if key != name}
            if name in ("tools", "documents") and _Chat(self.turns, rest, self.tokenizer).whole == whole:
                return _Missing(f"the row's {name}")
        everything = "\n".join(str(leaf) for _, leaf in leaves([self.turns, self.beside]))
        if any(map(_is_parts, self.turns)) and any(whole.count(m) > everything.count(m) for m in _PRINTED):
            return _Missing("content that has parts")
        new = {str(turn["role"]) for turn in self.turns} - set(known_roles)
        for number, turn in enumerate(self.turns):
            for name in turn:
                if name in TURN_CONTENT and self._is_passed_over(number, name):
                    return _Missing(f"{name} of {_turn(number, turn)}: {shown(turn[name])}")
            for path, leaf in _said(turn):
                if path[-1] == "arguments" and (twice := _twice(leaf, whole)):
                    what = f"the arguments of a tool call in turn {number + 1} as they are, but {twice} twice"
                    return _Missing(what, by_spelling=True)
                is_new = turn["role"] in new and path[0] == "content"
                if not is_new and _times(leaf, whole) >= everything.count(str(leaf).strip()):
                    continue
                if not self._is_read(number, path, leaf):
                    place = "".join(f"[{p}]" if isinstance(p, int) else f".{named(p)}" for p in path)
                    one = ", for it takes one call a turn" * (path[0] == "tool_calls" and path[1:2] > (0,))
                    return _Missing(f"{place[1:]} of {_turn(number, turn)}: {shown(leaf)}{one}")
                if is_new:
                    new.discard(turn["role"])
        if "None" in whole and any(turn["content"] is None for turn in self.turns):
            said = json.dumps([self.turns, self.beside], default=str)
            if whole.count("None") > said.count("None"):
                return _Missing("content that is null")
        return None

    def passed_over(self) -> Iterator[str]:
        """Fields of turns, such as `name`, without which the rendering is the same."""
        for number, turn in enumerate(self.turns):
            extra = [name for name in turn if name not in ("role", "content") and name not in TURN_CONTENT]
            yield from (name for name in extra if self._is_passed_over(number, name))

    def _is_passed_over(self, number: int, name: str) -> bool:
        """Whether the rendering is the same without a field of a turn."""
        turns = list(self.turns)
        turns[number] = {key: value for key, value in turns[number].items() if key != name}
        return self._is_same(number, turns)

    def _is_read(self, number: int, path: Path, leaf: Any) -> bool:
        """Whether another value in its place renders another text."""
        changed = copy.deepcopy(list(self.turns))
        place: Any = changed[number]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = f"{leaf} and more" if isinstance(leaf, str) else leaf + 1
        return not self._is_same(number, changed)

    def _is_same(self, number: int, turns: Turns) -> bool:
        """Whether turns that differ in one are rendered alike. An early turn of the assistant is looked at
        where it is the last: templates drop thoughts once later turns follow."""
        if self.turns[number]["role"] != "assistant":
            return self.render(turns=turns) == self.whole
        return self.render(number + 1, turns=turns) == self.render(number + 1)


def _spellings(turns: Turns) -> Iterator[Turns]:
    """The turns as they are; with arguments of tool calls as objects; without text as null or as no text;
    with texts as parts, which templates of models that see want; with several parts as one text, a line
    each, which is how vLLM hands them to templates that read none."""
    given = [turns]
    if any(turn.get("tool_calls") for turn in turns):
        given.append([_with_objects(turn) for turn in turns])
    if any(map(_is_parts, turns)):
        yield from given
        yield from map(_in_parts, given)
        given = [[_in_one(turn) for turn in some] for some in given]
    for some in given:
        yield some
        if any(not turn["content"] for turn in some):
            yield [{**turn, "content": turn["content"] or ""} for turn in some]
            yield [{**turn, "content": turn["content"] or None} for turn in some]
    yield from map(_in_parts, given)


def _is_parts(turn: dict[str, Any]) -> bool:
    return isinstance(turn["content"], list)


def _in_parts(turns: Turns) -> Turns:
    """All texts as parts."""
    return [
        turn if _is_parts(turn) else {**turn, "content": [{"type": "text", "text": turn["content"] or ""}]}
        for turn in turns
    ]


def _in_one(turn: dict[str, Any], by: Callable[[Sequence[str]], str] = "\n".join) -> dict[str, Any]:
    """A turn whose parts are one text, put together in one way."""
    if not _is_parts(turn):
        return turn
    return {**turn, "content": by([part["text"] for part in turn["content"]])}


def _without_ends(texts: Sequence[str]) -> str:
    return "".join(text.strip() for text in texts)


# How templates put several parts together: behind one another or a line each, as they are or without white
# space at their ends.
_JOINTS: tuple[Callable[[Sequence[str]], str], ...] = ("\n".join, "".join, _without_ends)


def _with_objects(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn whose tool calls have their arguments as objects where they are JSON texts."""
    changed = copy.deepcopy(turn)
    for call in changed.get("tool_calls") or []:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("arguments"), str):
            try:
                inner["arguments"] = json.loads(inner["arguments"])
            except ValueError:
                continue
    return changed


def _said(turn: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """All texts and numbers that a turn says, with the way to them."""
    for name, value in turn.items():
        if name == "content" or name in TURN_CONTENT:
            for path, leaf in leaves(value, (name,)):
                if not (_NOT_SAID & set(path)) and not isinstance(leaf, bool):
                    yield path, leaf


def _turn(number: int, turn: dict[str, Any]) -> str:
    return f"turn {number + 1} ({named(turn['role'])})"


def _twice(arguments: Any, text: str) -> str | None:
    """What the arguments of a call, as a JSON text, have twice in a rendering: templates that want an object
    quote such a text once more, or put it into braces. None: nothing."""
    if not isinstance(arguments, str):
        return None
    if arguments not in text and _times(arguments, text):
        return "quoted"
    return "in braces" if arguments.strip()[:1] == "{" and f"{{{arguments.strip()}}}" in text else None


def _times(leaf: Any, text: str) -> int:
    """How often a text or number stands in a rendering, as it is or as JSON spells it."""
    if not isinstance(leaf, str):
        return text.count(json.dumps(leaf))
    own = leaf.strip()
    spelt = {own, json.dumps(own)[1:-1], json.dumps(own, ensure_ascii=False)[1:-1]}
    return max(text.count(one) for one in spelt)
