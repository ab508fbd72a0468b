"""Tasks of lm-evaluation-harness: the same score as the harness called by hand, and nothing else changes."""

from __future__ import annotations

import ast
import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import copy_rows

from loracle.config.metrics import metric_of
from loracle.config.metrics.settings import ScoringConfig
from loracle.config.settings import TrainingConfig
from loracle.errors import ConfigError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import encode
from loracle.training.intervals import confidence_interval, paired_difference
from loracle.training.judging.harness import check_tasks, documents_of, run_tasks
from loracle.training.loop import train_adapter
from loracle.training.model.base_model import Base
from loracle.training.scoring import prepare, score

pytest.importorskip("lm_eval")

CHOICES = """
task: which_word
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "copy:{{word}}="
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITING = """
task: write_word
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "copy:{{word}}="
doc_to_target: "{{word}}"
generation_kwargs: {until: ["="], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write_tasks(folder: Path) -> Path:
    """A folder of two tasks with their documents beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    chooser = random.Random(5)
    words = [row["completion"] for row in copy_rows(40, 3, seed=7)]
    rows = []
    for word in words:
        options = [word, chooser.choice(words), word[::-1] + "d"]
        chooser.shuffle(options)
        rows.append({"word": word, "options": options, "label": options.index(word)})
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("which.yaml", CHOICES), ("write.yaml", WRITING)):
        (folder / name).write_text(text.replace("DATA", str(data)))
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_DATASETS_OFFLINE", "1")
    yield write_tasks(tmp_path_factory.mktemp("tasks"))
    patch.undo()


def settings_of(tasks: Path, metric: str = "lm_eval:which_word:acc", *beside: str) -> ScoringConfig:
    return ScoringConfig.model_validate(
        {"metric": metric, "metrics": list(beside), "batch_size": 8, "lm_eval": {"folder": tasks}}
    )


def by_hand(base: Base, tasks: Path, name: str, places: list[int]) -> dict[str, Any]:
    """What the harness itself gives for these documents."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    base.model.eval()
    manager = TaskManager(include_defaults=False, include_path=str(tasks))
    model = HFLM(pretrained=base.model, tokenizer=copy.deepcopy(base.tokenizer), batch_size=8)
    found = evaluate(model, manager.load([name]), samples={name: places}, bootstrap_iters=0)
    return dict(found["results"][name])


def test_base_and_tuned_model_score_as_by_hand_and_random_states_stay(base: Base, tasks: Path) -> None:
    settings = settings_of(
        tasks, "lm_eval:which_word:acc", "lm_eval:which_word:acc_norm", "lm_eval:write_word"
    )
    check_tasks(settings)
    examples = [Example(f"t:{i}", **row) for i, row in enumerate(copy_rows(40, 3, seed=7))]
    encoded = encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)
    questions = prepare(examples, encoded, base, settings, 64)
    from loracle.training.judging import harness

    places = {
        split: documents_of(harness.loaded_task("which_word", settings.lm_eval), settings.lm_eval, split)
        for split in ("validation", "test")
    }
    assert sorted(places["validation"] + places["test"]) == list(range(40))

    def compare(split: str) -> dict[str, float]:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        found = score(base, questions, settings, split)
        assert before == (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
        )
        truth = by_hand(base, tasks, "which_word", places[split])
        written = by_hand(base, tasks, "write_word", places[split])
        assert found.metrics["lm_eval:which_word:acc"] == found.value == truth["acc,none"]
        assert found.metrics["lm_eval:which_word:acc_norm"] == truth["acc_norm,none"]
        assert found.metrics["lm_eval:write_word"] == written["exact_match,none"]
        items = found.items_of("lm_eval:which_word:acc")
        assert [item["index"] for item in items] == places[split]
        assert np.mean([item["correct"] for item in items]) == found.value
        ends = confidence_interval(items, settings.metric)
        assert ends is not None
        assert ends[0] <= found.value <= ends[1]
        assert paired_difference(items, items, settings.metric) == (0, 0, 0)
        return dict(found.metrics)

    untrained = compare("test")
    config = {"rank": 16, "alpha": 32, "dropout": 0.1, "batch_size": 8, "learning_rate": 1e-2}
    with train_adapter(base, encoded, config, TrainingConfig(epochs=8, micro_batch=8), seed=0):
        base.model.train()  # as in the midst of a training: dropout is on
        modes = [module.training for module in base.model.modules()]
        ran = run_tasks(base, settings, "test")  # its dropout outside of a training would raise
        assert [module.training for module in base.model.modules()] == modes
        base.model.eval()
        tuned = compare("test")
        compare("validation")
        for documents in ran.values():
            assert documents.scores.items() <= tuned.items()
    assert tuned != untrained
    assert compare("test") == untrained  # the adapter is off again


def test_answers_end_where_the_chat_template_ends_a_turn(base: Base, tasks: Path) -> None:
    """Here at a letter, which is made a token of its own."""
    lm_eval = {"folder": tasks, "chat_template": True}
    settings = ScoringConfig.model_validate({"metric": "lm_eval:write_word", "lm_eval": lm_eval})
    mine = replace(base, tokenizer=copy.deepcopy(base.tokenizer))
    turns = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}END{% endif %}{% endfor %}"

    def written(end: str) -> list[str]:
        mine.tokenizer.chat_template = turns.replace("END", end)
        (documents,) = run_tasks(mine, settings, "test").values()
        return [ast.literal_eval(item["prediction"])[0] for item in documents.items]

    whole, before = written(""), base.model.generation_config.eos_token_id
    letter = Counter("".join(text[1:] for text in whole)).most_common(1)[0][0]
    mine.tokenizer.add_special_tokens({"additional_special_tokens": [letter]})
    ended = written(letter)
    assert ended == [text.partition(letter)[0] for text in whole] != whole
    assert base.model.generation_config.eos_token_id == before


def test_a_run_scores_final_trainings_on_other_documents_than_trials(
    run_config: Callable[..., Path], said: Callable[..., str], tasks: Path, tmp_path: Path
) -> None:
    config = run_config(
        scoring={
            "metric": "lm_eval:which_word",
            "metrics": ["perplexity"],
            "lm_eval": {"folder": str(tasks), "limit": 15},
        },
        search={"trials": 2, "seed": 3},
    )
    found = json.loads(said("tune", config, "--json"))
    winner = found["winner"]
    assert winner["metrics"]["low"] <= winner["score"] <= winner["metrics"]["high"]
    assert found["difference"]["items"] in (0, 15)
    file = "items-which_word.jsonl"
    rows = [(tmp_path / "run" / place / file).read_text() for place in ("trials/0000", "final/winner")]
    seen, last = ({json.loads(line)["index"] for line in text.splitlines()} for text in rows)
    assert len(seen) == len(last) == 15
    assert not seen & last
    assert "test which_word of" in (tmp_path / "run" / "report.md").read_text()
    assert said("tune", config, "--json")  # a finished run is found again


@pytest.mark.parametrize(
    ("metric", "changes", "reason"),
    [
        ("lm_eval:which_wrod", {}, "there is no task 'which_wrod' in .*did you mean 'which_word'"),
        ("lm_eval:which_word:f1", {}, "the task which_word has no metric 'f1'; it has acc, acc_norm"),
        (
            "minimize lm_eval:which_word",
            {},
            "acc of the task which_word is better when it is more; write 'lm_ev",
        ),
        ("lm_eval:which_word", {"limit": 1}, "has 40 documents, 1 of them for validation; 2 are the least"),
        ("lm_eval:no_such_task_at_all", {"folder": None}, "lm-evaluation-harness has no task 'no_such_task"),
    ],
)
def test_wrong_tasks_are_refused(metric: str, changes: dict[str, Any], reason: str, tasks: Path) -> None:
    settings = ScoringConfig.model_validate({"metric": metric, "lm_eval": {"folder": tasks, **changes}})
    with pytest.raises(ConfigError, match=reason):
        check_tasks(settings)


def test_titles_of_tasks() -> None:
    assert metric_of("lm_eval:which_word").title == "which_word"
    assert metric_of("lm_eval:which_word:acc_norm").title == "which_word acc_norm"
    assert metric_of("minimize lm_eval:wiki:word_perplexity").less_is_better
