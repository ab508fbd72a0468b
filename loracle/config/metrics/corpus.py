"""Metrics that are no mean of what items get: BLEU, chrF, macro F1. Their sums over items make the score."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from loracle.config.metrics.metric import Floats, Item, Metric, Needs, Share, rating_of


class _Corpus(Metric):
    """A score of sacrebleu, from 0 to 100. An item has the counts that sacrebleu adds up."""

    needs, unit, package = "writing", "points", ("sacrebleu", "bleu")

    def statistics(self, items: Sequence[Item]) -> Floats:
        return np.array([rating_of(item, self.name) for item in items], dtype=np.float64)

    def number(self, reading: float) -> str:
        return f"{reading:z.1f}"


class Bleu(_Corpus):
    """BLEU of the corpus, with sacrebleu's standard tokenizer `13a` and smoothing `exp`.

    K. Papineni et al. (2002); M. Post, A call for clarity in reporting BLEU scores (2018).
    """

    name = "bleu"

    @property
    def title(self) -> str:
        return "BLEU"

    def rate(
        self, answers: Sequence[str | None], references: Sequence[str], labels: Sequence[str] = ()
    ) -> list[list[int]]:
        bleu, found = _sacrebleu("BLEU"), []
        for answer, reference in zip(answers, references, strict=True):
            scored = bleu.corpus_score([answer or ""], [[reference]])
            found.append([scored.sys_len, scored.ref_len, *scored.counts, *scored.totals])
        return found

    def combine(self, sums: Floats) -> Floats:
        bleu, flat = _sacrebleu("BLEU"), sums.reshape(-1, sums.shape[-1])
        order = bleu.max_ngram_order
        found = [
            bleu.compute_bleu(
                correct=row[2 : 2 + order],
                total=row[2 + order :],
                sys_len=row[0],
                ref_len=row[1],
                smooth_method=bleu.smooth_method,
                smooth_value=bleu.smooth_value,
                effective_order=bleu.effective_order,
                max_ngram_order=order,
            ).score
            for row in flat.astype(np.int64).tolist()
        ]
        return np.array(found).reshape(sums.shape[:-1])


class ChrF(_Corpus):
    """chrF2 of the corpus: F-score, recall counting twice, of runs of one to six characters.

    M. Popović, chrF: character n-gram F-score for automatic MT evaluation (2015).
    """

    name = "chrf"

    @property
    def title(self) -> str:
        return "chrF"

    def rate(
        self, answers: Sequence[str | None], references: Sequence[str], labels: Sequence[str] = ()
    ) -> list[list[int]]:
        # sacrebleu shows a corpus' score alone; a test holds the sums of these against it.
        found = _sacrebleu("CHRF")._extract_corpus_statistics([a or "" for a in answers], [list(references)])
        return [list(map(int, row)) for row in found]

    def combine(self, sums: Floats) -> Floats:
        flat = sums.reshape(-1, sums.shape[-1]).tolist()
        return np.array([_sacrebleu("CHRF")._compute_f_score(row) for row in flat]).reshape(sums.shape[:-1])


@cache
def _sacrebleu(name: str) -> Any:
    return getattr(importlib.import_module("sacrebleu.metrics"), name)()


# -- labels -----------------------------------------------------------------------------------------


class _Labelled(Share):
    """A score of labels: what an item gets is its own label, and the one that was given."""

    labels = True

    def rate(
        self, answers: Sequence[str | None], references: Sequence[str], labels: Sequence[str] = ()
    ) -> list[list[str | None]]:
        return [
            [reference, label_in(answer, labels)]
            for answer, reference in zip(answers, references, strict=True)
        ]


class LabelAccuracy(_Labelled):
    """The share of examples for which the model writes the right label first."""

    name, needs, normalises = "label_accuracy", "writing", True

    def statistics(self, items: Sequence[Item]) -> Floats:
        pairs = [rating_of(item, self.name) for item in items]
        return np.array([(float(own == given), 1.0) for own, given in pairs])


class MacroF1(_Labelled):
    """The mean of the labels' F1, each counting the same however many examples have it.

    For each label twice the right ones over those that have it and those that are given it. A label that no
    example has and none is given, as in some that an interval draws, is left out. What is no label at all is
    wrong for the label that it should have been.
    """

    name, normalises = "macro_f1", True
    needs: ClassVar[Needs] = "writing"

    @property
    def title(self) -> str:
        return "macro F1"

    def statistics(self, items: Sequence[Item]) -> Floats:
        pairs = [rating_of(item, self.name) for item in items]
        labels = {label: i for i, label in enumerate(sorted({own for own, _ in pairs}))}
        counts = np.zeros((len(pairs), 2, len(labels)))  # right ones, and all on both sides
        for row, (own, given) in zip(counts, pairs, strict=True):
            row[0, labels[own]] += own == given
            row[1, labels[own]] += 1
            if given in labels:
                row[1, labels[given]] += 1
        return counts.reshape(len(pairs), -1)

    def combine(self, sums: Floats) -> Floats:
        right, sides = np.moveaxis(sums.reshape(*sums.shape[:-1], 2, -1), -2, 0)
        f1 = 2 * right / np.maximum(sides, 1)
        found: Floats = f1.sum(axis=-1) / np.maximum((sides > 0).sum(axis=-1), 1)
        return found


class ChoiceMacroF1(MacroF1):
    """The same of the likeliest choices."""

    name, normalises = "choice_macro_f1", False
    needs: ClassVar[Needs] = "choices"

    @property
    def title(self) -> str:
        return "macro F1 of choices"

    def rate(
        self, answers: Sequence[str | None], references: Sequence[str], labels: Sequence[str] = ()
    ) -> list[list[str | None]]:
        return [[reference, answer] for answer, reference in zip(answers, references, strict=True)]


def label_in(answer: str | None, labels: Sequence[str]) -> str | None:
    """The longest label that an answer begins with, as whole words; None: it begins with none."""
    if answer is None:
        return None
    text = answer.lstrip(" \t\n\"'`*(")
    found = [label for label in labels if text.startswith(label) and not _goes_on(label, text)]
    return max(found, key=len, default=None)


def _goes_on(label: str, text: str) -> bool:
    """Whether the word that a label ends with is longer in the text."""
    rest = text[len(label) : len(label) + 1]
    return bool(label) and label[-1].isalnum() and rest.isalnum()
