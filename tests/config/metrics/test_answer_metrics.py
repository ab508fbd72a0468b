"""What answers get, against the reference programs where there are any."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from loracle.config.metrics import METRICS, metric_of
from loracle.config.metrics.normalisation import RULES, normalised, squad

WORDS = ["the", "cat", "Cat,", "sat", "on", "a", "mat.", "12", "dog's", "x-ray"]


def sentences(n: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 12))) for _ in range(n)]


def items_of(
    name: str, answers: list[str | None], references: list[str], labels: Any = ()
) -> list[dict[str, Any]]:
    ratings = METRICS[name].rate(answers, references, labels)
    return [{"index": i, "scores": {name: rating}} for i, rating in enumerate(ratings)]


@pytest.mark.parametrize(
    ("rules", "text", "found"),
    [
        ((), "  The  Cat ", "  The  Cat "),
        (("case",), "STRASSE Straße", "strasse strasse"),
        (("numbers",), "1,000.50 007 -0 +3 12.0 .5", "1000.5 7 0 3 12 0.5"),
        (("numbers",), "1,00 1.2.3 v12 3rd 2024-01-05", "1,00 1.2.3 v12 3rd 2024-01-05"),
        (("punctuation",), "„It's“ —‘ok’! $5 (a.b) -7 3.14", "Its ok 5 ab -7 3.14"),
        (("numbers", "punctuation"), "$1,234.00.", "1234"),
        (("articles",), "The theme of an A", "  theme of    "),
        (("whitespace",), " a\u00a0\n b\t", "a b"),
        (RULES, " The answer is: 1,200.", "answer is 1200"),
        (RULES, "", ""),
        (RULES, "e\u0301", "\u00e9"),
    ],
)
def test_normalisation(rules: tuple[str, ...], text: str, found: str) -> None:
    assert normalised(text, rules) == found
    assert normalised(found, rules).split() == found.split()  # once is enough


def test_token_f1_is_that_of_squad() -> None:
    f1 = METRICS["token_f1"].judge
    assert squad("The  Cat's (an) x.") == "cats x"
    assert f1("the cat sat", "cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert (f1("the", "a"), f1("cat", "the"), f1(None, "the"), f1("", "cat")) == (1, 0, 0, 0)
    assert f1("Ünïcode 猫", "猫") == pytest.approx(2 / 3)


def test_rouge_l_is_that_of_the_reference_program() -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    rouge = METRICS["rouge_l"].judge
    for answer, reference in zip(sentences(80, 1), sentences(80, 2), strict=True):
        truth = scorer.score(reference, answer)["rougeL"].fmeasure
        assert rouge(answer, reference) == pytest.approx(truth)
    assert (rouge(None, "a"), rouge("", "a"), rouge("?!", "a"), rouge("a", "?")) == (0, 0, 0, 0)
    assert rouge("кот сидел", "Кот лежал") == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_scores_are_those_of_sacrebleu(name: str) -> None:
    import sacrebleu

    truth = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[name]
    answers, references = sentences(60, 3), sentences(60, 4)
    answers[5], answers[6] = "", "ünï 猫"
    items = items_of(name, [None, *answers[1:]], references)
    assert METRICS[name].score(items) == pytest.approx(truth(["", *answers[1:]], [references]).score)
    statistics = METRICS[name].statistics(items)
    assert statistics is not None
    drawn = np.random.default_rng(0).integers(0, 60, (5, 60))
    many = METRICS[name].combine(statistics[drawn].sum(axis=1))
    for row, score in zip(drawn, many, strict=True):
        texts = [["", *answers[1:]][i] for i in row]
        assert score == pytest.approx(truth(texts, [[references[i] for i in row]]).score)
    assert METRICS[name].score(items_of(name, [None, ""], ["a b", "c"])) == 0


def test_macro_f1_and_accuracy_are_those_of_scikit_learn() -> None:
    chooser = random.Random(0)
    labels = ["neg", "negative", "pos", "n/a"]
    truth = [chooser.choice(labels) for _ in range(200)]
    given = [label if chooser.random() < 0.6 else chooser.choice([*labels, "other"]) for label in truth]
    written = [
        chooser.choice([f"{label}", f" {label}. As", f'"{label}"\n\nText: x', f"{label}\n"])
        for label in given
    ]
    f1 = METRICS["macro_f1"].score(items_of("macro_f1", list(written), truth, labels))
    assert f1 == pytest.approx(f1_score(truth, given, labels=labels, average="macro"))
    accuracy = METRICS["label_accuracy"].score(items_of("label_accuracy", list(written), truth, labels))
    assert accuracy == pytest.approx(np.mean([a == b for a, b in zip(truth, given, strict=True)]))
    chosen = METRICS["choice_macro_f1"].score(items_of("choice_macro_f1", list(given), truth))
    assert chosen == pytest.approx(f1)


def test_labels_of_one_class_and_answers_that_are_none() -> None:
    f1 = METRICS["macro_f1"]
    assert f1.score(items_of("macro_f1", ["a", "a"], ["a", "a"], ["a"])) == 1
    assert f1.score(items_of("macro_f1", [None, "b"], ["a", "a"], ["a"])) == 0
    assert f1.rate(["ab", "a", "a-b", "", None], ["a"] * 5, ["a", "b"]) == [
        *(["a", None], ["a", "a"], ["a", "a"], ["a", None], ["a", None])
    ]


def test_json_is_read_strictly_and_in_a_fence() -> None:
    valid, fields = METRICS["json_valid"].judge, METRICS["json_fields"].judge
    right = ['{"a": 1}', " [1, 2]\n", '```json\n{"a": 1}\n```', '"text"', "null", "1e999"]
    assert [valid(text, "") for text in right] == [True] * len(right)
    wrong = ['{"a": 1} and more', "{'a': 1}", "NaN", "", None, "[" * 100_000, "```\n```", '{"a": 1']
    assert [valid(text, "") for text in wrong] == [False] * len(wrong)
    assert valid("9" * 100_000, "")
    reference = '{"a": 1, "b": {"c": [true, null]}, "d": "x"}'
    assert fields(reference, reference) == 1
    assert fields('{"d": "x", "b": {"c": [true, null]}, "a": 1.0}', reference) == 1
    assert fields('{"a": 1, "b": {"c": [1, null]}, "e": []}', reference) == pytest.approx(2 / 6)
    assert (fields("no", reference), fields("[]", "{}"), fields("{}", "{}")) == (0, 0, 1)
    assert METRICS["json_fields"].reference_problem("{a}") == "is no JSON"
    assert METRICS["json_fields"].reference_problem("[]") is None


def test_losses_read_in_their_units() -> None:
    items = [
        {"index": 0, "loss": 1.0, "tokens": 3, "bytes": 4},
        {"index": 1, "loss": 2.0, "tokens": 1, "bytes": 6},
    ]
    mean = 5 / 4
    assert metric_of("loss").score(items) == pytest.approx(-mean)
    assert metric_of("perplexity").score(items) == pytest.approx(-np.exp(mean))
    assert metric_of("bits_per_byte").score(items) == pytest.approx(-5 / np.log(2) / 10)
    assert metric_of("perplexity").score([{"loss": 1e4, "tokens": 1}]) == -np.inf
