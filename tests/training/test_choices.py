"""Choices behind a prompt that is read once are as likely as each read with its prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import KINDS, Kind, save_kind
from conftest import save_tiny_model

from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig
from loracle.training.choices import can_be_continued, continued_losses, shared_lengths
from loracle.training.dataset.shapes import Example, Message
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.model.base_model import Base, load_base
from loracle.training.model.batching import observed
from loracle.training.scoring import Questions, check_scoring, prepare, score

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' own

OPTIONS = ["a", "ab", "dcbab"]
CHOICE = ScoringConfig(metric="choice_accuracy", choices=OPTIONS, batch_size=5)
# Those that keep a state, or a cache of their own.
READ_WHOLE = {
    *("minimax", "mamba", "falcon_mamba", "mamba2", "jamba", "bamba", "falcon_h1", "zamba2"),
    *("recurrent_gemma", "rwkv", "qwen3_next", "qwen3_5_text", "lfm2"),
}


def examples_of(n: int = 6) -> list[Example]:
    """Prompts of 3 to 24 tokens."""
    words = ["abcdabc"[: 1 + i] * (1 + i % 3) for i in range(n)]
    return [Example(f"t:{i}", prompt=f"{word}=", completion=OPTIONS[i % 3]) for i, word in enumerate(words)]


def questions_of(base: Base, examples: list[Example], settings: ScoringConfig = CHOICE) -> Questions:
    check_scoring(examples, settings)
    encoded = encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)
    return prepare(examples, encoded, base, settings, 64)


def base_of(kind: Kind, folder: Path, **changes: Any) -> Base:
    config = {"model": str(save_kind(kind, folder / "m")), "data": {"train": "none"}, "device": "cpu"}
    base = load_base(RunConfig.model_validate(config | changes))
    return observed(base, questions_of(base, examples_of()).encoded.tokens, writes=False, chooses=True)


def check_alike(base: Base, questions: Questions, tolerance: float = 1e-4) -> None:
    """The prediction and the loss of every item, and how much likelier a choice is than the others."""
    assert questions.choices is not None
    assert questions.owner is not None
    assert questions.shared is not None
    whole = score(replace(base, continuing=None), questions, CHOICE)
    for size in (1, 5, 64):
        settings = CHOICE.model_copy(update={"batch_size": size})
        found = score(base, questions, settings)
        assert found.value == whole.value
        assert found.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=tolerance)
        for one, other in zip(found.items, whole.items, strict=True):
            assert one["prediction"] == other["prediction"]
            assert one["loss"] == pytest.approx(other["loss"], rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("kind", [pytest.param(k, id=k.type) for k in KINDS if k.fast and not k.refused])
def test_every_kind_of_model_chooses_alike(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(k, id=k.type) for k in KINDS if not k.fast and not k.refused])
def test_more_kinds_of_models_choose_alike(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path)


def check(kind: Kind, folder: Path) -> None:
    base = base_of(kind, folder)
    assert (base.continuing is None) == (kind.type in READ_WHOLE)
    questions = questions_of(base, examples_of())
    assert questions.right is not None
    check_alike(base, questions)
    if base.continuing == "padded":
        check_alike(replace(base, continuing="equal"), questions)
        check_alike(replace(base, continuing="single"), questions)


def test_models_in_bfloat16_can_be_continued(tmp_path: Path) -> None:
    kinds = {kind.type: kind for kind in KINDS}
    for name in ("llama", "gemma3_text", "lfm2"):
        base = base_of(kinds[name], tmp_path / name, dtype="bfloat16")
        assert (base.continuing is None) == (name in READ_WHOLE)


def test_a_prompt_is_read_once(base: Base) -> None:
    base = observed(base, [5, 6, 7, 8], writes=False, chooses=True)
    examples = [replace(e, prompt=20 * "abcd"[i] + "=") for i, e in enumerate(examples_of(4))]
    questions = questions_of(base, examples)
    read: list[int] = []
    hook = base.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        once = score(base, questions, CHOICE.model_copy(update={"batch_size": 3}))
        tokens = sum(read)
        read.clear()
        whole = score(replace(base, continuing=None), questions, CHOICE.model_copy(update={"batch_size": 3}))
    finally:
        hook.remove()
    assert once.value == whole.value
    prompts = int(questions.encoded.prompt_lengths.sum())
    assert prompts < tokens <= prompts + 4 * 3 * 5  # of the longest choice, its end included, but the first
    assert sum(read) > 2 * tokens


def test_some_of_the_questions_are_judged_as_among_all(base: Base) -> None:
    base = observed(base, questions_of(base, examples_of()).encoded.tokens, writes=False, chooses=True)
    questions = questions_of(base, examples_of())
    items = score(base, questions, CHOICE).items
    chosen = np.array([4, 0, 3])
    some = score(base, questions.select(chosen), CHOICE).items
    for item, i in zip(some, chosen, strict=True):
        assert (item["index"], item["prediction"]) == (items[i]["index"], items[i]["prediction"])
        assert item["loss"] == pytest.approx(items[i]["loss"], rel=1e-4)


def test_choices_of_chats_follow_turns_that_count(base: Base) -> None:
    base = observed(base, [5, 6, 7, 8], writes=False, chooses=True)
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "cab"))
    examples = [Example(f"t:{i}", messages=(*turns[i:], Message("assistant", "ab"))) for i in (0, 2)]
    questions = questions_of(base, examples)
    assert questions.right is None  # the loss of the first turn is not in what is compared
    check_alike(base, questions)


def test_what_choices_share_is_what_they_begin_with() -> None:
    tokens = np.array([1, 2, 3, 9, 1, 2, 4, 9, 1, 5, 9, 1, 5, 6, 9], dtype=np.int32)
    bounds = np.array([0, 4, 8, 11, 15])
    encoded = Encoded(
        tokens=tokens,
        counted=np.ones(15, dtype=np.bool_),
        starts=bounds[:-1],
        ends=bounds[1:],
        prompt_lengths=np.array([3, 3, 2, 2]),
        counts=np.array([1, 1, 1, 2]),
        positions=np.arange(4),
        goes_on=np.zeros(4, dtype=np.bool_),
    )
    assert shared_lengths(encoded, np.array([0, 0, 1, 1])).tolist() == [2, 2]


def test_examples_with_more_choices_than_a_batch_holds(base: Base) -> None:
    base = observed(base, [5, 6, 7, 8], writes=False, chooses=True)
    options = [f"{a}{b}{c}" for a in "abcd" for b in "abcd" for c in "ab"]
    examples = [
        replace(e, choices=tuple(options), completion=options[i]) for i, e in enumerate(examples_of())
    ]
    check_alike(base, questions_of(base, examples))


def test_a_model_that_reads_long_texts_otherwise_reads_choices_whole(base: Base) -> None:
    base = observed(base, [5, 6, 7, 8], writes=False, chooses=True)
    questions = questions_of(base, examples_of())
    assert questions.choices is not None
    assert questions.shared is not None
    assert can_be_continued(base, questions.choices, questions.shared)
    own = base.model.config.rope_parameters
    try:
        base.model.config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 10}
        assert not can_be_continued(base, questions.choices, questions.shared)
    finally:
        base.model.config.rope_parameters = own


def test_what_is_read_has_the_loss_of_a_pass_of_its_own(tmp_path: Path) -> None:
    """On a model that is sure of the next token, so that most choices are out with their first."""
    model = str(save_tiny_model(tmp_path / "m", initializer_range=0.5))
    base = load_base(RunConfig.model_validate({"model": model, "data": {"train": "none"}, "device": "cpu"}))
    base = observed(base, [5, 6, 7, 8], writes=False, chooses=True)
    options = tuple("abcdefghijklmnop")
    examples = [replace(e, choices=options, completion="c") for e in examples_of()]
    questions = questions_of(base, examples)
    assert questions.choices is not None
    assert questions.owner is not None
    assert questions.shared is not None
    owner, wanted = questions.owner, np.array([4])
    with torch.inference_mode():
        found = continued_losses(base, questions.choices, owner, questions.shared, wanted, 4)
        expected = np.array([summed_loss(base, questions.choices.select([i])) for i in range(len(found))])
    read = np.isfinite(found)
    assert found[read] == pytest.approx(expected[read], rel=1e-4)
    assert read[4]
    assert not read.all()
    for example in range(len(questions)):
        own = owner == example
        assert np.argmin(found[own]) == np.argmin(expected[own])


def summed_loss(base: Base, one: Encoded) -> float:
    """Of the last completion, by a forward pass of its own."""
    ids = torch.from_numpy(one.tokens[one.starts[0] : one.ends[0]].astype(np.int64))
    logs = base.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    return float(-logs[torch.arange(len(ids) - 1), ids[1:]][int(one.prompt_lengths[0]) - 1 :].sum())
