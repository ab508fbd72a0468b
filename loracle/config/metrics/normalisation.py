"""Answers made alike where they differ in what does not matter, and words as SQuAD counts them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Literal, get_args

Rule = Literal["case", "numbers", "punctuation", "articles", "whitespace"]
RULES: tuple[str, ...] = get_args(Rule)

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ANY_ARTICLES = re.compile(_ARTICLES.pattern, re.IGNORECASE)
# A number of its own: no part of a word, a version or a date.
_NUMBER = re.compile(
    r"(?<![\w.,])(?<!\d-)[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,-]\d)|(?<![\w.,])\.\d+\b"
)
_IN_NUMBER = re.compile(r"(?<=\d)\.(?=\d)|(?<![\w.])-(?=\d)")  # what stays of punctuation
_DIGITS = 300  # of a number, at most: a longer one stays as it is


def normalised(text: str, rules: Collection[str]) -> str:
    """`text` as the rules have it; with none, as it is. What is composed of several signs is one of them.

    `case`: as `str.casefold`. `numbers`: by their value, without separators of thousands (`1,000.50` is
    `1000.5`). `punctuation`: taken out, Unicode's too, and symbols as `$`; the point and the minus of a
    number stay. `articles`: a, an and the are taken out. `whitespace`: one space each, none at the ends.
    """
    if not rules:
        return text
    text = unicodedata.normalize("NFC", text)
    if "case" in rules:
        text = text.casefold()
    if "punctuation" in rules:
        # Before numbers, so that those in quotes, or behind a sign of money, are numbers.
        text = _without_punctuation(text)
    if "numbers" in rules:
        text = _NUMBER.sub(lambda found: _plain(found[0]), text)
    if "articles" in rules:
        text = _ANY_ARTICLES.sub(" ", text)
    return " ".join(text.split()) if "whitespace" in rules else text


def squad(text: str) -> str:
    """As the evaluation script of SQuAD normalises: lower case, no ASCII punctuation, articles, spaces.

    P. Rajpurkar et al., SQuAD: 100,000+ questions (2016), `evaluate-v1.1.py`.
    """
    text = text.lower().translate(_NO_ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


_NO_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _without_punctuation(text: str) -> str:
    kept = {found.start() for found in _IN_NUMBER.finditer(text)}
    kept |= {
        found.start() + i
        for found in _NUMBER.finditer(text)
        for i, sign in enumerate(found[0])
        if sign == ","
    }
    return "".join(sign for i, sign in enumerate(text) if i in kept or not _is_punctuation(sign))


@lru_cache(maxsize=10_000)
def _is_punctuation(sign: str) -> bool:
    return unicodedata.category(sign)[0] in "PS"


def _plain(number: str) -> str:
    """A number by its value: `+007.50` is `7.5`, and `-0` is `0`."""
    if len(number) > _DIGITS:
        return number
    try:
        value = Decimal(number.replace(",", ""))
    except InvalidOperation:  # digits of other scripts that no number is made of
        return number
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("", "-", "-0") else text
