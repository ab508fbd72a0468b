from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import KINDS, save_kind
from conftest import copy_rows, save_tiny_model
from places import PACKAGE

from loracle.config.metrics import METRICS, Metric
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.errors import ConfigError, DataError
from loracle.records.trial import Outcome
from loracle.report.verdict import Comparison, verdict
from loracle.text.patterns import Pattern
from loracle.training.dataset.shapes import Example, Message
from loracle.training.dataset.tokens import encode
from loracle.training.generation import generate
from loracle.training.intervals import confidence_interval, paired_difference
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.batching import observed
from loracle.training.scoring import (
    Questions,
    answer,
    answer_pattern,
    answers,
    check_scoring,
    prepare,
    score,
)

EXACT = ScoringConfig(metric="exact_match", max_new_tokens=8, batch_size=7)


def examples_of(rows: list[dict[str, Any]]) -> list[Example]:
    return [Example(f"t:{i}", **row) for i, row in enumerate(rows)]


def questions_of(base: Base, examples: list[Example], settings: ScoringConfig) -> Questions:
    check_scoring(examples, settings)
    encoded = encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)
    return prepare(examples, encoded, base, settings, 64)


@pytest.fixture(scope="module")
def skilled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """A base that has learnt to answer `x:a=` and the like, some right, some wrong."""
    folder = save_tiny_model(tmp_path_factory.mktemp("skilled") / "m")
    base = load_base(
        RunConfig.model_validate({"model": str(folder), "data": {"train": "none"}, "device": "cpu"})
    )
    encoded = encode(examples_of(copy_rows(60, 3)), base.tokenizer, 64, stop_ids=base.stop_ids)
    config = {"rank": 32, "alpha": 64, "dropout": 0.0, "batch_size": 16, "learning_rate": 1e-2}
    settings = TrainingConfig(epochs=25, micro_batch=16)
    with train_adapter(base, encoded, config, settings, seed=0):
        yield base


def greedy_one_by_one(base: Base, prompt: str, limit: int) -> str:
    """The slow truth: no cache, no batch, no padding."""
    ids = base.tokenizer(prompt)["input_ids"]
    written: list[int] = []
    with torch.inference_mode():
        while len(written) < limit:
            token = int(base.model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
            if token in base.stop_ids:
                break
            written.append(token)
    return str(base.tokenizer.decode([t for t in written if t != base.tokenizer.pad_token_id]))


def test_predictions_are_the_greedy_ones(skilled: Base) -> None:
    rows = copy_rows(60, 3)[::2] + copy_rows(20, 4, letters="abcdef", seed=1)
    examples = examples_of(rows)
    scored = score(skilled, questions_of(skilled, examples, EXACT), EXACT)
    truth = [greedy_one_by_one(skilled, row["prompt"], 8) for row in rows]
    assert [item["prediction"] for item in scored.items] == truth
    correct = [a == row["completion"] for a, row in zip(truth, rows, strict=True)]
    assert [item["correct"] for item in scored.items] == correct
    assert 0.2 < scored.value < 1
    assert scored.value == scored.metrics["exact_match"] == np.mean(correct)


def test_generation_does_not_depend_on_the_batch(skilled: Base) -> None:
    questions = questions_of(skilled, examples_of(copy_rows(20, 4, seed=2)), EXACT)
    alone, count = generate(skilled, questions.encoded, replace_batch(EXACT, 1))
    assert generate(skilled, questions.encoded, replace_batch(EXACT, 20)) == (alone, count)
    assert any(len(text) > 0 for text in alone)


def replace_batch(settings: ScoringConfig, batch_size: int) -> ScoringConfig:
    return settings.model_copy(update={"batch_size": batch_size})


def test_references_that_greedy_writes_need_no_generation(
    skilled: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_of(copy_rows(60, 3))
    scored = score(skilled, questions_of(skilled, examples, EXACT), EXACT)
    solved = [e for e, item in zip(examples, scored.items, strict=True) if item["correct"]]

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(skilled.model, "generate", refuse)
    assert score(skilled, questions_of(skilled, solved, EXACT), EXACT).value == 1


def test_loss_is_per_token_and_items_add_up(base: Base) -> None:
    settings = ScoringConfig(metric="loss", batch_size=3)
    examples = examples_of(copy_rows(10, 5))
    scored = score(base, questions_of(base, examples, settings), settings)
    tokens = [item["tokens"] for item in scored.items]
    assert tokens == [len(e.completion or "") + 1 for e in examples]
    total = sum(item["loss"] * item["tokens"] for item in scored.items)
    assert scored.value == -scored.metrics["loss"] == pytest.approx(-total / sum(tokens))
    alone = score(base, questions_of(base, examples[3:4], settings), settings)
    assert alone.metrics["loss"] == pytest.approx(scored.items[3]["loss"], rel=1e-5)
    assert [item["index"] for item in scored.items] == list(range(10))


def test_text_is_scored_by_loss_alone(base: Base) -> None:
    examples = [Example("t:1", text="abc")]
    settings = ScoringConfig(metric="loss")
    assert score(base, questions_of(base, examples, settings), settings).items[0]["tokens"] == 3
    with pytest.raises(ConfigError, match="exact_match needs rows with an answer"):
        check_scoring(examples, EXACT)


def test_chats_answer_their_last_turn(skilled: Base) -> None:
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "copy:ab=")]
    example = Example("t:1", messages=(*turns, Message("assistant", "ab")))
    scored = score(skilled, questions_of(skilled, [example], EXACT), EXACT)
    prompt = "<user>a\n<assistant>b<eos>\n<user>copy:ab=\n<assistant>"
    assert scored.items[0]["prediction"] == greedy_one_by_one(skilled, prompt, 8)
    assert scored.items[0]["tokens"] == 5


def test_a_prediction_ends_where_a_reference_goes_on(skilled: Base) -> None:
    rows = [{"prompt": "copy:ab=", "completion": "ab<eos>cd"}, {"prompt": "copy:ab=", "completion": "ab"}]
    scored = score(skilled, questions_of(skilled, examples_of(rows), EXACT), EXACT)
    assert [item["prediction"] for item in scored.items] == [greedy_one_by_one(skilled, "copy:ab=", 8)] * 2
    assert [item["tokens"] for item in scored.items] == [6, 3]


def test_a_tool_call_has_its_answer_in_what_the_template_renders() -> None:
    call = Message("assistant", None, {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})
    example = Example("t:1", messages=(Message("user", "a"), call))
    check_scoring([example], EXACT.model_copy(update={"answer_pattern": "#### (.+)"}))
    with pytest.raises(DataError, match="is not one of its choices"):
        check_scoring([example], ScoringConfig(metric="choice_accuracy", choices=["a", "b"]))


def test_answer_patterns() -> None:
    def found(pattern: str, text: str) -> str | None:
        return answer(text, answer_pattern(ScoringConfig(answer_pattern=pattern)))

    assert found(r"-?\d+", "3 + 4 = 7") == "7"
    assert found(r"#### (.*)$", "because\n#### 42 ") == "42"
    assert found(r"#### (.*)$", "no answer") is None
    assert found(r"(x)|y", "y") is None
    assert answer("  a b\n", None) == "a b"
    assert found("#### (.+)", "so\n#### 12\nHope it helps") == "12"
    assert found("(?s)<answer>(.+)</answer>", "<answer>1\n2</answer>") == "1\n2"
    with pytest.raises(ValueError, match=r"answer_pattern\n.*not a regular expression: '\(': "):
        answer_pattern(ScoringConfig(answer_pattern="("))


def test_the_pattern_that_init_prints_ends_with_its_line() -> None:
    template = (PACKAGE / "config" / "template.yaml").read_text()
    (printed,) = re.findall(r'# answer_pattern: "(.*?)"', template)
    pattern = answer_pattern(ScoringConfig(answer_pattern=printed))
    (at,) = re.findall(r"# answer_at: (first|last)", template)
    for going_on in ("\nHope it helps", " because 4 + 8 is 12.", ".", "\n\nQuestion: 3 + 4?\n#### 7"):
        assert answer(f"4 + 8 = 12\n#### 12{going_on}", pattern, at) == "12"
    assert answer("4 + 8 = 12\n#### 12\n#### 7", pattern) == "7"


def test_a_pattern_that_never_ends_is_refused_where_it_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EXACT.model_copy(update={"answer_pattern": "([a-z]+)+$"})
    short = Pattern("([a-z]+)+$", "scoring.answer_pattern", seconds=0.2)
    assert answer_pattern(settings).seconds < 60  # type: ignore[union-attr]
    monkeypatch.setattr(answers, "answer_pattern", lambda _: short)
    examples = examples_of([{"prompt": "p", "completion": "a" * 5000 + "!"}])
    with pytest.raises(ConfigError, match=r"scoring.answer_pattern: .* took more than 0.2 s on a text"):
        check_scoring(examples, settings)


def test_answers_are_extracted_from_both_sides(skilled: Base) -> None:
    settings = EXACT.model_copy(update={"answer_pattern": r"[a-z]"})
    examples = examples_of([{"prompt": "copy:ab=", "completion": "???b"}])
    scored = score(skilled, questions_of(skilled, examples, settings), settings)
    prediction = greedy_one_by_one(skilled, "copy:ab=", 8)
    assert scored.items[0] | {"correct": prediction[-1:] == "b"} == scored.items[0]
    with pytest.raises(DataError, match=r"t:0: scoring.answer_pattern '\\\\d' finds no answer in the ref"):
        check_scoring(examples, EXACT.model_copy(update={"answer_pattern": r"\d"}))


def test_references_that_cannot_be_written_are_refused(base: Base) -> None:
    examples = examples_of([{"prompt": "a", "completion": "b" * 8}, {"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError, match=r"max_new_tokens: 1 of 2 references .* raise it to 9"):
        questions_of(base, examples, EXACT)


def test_generation_beyond_the_model_is_refused(base: Base) -> None:
    examples = examples_of([{"prompt": "a" * 20, "completion": "b"}])
    with pytest.raises(ConfigError, match=r"120 after a prompt of 20 tokens are more than the 128"):
        questions_of(base, examples, EXACT.model_copy(update={"max_new_tokens": 120}))


def test_what_can_no_longer_be_the_reference_is_not_written_to_its_end(base: Base) -> None:
    long = EXACT.model_copy(update={"max_new_tokens": 60})
    words = ["ab", "zzzz", "bca", "q", "cd", "xyxyxyxy"]
    examples = examples_of([{"prompt": f"tell {word} ", "completion": word} for word in words])
    questions = questions_of(base, examples, long)
    steps: list[int] = []
    hook = base.model.register_forward_pre_hook(lambda *_: steps.append(1))
    try:
        found = score(base, questions, long)
        quick = len(steps)
        whole, _ = generate(base, questions.encoded, long)
    finally:
        hook.remove()
    assert quick <= 2 + 9  # the references, the prompts, and the longest reference with its end
    assert len(steps) - quick > 3 * quick
    for item, text, word in zip(found.items, whole, words, strict=True):
        assert item["correct"] == (text.strip() == word)
        assert text.startswith(item["prediction"])
        assert item["prediction"] == text or len(item["prediction"]) >= len(word)


def test_what_may_still_be_the_reference_is_written_on(base: Base) -> None:
    """A text that goes on like the reference, whatever white space stands before it, ends where it ends."""
    long = EXACT.model_copy(update={"max_new_tokens": 40})
    questions = questions_of(base, examples_of([{"prompt": "tell ab ", "completion": "a"}]), long)
    (whole,), _ = generate(base, questions.encoded, long)
    assert len(whole.strip()) > 5
    for wanted in (f" {whole}\n", whole + "more", f" {whole[:-1]}"):
        (text,), _ = generate(base, questions.encoded, long, [wanted])
        assert text == whole
    (text,), _ = generate(base, questions.encoded, long, ["?"])
    assert whole.startswith(text)
    assert len(text) < len(whole)


def test_a_pattern_may_find_the_answer_anywhere(base: Base) -> None:
    settings = EXACT.model_copy(update={"max_new_tokens": 30, "answer_pattern": "[a-z]$"})
    questions = questions_of(base, examples_of([{"prompt": "tell ab ", "completion": "a"}]), settings)
    (item,) = score(base, questions, settings).items
    assert [item["prediction"]] == generate(base, questions.encoded, settings)[0]


# -- choices ----------------------------------------------------------------------------------------


def log_likelihood(base: Base, prompt: str, completion: str) -> float:
    ids = base.tokenizer(prompt + completion)["input_ids"] + [base.tokenizer.eos_token_id]
    start = len(base.tokenizer(prompt)["input_ids"])
    with torch.inference_mode():
        logs = base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids)))


def test_the_likeliest_choice_wins(skilled: Base) -> None:
    settings = ScoringConfig(metric="choice_accuracy", choices=["a", "bc", "dab"], batch_size=4)
    own = ("c", "abc")
    examples = examples_of(
        [{"prompt": f"copy:{w}=", "completion": w} for w in ("a", "bc", "dab")]
        + [{"prompt": "copy:c=", "completion": "abc", "choices": own}]
    )
    scored = score(skilled, questions_of(skilled, examples, settings), settings)
    for example, item in zip(examples, scored.items, strict=True):
        options = example.choices or settings.choices or []
        best = max(options, key=lambda c: log_likelihood(skilled, example.prompt or "", c))
        assert item["prediction"] == best
        assert item["correct"] == (best == example.completion)
    assert scored.value == scored.metrics["choice_accuracy"] >= 0.5


@pytest.mark.parametrize(
    ("choices", "given", "message"),
    [
        ((), None, "needs two or more different choices"),
        (("a",), None, "needs two or more different choices"),
        (("a", "a"), None, "needs two or more different choices"),
        (("b", "c"), ["a", "b"], r"t:9: the reference 'a' is not one of its choices \['b', 'c'\]"),
    ],
)
def test_choices_are_checked(choices: tuple[str, ...], given: list[str] | None, message: str) -> None:
    example = Example("t:9", prompt="p", completion="a", choices=choices)
    with pytest.raises(DataError, match=message):
        check_scoring([example], ScoringConfig(metric="choice_accuracy", choices=given))


def test_questions_of_another_metric_are_refused(base: Base) -> None:
    questions = questions_of(base, examples_of(copy_rows(3)), EXACT)
    with pytest.raises(ValueError, match="another metric"):
        score(base, questions, ScoringConfig(metric="choice_accuracy"))


class Overlap(Metric):
    """How many letters of the reference the answer has: a metric that is in no release, one object."""

    name, needs, scale, unit = "letter_overlap", "writing", 100.0, "points"

    def judge(self, answer: str | None, reference: str | None) -> float:
        return len(set(answer or "") & set(reference or "")) / len(set(reference or ""))


def test_a_metric_is_one_object(skilled: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "letter_overlap", Overlap())
    settings = EXACT.model_copy(update={"metric": "letter_overlap"})
    assert ScoringConfig(metric="letter_overlap").metric == settings.metric
    examples = examples_of(copy_rows(20, 4, letters="abcdef", seed=1))
    with pytest.raises(ConfigError, match="letter_overlap needs rows with an answer"):
        check_scoring([Example("t:1", text="abc")], settings)
    scored = score(skilled, questions_of(skilled, examples, settings), settings)
    exact = score(skilled, questions_of(skilled, examples, EXACT), EXACT)
    assert [i["prediction"] for i in scored.items] == [i["prediction"] for i in exact.items]
    assert exact.value < scored.value == scored.metrics["letter_overlap"] < 1
    low, high = confidence_interval(scored.items)
    assert low < scored.value < high
    comparison = Comparison({"rank": 1}, None, Outcome(scored.value), None)
    assert "a test letter overlap of " in verdict(comparison, "letter_overlap")


# -- uncertainty ------------------------------------------------------------------------------------


def verdicts(correct: int, n: int) -> list[dict[str, Any]]:
    return [{"index": i, "correct": i < correct} for i in range(n)]


def losses(values: np.ndarray, tokens: int = 4) -> list[dict[str, Any]]:
    return [{"index": i, "loss": float(v), "tokens": tokens} for i, v in enumerate(values)]


def test_wilson_intervals() -> None:
    assert confidence_interval(verdicts(8, 10)) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert confidence_interval(verdicts(0, 10)) == pytest.approx((0.0, 0.278), abs=1e-3)
    assert confidence_interval(verdicts(10, 10))[1] == 1
    with pytest.raises(ValueError, match="at least one item"):
        confidence_interval([])


def test_loss_intervals_cover_the_truth() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        low, high = confidence_interval(losses(random.gamma(2, 1, 100)))
        covered += low < -2 < high
    assert 33 <= covered <= 40


def test_paired_differences_are_sharper_than_their_parts() -> None:
    random = np.random.default_rng(1)
    difficulty = random.gamma(2, 1, 200)
    a, b = losses(difficulty), losses(difficulty + 0.1 + 0.05 * random.standard_normal(200))
    difference, low, high = paired_difference(a, b[::-1])
    assert 0.05 < low < difference < high < 0.15
    assert (difference, low, high) == paired_difference(a, b)
    apart = confidence_interval(a)
    assert apart[1] - apart[0] > 5 * (high - low)


def test_paired_differences_need_the_same_items() -> None:
    difference, low, high = paired_difference(verdicts(8, 10), verdicts(5, 10))
    assert difference == pytest.approx(0.3)
    assert low <= difference <= high
    with pytest.raises(ValueError, match="same items"):
        paired_difference(verdicts(5, 10), verdicts(5, 9))
    with pytest.raises(ValueError, match="same items"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="one metric"):
        paired_difference(verdicts(1, 3), losses(np.ones(3)))


def test_models_that_ship_penalties_generate_their_argmax(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [1, 3], "repetition_penalty": 1.8, "do_sample": true, "temperature": 0.6}'
    )
    base = load_base(
        RunConfig.model_validate({"model": str(folder), "data": {"train": "none"}, "device": "cpu"})
    )
    assert base.stop_ids == (1, 3)
    questions = questions_of(base, examples_of(copy_rows(6)), EXACT)
    plain = replace(base, stop_ids=(1, 3))
    truth = [greedy_one_by_one(plain, row["prompt"], 8) for row in copy_rows(6)]
    assert generate(base, questions.encoded, EXACT)[0] == truth


# -- special tokens, and models that ignore the mask ---------------------------------------------------


def test_special_tokens_in_an_answer_do_not_make_a_right_one_wrong(tmp_path: Path) -> None:
    """A model that writes ` it is <user>RIGHT<assistant><eos>`, where those marks are special tokens."""
    folder = save_tiny_model(tmp_path / "m")
    base = load_base(
        RunConfig.model_validate({"model": str(folder), "data": {"train": "none"}, "device": "cpu"})
    )
    prompts = [row["prompt"] for row in copy_rows(40, 3)]
    always = " it is <user>RIGHT<assistant><eos>"
    encoded = encode(
        examples_of([{"prompt": prompt, "completion": always} for prompt in prompts]),
        base.tokenizer,
        64,
        stop_ids=base.stop_ids,
    )
    settings = ScoringConfig(metric="exact_match", max_new_tokens=24, answer_pattern="<user>(.+)<assistant>")
    config = {"rank": 16, "alpha": 32, "dropout": 0.0, "batch_size": 16, "learning_rate": 1e-2}
    with train_adapter(base, encoded, config, TrainingConfig(epochs=12), seed=0):
        for reference, value in ((" so <user>RIGHT<assistant><eos>", 1), (" so <user>LEFT<assistant>", 0)):
            rows = [{"prompt": prompt, "completion": reference} for prompt in prompts[:8]]
            scored = score(base, questions_of(base, examples_of(rows), settings), settings)
            assert scored.items[0]["prediction"] == " it is <user>RIGHT<assistant>"
            assert scored.value == value
        whole = settings.model_copy(update={"answer_pattern": None})
        rows = [{"prompt": prompt, "completion": always} for prompt in prompts[:8]]
        assert score(base, questions_of(base, examples_of(rows), whole), whole).value == 1


def test_a_prediction_without_an_answer_is_never_right(skilled: Base) -> None:
    settings = EXACT.model_copy(update={"answer_pattern": "#(.)?"})
    rows = [{"prompt": "copy:ab=", "completion": "#"}]  # the reference matches, and its group is empty
    with pytest.raises(DataError, match=r"t:0: .* finds no answer"):
        questions_of(skilled, examples_of(rows), settings)


def test_models_that_ignore_the_mask_write_what_they_write_alone(tmp_path: Path) -> None:
    """RWKV reads padding as text, and mixes the rows of a batch while it writes."""
    kind = next(kind for kind in KINDS if kind.type == "rwkv")
    base = load_base(
        RunConfig.model_validate(
            {"model": str(save_kind(kind, tmp_path / "m")), "data": {"train": "none"}, "device": "cpu"}
        )
    )
    rows = copy_rows(8, 6)
    truth = [greedy_one_by_one(base, row["prompt"], 8) for row in rows]
    questions = questions_of(base, examples_of(rows), EXACT)
    assert generate(base, questions.encoded, EXACT)[0] != truth  # as a model that heeds the mask
    base = observed(base, questions.encoded.tokens, writes=True)
    assert generate(base, questions.encoded, EXACT)[0] == truth
