"""What a user must see about data that were accepted: left out, shared, repeated, too few, not learnt."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from loracle.config.metrics import Metric
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.text.escape import printable
from loracle.training.dataset.chat import Remarks
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import Encoded

Parts = Mapping[str, Sequence[Example]]  # examples by the name of their split

FEWEST = 2  # rows of a split: one row has no spread, so nothing can be said about its score
FEW = 100  # rows, below which a user is told what so few can show
_NAMES = 10  # of fields, in one notice
_LABELS = 20  # distinct answers, at most, where they are labels
_TIMES = 5  # that a label occurs on average, at least
_MARK = r"""[.,;:!?'"`\u2018-\u201f\u00ab\u00bb\u00a1\u00bf]+"""
_MARKS = re.compile(rf"(?<!\w){_MARK}|{_MARK}(?!\w)")  # that end or begin a word
_FEWEST_WORDS = 3  # of a text whose capitals, spaces and marks may not matter
_UNEVEN = 0.9  # share of the most common label, from which on a user is told


def require_enough(name: str, n: int, why: str) -> None:
    """Raises DataError where a split is too small to learn from or to score on."""
    if n < FEWEST:
        raise DataError(
            f"the {name} split {'is empty' if n == 0 else 'has one example'}: {why}; {FEWEST} are the least"
        )


# -- of rows as they stand --------------------------------------------------------------------------


def about_rows(parts: Parts) -> Iterator[Notice]:
    """Rows and prompts that splits share, rows that repeat, labels, and fields that are not read."""
    for first, second in combinations(parts, 2):
        yield from _shared(first, parts[first], second, parts[second])
    copies = {name: len(part) - len({e.content for e in part}) for name, part in parts.items()}
    yield from _counted(
        "rows_repeated", copies, parts, "{} rows are copies of others in their split, and count each time"
    )
    yield from about_labels(parts)
    unread = Counter(name for part in parts.values() for example in part for name in example.unread)
    if unread:
        rows = sum(bool(example.unread) for part in parts.values() for example in part)
        yield Notice("data", "fields_not_read", f"fields that are not read: {_listed(unread, 'row')}", rows)


def about_labels(parts: Parts) -> Iterator[Notice]:
    """Labels that are uneven, that nothing is learnt of, or that may be meant to be one."""
    found = labels_of(parts)
    if not found:
        return
    yield from _alike(parts)
    for name, counts in found.items():
        label, n = next(iter(counts.most_common(1)))
        if n >= _UNEVEN * counts.total():
            yield Notice(
                "data",
                "labels_uneven",
                f"{n:,} of {counts.total():,} {name} rows have the answer {printable(label, 40)}: a model "
                f"that always says so is right in {n / counts.total():.0%} of them",
                n,
            )
    new = sum((found[name] for name in found if name != "train"), Counter[str]())
    unknown = {label: n for label, n in new.items() if label not in found["train"]}
    if unknown:
        some = _and([printable(label, 40) for label in list(unknown)[:_NAMES]])
        yield Notice(
            "data",
            "labels_not_trained",
            f"{sum(unknown.values()):,} rows to be scored have answers that no training row has: {some}",
            sum(unknown.values()),
        )


def _alike(parts: Parts) -> Iterator[Notice]:
    """Labels that differ in capitals or white space alone: those that one of a kind has are more."""
    spelt = Counter(str(e.reference) for part in parts.values() for e in part if e.reference is not None)
    kinds: dict[str, list[str]] = {}
    for label, _ in spelt.most_common():
        kinds.setdefault(" ".join(label.casefold().split()), []).append(label)
    several = [same for same in kinds.values() if len(same) > 1]
    if several:
        some = "; ".join(
            _and([f"{printable(f'{one!r}', 40)} ({spelt[one]:,} rows)" for one in same]) for same in several
        )
        rows = sum(spelt[one] for same in several for one in same[1:])
        yield Notice(
            "data",
            "labels_alike",
            f"answers that differ in capitals or white space alone: {some}; each is learnt as it stands, and "
            "metrics leave aside white space at the ends: spell them alike if they mean the same",
            rows,
        )


def labels_of(parts: Parts) -> dict[str, Counter[str]]:
    """How often each answer occurs, without white space at its ends, by split; empty where answers are too
    many and too rare to be labels."""
    found = {
        name: Counter(str(example.reference).strip() for example in part if example.reference is not None)
        for name, part in parts.items()
    }
    every = sum(found.values(), Counter[str]())
    few = every and len(every) <= _LABELS and every.total() >= _TIMES * len(every)
    return found if few and len(found.get("train", ())) > 1 and all(found.values()) else {}


def about_guard_rows(name: str, rows: Sequence[Example], train: Sequence[Example]) -> Iterator[Notice]:
    """Rows of a guard that are trained on, whole or by their prompt: these are learnt, and not kept."""
    contents, questions = {e.content for e in train}, {asked for e in train for asked in e.asks}
    whole = sum(e.content in contents for e in rows)
    asked = sum(e.asks[-1] in questions for e in rows if e.text is None) - sum(
        e.content in contents for e in rows if e.text is None
    )
    said = [
        (whole, f"{whole:,} stand in train, too"),
        (asked, f"{asked:,} ask what a row of train asks"),
    ]
    counts = " and ".join(text for n, text in said if n)
    if counts:
        text = (
            f"guard {name}: of its {len(rows):,} rows {counts}; what is trained on shows nothing of what is "
            "lost: take them out of the guard or of train"
        )
        yield Notice("data", "guard_rows_trained_on", text, whole + asked)
    copies = len(rows) - len({e.content for e in rows})
    if copies:
        text = f"guard {name}: {copies:,} of its {len(rows):,} rows are copies of others in it"
        yield Notice("data", "guard_rows_repeated", text, copies)


def _shared(first: str, ours: Sequence[Example], second: str, theirs: Sequence[Example]) -> Iterator[Notice]:
    contents, questions = {e.content for e in ours}, {asked for e in ours for asked in e.asks}
    rows = sum(e.content in contents for e in theirs)
    others = [e for e in theirs if e.asks[-1] not in questions]
    prompts = len(theirs) - len(others) - rows
    plain = {_plain(question) for question in {e.question for e in ours}}
    alike = sum((asked := _plain(e.question)) in plain and _has_words(asked) for e in others)
    if first == "train":
        why = "a score on what was trained on says little about anything new"
    else:
        why = "settings are chosen on what they are reported on, so the report is too good"
    todo = f"take them out of {first} or {second}"
    if rows:
        said = f"{second} shares rows with {first}: {rows:,} of its {len(theirs):,} stand in both"
        yield Notice("data", "rows_shared", f"{said}; {why}: {todo}", rows)
    if prompts:
        more = "more " if rows else ""
        said = f"{second} shares prompts with {first}: {prompts:,} {more}of its {len(theirs):,} rows"
        yield Notice(
            "data", "prompts_shared", f"{said} ask what a row of {first} asks; {why}: {todo}", prompts
        )
    if alike:
        said = f"{second} has prompts much like those of {first}: {alike:,} of its {len(theirs):,} rows"
        yield Notice(
            "data",
            "prompts_alike",
            f"{said} differ from one in capitals, spaces and marks at the ends of words alone; where these "
            f"change no answer, {why}: {todo}",
            alike,
        )


def _plain(question: Any) -> Any:
    """A question without capitals, spaces and marks that end or begin a word. Signs between and among
    numbers stay: 2-1 and 2+1 are two questions."""
    if isinstance(question, str):
        text = _MARKS.sub(" ", unicodedata.normalize("NFKC", question).casefold())
        return " ".join(text.split())
    return tuple(map(_plain, question)) if isinstance(question, tuple) else question


def _has_words(question: Any) -> bool:
    """Whether some text of a question is a few words: of a letter or a code, capitals may be all."""
    if isinstance(question, tuple):
        return any(map(_has_words, question))
    return isinstance(question, str) and question.count(" ") >= _FEWEST_WORDS - 1


# -- of rows as they are learnt ---------------------------------------------------------------------


def about_lengths(dropped: Mapping[str, int], parts: Parts, max_length: int, remedy: str) -> Iterator[Notice]:
    """Rows that are left out for their length."""
    text = f"{{}} rows have more than {max_length:,} tokens and are left out; {remedy}, or shorten them"
    yield from _counted("rows_too_long", dropped, parts, text, every=True)


def about_blocks(rows: Encoded, trial: Encoded, max_length: int) -> Notice:
    """How full the blocks of `data.packing` are, and what their number means for batches."""
    n, each = len(rows), rows.n_examples / len(rows)
    text = (
        f"data.packing: {rows.n_examples:,} training examples in {n:,} blocks of at most {max_length:,} "
        f"tokens, {rows.lengths.sum() / (n * max_length):.0%} full; batch_size counts blocks, "
        f"of {each:.3g} examples in the mean, and a trial has {len(trial):,}"
    )
    return Notice("data", "packed", text, n)


def about_tokens(remarks: Mapping[str, Remarks], parts: Parts) -> Iterator[Notice]:
    """What chat template and tokenizer made of the rows."""
    turns = sum(remark.turns for remark in remarks.values())
    if turns:
        rows = {name: remark.rows for name, remark in remarks.items()}
        yield Notice(
            "data",
            "turns_not_learnt",
            f"{_count(turns, 'turn')} of the assistant in {_by_split(rows, parts)} rows are read and not "
            "learnt, as the chat template renders them otherwise once later turns follow; give a turn that "
            "shall be learnt a row that ends with it",
            turns,
        )
    fields = sum((remark.fields for remark in remarks.values()), Counter[str]())
    if fields:
        said = f"fields of turns that the chat template leaves out: {_listed(fields, 'turn')}"
        yield Notice("data", "turn_fields_not_read", said, fields.total())
    for counted, (notice, text) in _TOLD.items():
        yield from _counted(notice, {n: getattr(own, counted) for n, own in remarks.items()}, parts, text)


# Rows that remarks count, by the attribute: the notice's name and text.
_TOLD = {
    "dated": (
        "prompts_dated",
        "the chat template writes the date of today into {} rows, so a run that goes on another day trains "
        "on other prompts; templates with a setting for it, such as date_string, take it from the rows' "
        "chat_template_kwargs",
    ),
    "joined": (
        "parts_joined",
        "{} chats have turns of several parts, which are learnt as one text with line breaks in between, as "
        "the chat template reads no parts",
    ),
    "doubled": (
        "special_tokens_doubled",
        "{} rows begin with the token that opens a text twice, as their own text or the chat template brings "
        "it, too; take it out of the text",
    ),
    "unopened": (
        "special_tokens_missing",
        "{} chats do not begin with the token that the tokenizer puts before every text, as the chat "
        "template leaves it out; models that were trained with it may read worse",
    ),
    "unknown": (
        "characters_unknown",
        "{} rows hold characters that the tokenizer does not know, and the model reads its sign for the "
        "unknown in their place",
    ),
}


def about_references(going_on: Mapping[str, int], parts: Parts) -> Iterator[Notice]:
    """References that generation cannot write to their end."""
    yield from _counted(
        "references_go_on",
        going_on,
        parts,
        "{} references go on behind a stop token, where generation ends, so it can never write them whole",
    )


# -- of numbers of rows -----------------------------------------------------------------------------


def about_sizes(n_train: int, scored: Mapping[str, int], metric: Metric) -> Iterator[Notice]:
    """Splits that are small, with the difference that they can show."""
    if FEWEST <= n_train < FEW:  # fewer are refused
        yield Notice(
            "data",
            "few_training_rows",
            f"{n_train} training rows are few: below {FEW}, what a setting gains depends more on which rows "
            "those are than on the setting",
            n_train,
        )
    for name, n in scored.items():
        if not FEWEST <= n < FEW:
            continue
        least = least_difference(n, metric)
        yield Notice(
            "data",
            f"few_{name}_rows",
            f"{n} {name} rows are few: a difference between two settings of less than {least} would most "
            "likely not show",
            n,
        )


def about_limit(scored: int, n: int) -> Iterator[Notice]:
    """Validation rows that trials are not scored on."""
    if scored < n:
        yield Notice(
            "data",
            "validation_limited",
            f"trials are scored on {scored:,} of {n:,} validation rows (data.validation_limit)",
            n - scored,
        )


def about_trials(trained: int, n_train: int, scored: int, n: int, price: str) -> Iterator[Notice]:
    """Rows that a trial has for what it may cost; `price`: what it costs, in words."""
    yield Notice(
        "data",
        "trial_limited",
        f"a trial trains on {trained:,} of {n_train:,} rows and is scored on {scored:,} of {n:,} validation "
        f"rows, which cost about {price}",
        n_train - trained,
    )


def least_difference(n: int, metric: Metric) -> str:
    """The difference between two settings that n rows can be expected to show, in words.

    For a share of correct rows, two settings on n rows each differ visibly (power 80 %, level 5 %) from
    4 sqrt(p (1 - p) / n) on, at most 2 / sqrt(n) (p = 1/2): n = 16 s^2 / d^2, R. Lehr, Statistics in Medicine
    11, 1099 (1992). For what has no such bound, the same two settings are compared row by row:
    n = 8 s^2 / d^2, so d = sqrt(8 / n) s, where s is the standard deviation of the difference of a row. Rows
    that the metric is not about have their loss.
    """
    if metric.proportion:
        return f"{min(100, round(200 / math.sqrt(n)))} percentage points"
    what = "loss" if metric.table else metric.title
    return f"{math.sqrt(8 / n):.2g} standard deviations of a row's difference in {what}"


# -- words ------------------------------------------------------------------------------------------


def _counted(
    name: str, counts: Mapping[str, int], parts: Parts, text: str, every: bool = False
) -> Iterator[Notice]:
    """A notice of rows counted by split, where there are any; `text` has `{}` in their place."""
    if n := sum(counts.values()):
        yield Notice("data", name, text.format(_by_split(counts, parts, every)), n)


def _by_split(counts: Mapping[str, int], parts: Parts, every: bool = False) -> str:
    """`3 of 10 train and 1 of 5 test`; splits without any only where `every`."""
    said = [f"{n:,} of {len(parts[name]):,} {name}" for name, n in counts.items() if n or every]
    return _and(said)


def _listed(counts: Counter[str], what: str) -> str:
    names = counts.most_common(_NAMES)
    said = [f"{printable(name, 40)} ({_count(n, what)})" for name, n in names]
    return _and(said if len(counts) <= _NAMES else [*said, f"{len(counts) - _NAMES} more"])


def _and(said: Collection[str]) -> str:
    *some, last = said
    return f"{', '.join(some)} and {last}" if some else last


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
