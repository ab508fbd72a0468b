"""Metrics that give each answer something, and are the mean of that."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from loracle.config.metrics.metric import Share
from loracle.config.metrics.normalisation import squad

_WORDS = re.compile(r"\w+")
_FENCE = re.compile(r"```\w*\s*\n(.*?)\n?\s*```", re.DOTALL)


class ExactMatch(Share):
    """The share of predictions whose answer is that of the reference."""

    name, needs, whole, normalises = "exact_match", "writing", True, True

    def judge(self, answer: str | None, reference: str) -> bool:
        return answer is not None and answer == reference


class ChoiceAccuracy(Share):
    """The share of examples whose reference is the likeliest of its choices.

    That is the choice of the highest total log-likelihood, end-of-sequence included: the one that sampling
    would give most often.
    """

    name, needs = "choice_accuracy", "choices"

    def judge(self, answer: str | None, reference: str) -> bool:
        return answer == reference


class TokenF1(Share):
    """Words that answer and reference share: the harmonic mean of precision and recall, as SQuAD has it.

    Words are those of `squad`; where one side has none, the two are alike or not.
    """

    name, needs = "token_f1", "writing"

    def judge(self, answer: str | None, reference: str) -> float:
        ours, theirs = squad(answer or "").split(), squad(reference).split()
        if not ours or not theirs:
            return float(answer is not None and ours == theirs)
        shared = (Counter(ours) & Counter(theirs)).total()
        return _f1(shared, len(ours), len(theirs))


class RougeL(Share):
    """The longest common subsequence of words, as harmonic mean of precision and recall.

    C.-Y. Lin, ROUGE (2004). Words are runs of letters and digits of any script, in lower case, without
    stemming: for English the numbers are those of the package `rouge-score`.
    """

    name, needs = "rouge_l", "writing"

    def judge(self, answer: str | None, reference: str) -> float:
        ours, theirs = (_WORDS.findall(text.lower().replace("_", " ")) for text in (answer or "", reference))
        return _f1(_common_subsequence(ours, theirs), len(ours), len(theirs))


class JsonValid(Share):
    """The share of answers that are JSON, in a code fence or not."""

    name, needs, imitates = "json_valid", "writing", False

    def judge(self, answer: str | None, reference: str) -> bool:
        return parsed(answer) is not _NO_JSON


class JsonFields(Share):
    """The share of fields that answer and reference have alike, of all that either has.

    A field is a value with its place: objects and lists are gone through. What is no JSON has none alike.
    """

    name, needs = "json_fields", "writing"

    def judge(self, answer: str | None, reference: str) -> float:
        ours, theirs = parsed(answer), parsed(reference)
        if ours is _NO_JSON or theirs is _NO_JSON:
            return 0.0
        one, other = Counter(_fields(ours)), Counter(_fields(theirs))
        return (one & other).total() / (one | other).total()

    def reference_problem(self, reference: str) -> str | None:
        return "is no JSON" if parsed(reference) is _NO_JSON else None


def _f1(shared: int, ours: int, theirs: int) -> float:
    return 2 * shared / (ours + theirs) if shared else 0.0


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence; a row of the table is the bits of one number.

    H. Hyyrö, Bit-parallel LCS-length computation revisited (2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(one)) - 1
    row = every
    for word in other:
        matching = row & places.get(word, 0)
        row = (row + matching | row - matching) & every
    return len(one) - row.bit_count()


# -- JSON -------------------------------------------------------------------------------------------

_NO_JSON = object()


def parsed(text: str | None) -> Any:
    """The value that a text spells in JSON, in a code fence or not; else `_NO_JSON`."""
    if text is None:
        return _NO_JSON
    text = text.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    try:
        return json.loads(text, parse_constant=_refuse, parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return _NO_JSON


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float:
    """1 and 1.0 are one number; thousands of digits are infinite, as in other readers of JSON."""
    return float(text)


def _fields(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Values with their places and kinds; an empty object or list is a value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _fields(inner, (*place, name))
    elif isinstance(value, list) and value:
        for i, inner in enumerate(value):
            yield from _fields(inner, (*place, i))
    else:
        yield (place, type(value).__name__, value if isinstance(value, str | float | bool) else None)
