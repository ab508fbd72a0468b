"""Answers of chats whose template writes something around them: empty thoughts, a mark, a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_rows, save_tiny_model

from loracle.config.metrics.guard import GuardConfig
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import RunConfig, TrainingConfig
from loracle.errors import ConfigError, DataError
from loracle.records.contents import ANSWERS
from loracle.training.contents import contents_of
from loracle.training.dataset.shapes import Example, Message
from loracle.training.dataset.splits import Splits
from loracle.training.dataset.template import BARE
from loracle.training.dataset.tokens import Encoded, encode
from loracle.training.guard import Guard
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base, load_base
from loracle.training.scoring import Questions, check_scoring, prepare, score

# A turn is `=()12#<assistant>` and a line break, and the tokenizer's end of sequence is `<eos>`.
FRAMED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "=({{ m.thinking or '' }}){{ m.content }}#<assistant>\n"
    "{% else %}<user>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}={% endif %}"
)
LABELS = sorted({row["completion"] for row in copy_rows(14, 3, "12")})


def chats(rows: list[dict[str, str]], **more: Any) -> list[Example]:
    return [
        Example(
            f"t:{i}",
            messages=(Message("user", row["prompt"]), Message("assistant", row["completion"], more)),
        )
        for i, row in enumerate(rows)
    ]


def encoded_of(base: Base, examples: list[Example]) -> Encoded:
    return encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)


def questions_of(base: Base, examples: list[Example], settings: ScoringConfig) -> Questions:
    check_scoring(examples, settings)
    return prepare(examples, encoded_of(base, examples), base, settings, 64)


@pytest.fixture(scope="module")
def skilled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """A base that has learnt such chats, some right, some wrong."""
    folder = save_tiny_model(tmp_path_factory.mktemp("framed") / "m")
    (folder / "chat_template.jinja").write_text(FRAMED)
    base = load_base(
        RunConfig.model_validate({"model": str(folder), "data": {"train": "none"}, "device": "cpu"})
    )
    encoded = encoded_of(base, chats(copy_rows(14, 3, "12")))
    config = {"rank": 32, "alpha": 64, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}
    with train_adapter(base, encoded, config, TrainingConfig(epochs=15, micro_batch=8), seed=0):
        yield base


def test_every_metric_gets_the_answer_alone(skilled: Base, tmp_path: Path) -> None:
    """JSON, labels, words and patterns are right where the whole answer is; a function gets what it was
    tried with, and nothing that is written is lost."""
    (tmp_path / "mine.py").write_text(
        "def seen(predictions, references, items):\n"
        "    assert references == [item['reference'] for item in items]\n"
        "    return [float(p == r) for p, r in zip(predictions, references)]\n"
    )
    settings = ScoringConfig(
        metric="exact_match",
        metrics=["json_valid", "json_fields", "label_accuracy", "rouge_l", "mine.py:seen"],
        labels=LABELS,
        working_folder=tmp_path,
        max_new_tokens=12,
    )
    rows = copy_rows(14, 3, "12")
    questions = questions_of(skilled, chats(rows), settings)
    assert list(questions.references) == [row["completion"] for row in rows]
    found = score(skilled, questions, settings)
    share = found.metrics["exact_match"]
    assert 0.3 < share < 1
    assert found.metrics["json_valid"] == 1
    for name in ("json_fields", "label_accuracy", "rouge_l", "mine.py:seen"):
        assert found.metrics[name] == pytest.approx(share)
    assert all(set(item["prediction"]) <= set("12") for item in found.items)
    alone = ScoringConfig(metric="exact_match", max_new_tokens=12)  # ends what can no longer be right
    assert score(skilled, questions_of(skilled, chats(rows), alone), alone).value == share
    pattern = ScoringConfig(metric="exact_match", answer_pattern=r"([12]+)$", max_new_tokens=12)
    assert score(skilled, questions_of(skilled, chats(rows), pattern), pattern).value == share


def test_generation_ends_where_the_turn_does(skilled: Base) -> None:
    """As many tokens as the longest turn has, with its end, are enough; and one less is refused."""
    rows = copy_rows(14, 3, "12")
    longest = len("()") + max(len(row["completion"]) for row in rows) + len("#") + 1
    settings = ScoringConfig(metric="exact_match", max_new_tokens=longest)
    questions = questions_of(skilled, chats(rows), settings)
    turn = skilled.tokenizer.convert_tokens_to_ids("<assistant>")
    assert (questions.frame.opening, questions.frame.ending, questions.frame.stop) == ("()", "#", turn)
    assert not questions.encoded.goes_on.any()
    assert score(skilled, questions, settings).value > 0.3
    with pytest.raises(ConfigError, match=rf"could never be matched; raise it to {longest} or more"):
        questions_of(skilled, chats(rows), settings.model_copy(update={"max_new_tokens": longest - 1}))


def test_rows_end_with_a_token_that_every_server_stops_at(skilled: Base) -> None:
    encoded = encoded_of(skilled, chats([{"prompt": "a", "completion": "12"}]))
    decoded = skilled.tokenizer.decode
    assert decoded(encoded.tokens) == "<user>a=()12#<assistant>\n<eos>"
    assert decoded(encoded.tokens[encoded.counted]) == "()12#<assistant>\n<eos>"


def test_thoughts_are_a_part_of_the_answer_and_labels_behind_them_need_a_pattern(skilled: Base) -> None:
    """Only what the template itself writes goes; what can then never be right is refused."""
    rows = chats([{"prompt": "a", "completion": "12"}, {"prompt": "b", "completion": "21"}], thinking="so")
    plain = ScoringConfig(metric="exact_match", max_new_tokens=16)
    assert questions_of(skilled, rows, plain).references == ("(so)12", "(so)21")
    labelled = ScoringConfig(metric="label_accuracy", labels=["12", "21"], max_new_tokens=16)
    with pytest.raises(DataError, match=r"t:0: .*label_accuracy .* none of scoring.labels: '\(so\)12'"):
        questions_of(skilled, rows, labelled)
    found = questions_of(skilled, rows, labelled.model_copy(update={"answer_pattern": r"\)(\d+)"}))
    assert found.labels == ("12", "21")


def test_rows_that_are_no_chats_keep_their_marks(skilled: Base) -> None:
    settings = ScoringConfig(metric="exact_match", max_new_tokens=16)
    texts = ("()1#", "2#<user>")
    rows = [Example(f"t:{i}", prompt="a=", completion=text) for i, text in enumerate(texts)]
    questions = questions_of(skilled, rows, settings)
    assert questions.references == texts
    assert questions.frame == BARE


def test_a_run_records_what_an_answer_is_where_earlier_versions_took_more(skilled: Base, base: Base) -> None:
    """So that it does not go on with scores of other texts. Where nothing changed, nothing is recorded."""
    rows, settings = tuple(chats(copy_rows(4, 2, "12"))), ScoringConfig(metric="exact_match")
    splits = Splits(rows, rows, rows, "0" * 64)

    def recorded(model: Base, asked: ScoringConfig) -> bool:
        return ANSWERS in contents_of(splits, model, asked).hashes()

    assert recorded(skilled, settings)
    assert not recorded(base, settings)
    assert not recorded(skilled, ScoringConfig(metric="loss"))


def test_a_guard_of_an_earlier_version_is_measured_again(skilled: Base, tmp_path: Path) -> None:
    settings = GuardConfig(data="rows.jsonl", metric="exact_match", max_new_tokens=12)
    questions = questions_of(skilled, chats(copy_rows(4, 2, "12")), settings)
    guard = Guard("g", settings, {"test": questions}, "0" * 32, 0, tmp_path)
    fresh = guard.base_items("test", "m", lambda *_: [{"index": 0, "correct": True}])
    assert guard.base_items("test", "m", lambda *_: []) == fresh
    known = json.loads((tmp_path / "g-test.json").read_text())
    bare = Guard("g", settings, {"test": replace(questions, frame=BARE)}, "0" * 32, 0, tmp_path)
    assert bare.base_items("test", "m", lambda *_: []) == []
    assert json.loads((tmp_path / "g-test.json").read_text())["made_of"] != known["made_of"]
