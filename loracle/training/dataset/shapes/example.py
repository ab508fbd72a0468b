"""One row of a dataset as an example, in one of three forms: `prompt` and `completion`, `messages` (a chat),
or `text`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from loracle.config.data.settings import LossOn
from loracle.errors import DataError
from loracle.training.dataset.fields import TURN_CONTENT

Form = Literal["prompt and completion", "messages", "text"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role, content: who says what; no content where a turn only calls tools, and the texts of several
            parts one a line.
        more: all other fields of the turn, for the chat template.
        learnt: False for a turn of weight 0, which is read and not learnt.
        parts: the texts of a content of several parts; how they are put together, the chat template says.
    """

    role: str
    content: str | None
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    learnt: bool = True
    parts: tuple[str, ...] = ()

    @property
    def as_turn(self) -> dict[str, Any]:
        """The turn as the chat template is given it."""
        content = [{"type": "text", "text": text} for text in self.parts] or self.content
        return {"role": self.role, "content": content, **self.more}

    @property
    def says(self) -> tuple[Any, ...]:
        """Equal for turns that the chat template renders alike."""
        more = [canonical(self.more)] if self.more else []
        return (self.role, self.content, *more, *([self.parts] if self.parts else []))


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
        asked: turns of a chat that were given as its prompt; None: it was given whole.
        shape: the name of the shape that the row had.
    """

    source: str
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] = ()
    text: str | None = None
    choices: tuple[str, ...] = ()
    for_template: Mapping[str, Any] = field(default_factory=dict, hash=False)
    unread: tuple[str, ...] = ()
    asked: int | None = None
    shape: str = field(default="", compare=False)

    @property
    def form(self) -> Form:
        """Which of the three forms the row has."""
        if self.messages:
            return "messages"
        return "text" if self.text is not None else "prompt and completion"

    @property
    def is_whole_chat(self) -> bool:
        """Whether it was given as a chat, and not as a prompt and a completion."""
        return self.shape in ("messages", "sharegpt")

    @property
    def reference(self) -> str | None:
        """What the model shall write after the prompt; None for free text, and where only the chat template
        can tell: for a last turn that calls tools, thinks, or has several parts."""
        if not self.messages:
            return self.completion
        last = self.messages[-1]
        return None if last.parts or TURN_CONTENT & last.more.keys() else last.content

    @property
    def content(self) -> tuple[Any, ...]:
        """Everything but where the row stands: equal for two rows that teach the same."""
        turns = tuple(turn.says for turn in self.messages)
        skipped = tuple(i for i, turn in enumerate(self.messages) if not turn.learnt)
        extra = (canonical(self.for_template), skipped) if self.for_template or skipped else ()
        return (self.prompt, self.completion, turns, self.text, self.choices, *extra)

    @property
    def question(self) -> tuple[Any, ...]:
        """All that stands before the answer: equal for rows that ask the same. A text asks for itself."""
        if not self.messages:
            return (self.text,) if self.text is not None else (self.prompt,)
        return (tuple(turn.says for turn in self.messages[:-1]), canonical(self.for_template))

    @property
    def asks(self) -> tuple[int, ...]:
        """A number for all that stands before each answer that is learnt, the last one's last: equal for
        equal questions. A turn within a chat is asked like the last one of a shorter chat; see `question`."""
        if not self.messages:
            return (hash(self.question),)
        before, found = hash(canonical(self.for_template)), []
        for turn in self.messages[:-1]:
            if turn.role == "assistant" and turn.learnt:
                found.append(before)
            before = hash((before, turn.says))
        return (*found, before)

    def learning(self, loss_on: LossOn | None) -> Example:
        """The row with the turns that `loss_on` has learnt; None: those of its completion, if it has one,
        else all of the assistant.

        Raises:
            DataError: the row has no such part, or has turns that shall not be learnt where all are.
        """
        if loss_on is None and self.asked is None:
            return self
        if not self.messages:
            self._require_part(loss_on)
            return self
        if loss_on == "all":
            if not all(turn.learnt for turn in self.messages if turn.role == "assistant"):
                raise DataError(
                    f"{self.source}: a turn has a weight of 0, but data.loss_on: all learns every token; "
                    "remove one of them"
                )
            return self
        if loss_on == "assistant":
            return self
        first = len(self.messages) - 1 if self.asked is None else self.asked
        turns = (
            replace(turn, learnt=turn.learnt and i >= first) if turn.role == "assistant" else turn
            for i, turn in enumerate(self.messages)
        )
        return replace(self, messages=tuple(turns))

    def _require_part(self, loss_on: LossOn | None) -> None:
        if self.text is not None and loss_on in ("completion", "assistant"):
            raise DataError(
                f"{self.source}: rows of text are learnt whole, so data.loss_on: {loss_on} has nothing to "
                "choose; leave it out"
            )
        if self.text is None and loss_on == "assistant":
            raise DataError(
                f"{self.source}: rows of {self.form} have no assistant; use data.loss_on: completion, or "
                "data.as_chat: true"
            )


def canonical(value: Any) -> str:
    """Nested fields as text: equal for those that hold the same."""
    return json.dumps(value, sort_keys=True, default=repr)
