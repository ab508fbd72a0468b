"""Several metrics at once: each needs the model once, and each has an interval that is valid for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import copy_rows

from loracle.config.metrics import METRICS, metric_of
from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError, DataError
from loracle.training.dataset.shapes import Example
from loracle.training.dataset.tokens import encode
from loracle.training.intervals import confidence_interval, count_differing, paired_difference
from loracle.training.model.base_model import Base
from loracle.training.scoring import check_scoring, prepare, score

OFFLINE = [name for name, metric in METRICS.items() if metric.needs in ("loss", "writing", "choices")]


def examples_of(rows: list[dict[str, Any]]) -> list[Example]:
    return [Example(f"t:{i}", **row) for i, row in enumerate(rows)]


def scored(base: Base, rows: list[dict[str, Any]], settings: ScoringConfig) -> Any:
    examples = examples_of(rows)
    check_scoring(examples, settings)
    encoded = encode(examples, base.tokenizer, 64, stop_ids=base.stop_ids)
    return score(base, prepare(examples, encoded, base, settings, 64), settings)


def test_all_that_are_named_are_recorded_and_one_is_the_value(base: Base) -> None:
    rows = copy_rows(12)
    names = ["token_f1", "rouge_l", "bleu", "chrf", "perplexity", "bits_per_byte", "loss", "exact_match"]
    alone = {name: scored(base, rows, ScoringConfig(metric=name, max_new_tokens=8)).value for name in names}
    settings = ScoringConfig(metric="chrf", metrics=names, max_new_tokens=8, batch_size=5)
    found = scored(base, rows, settings)
    assert found.value == pytest.approx(alone["chrf"])
    assert set(found.metrics) == set(names)
    for name in names:
        assert metric_of(name).read(alone[name]) == pytest.approx(found.metrics[name], rel=1e-5), name
    n_bytes = sum(len(row["completion"]) for row in rows)
    total = sum(item["loss"] * item["tokens"] for item in found.items)
    assert found.metrics["bits_per_byte"] == pytest.approx(total / np.log(2) / n_bytes)
    assert found.metrics["perplexity"] == pytest.approx(np.exp(found.metrics["loss"]))
    json.dumps(found.items)


def test_writing_and_choosing_go_together(base: Base) -> None:
    rows = [{"prompt": f"copy:{word}=", "completion": word} for word in ("ab", "cd", "ab", "cd")]
    settings = ScoringConfig(
        metric="choice_macro_f1",
        metrics=["macro_f1", "choice_accuracy"],
        choices=["ab", "cd"],
        max_new_tokens=6,
    )
    found = scored(base, rows, settings)
    assert {item["choice"] for item in found.items} <= {"ab", "cd"}
    assert all(isinstance(item["prediction"], str) for item in found.items)
    alone = scored(base, rows, settings.model_copy(update={"metrics": []}))
    assert alone.value == found.value
    assert [item["prediction"] for item in alone.items] == [item["choice"] for item in found.items]
    assert found.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-4)


def test_answers_that_go_on_writing_and_differ_in_form_are_right(base: Base) -> None:
    """What the model writes is looked at as the settings say, and both sides alike."""
    settings = ScoringConfig(
        metric="exact_match",
        answer_pattern="[=:] ?([A-Za-z, ]+)",
        answer_at="first",
        normalise=["case", "punctuation"],
    )
    from loracle.training.scoring import comparable

    find = comparable(metric_of("exact_match"), settings)
    assert find("so = AB, c\n\nText: other") == find("= ab c") == "ab c"
    assert find("nothing") is None


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ([{"text": "abc"}], {"metric": "token_f1"}, "scoring.metric: token_f1 needs rows with an answer"),
        (copy_rows(12), {"metric": "macro_f1"}, "macro_f1 is of labels, and 12 of 12 answers differ; name"),
        (
            [{"prompt": "p", "completion": "b"}],
            {"metric": "label_accuracy", "labels": ["a", "c"]},
            r"t:0: the answer 'b' is none of scoring.labels \['a', 'c'\]",
        ),
        (
            copy_rows(3),
            {"metric": "json_fields"},
            "t:0: scoring.metric: json_fields compares with ref.* is no JSON",
        ),
        (copy_rows(3), {"metric": "choice_macro_f1"}, "choice_macro_f1 needs two or more different choices"),
        (
            copy_rows(3),
            {"metric": "loss", "metrics": ["choice_accuracy"]},
            "needs two or more different choices",
        ),
    ],
)
def test_what_does_not_fit_the_rows_is_refused(rows: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        check_scoring(examples_of(rows), ScoringConfig(**settings))


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(METRICS["bleu"]), "package", ("not_there_at_all", "bleu"))
    with pytest.raises(ConfigError, match=r"bleu needs the package not_there_at_all, .* 'loracle\[bleu\]'"):
        check_scoring(examples_of(copy_rows(3)), ScoringConfig(metric="bleu"))


# -- intervals --------------------------------------------------------------------------------------


def made_items(name: str, n: int, right: float, seed: int) -> list[dict[str, Any]]:
    """What a model gets that writes the reference with this probability, and rubbish else."""
    chooser = random.Random(seed)
    references = [chooser.choice(["yes it is so", "no never at all", "perhaps it may"]) for _ in range(n)]
    answers = [
        text if chooser.random() < right else chooser.choice(["it", "no it is"]) for text in references
    ]
    ratings = METRICS[name].rate(answers, references, sorted(set(references)))
    return [{"index": i, "scores": {name: rating}} for i, rating in enumerate(ratings)]


@pytest.mark.parametrize("name", ["bleu", "chrf", "macro_f1", "token_f1", "label_accuracy"])
def test_intervals_of_any_metric_cover_the_truth(name: str) -> None:
    truth = METRICS[name].score(made_items(name, 4000, 0.6, 0))
    assert truth is not None
    covered = 0
    for seed in range(1, 21):
        ends = confidence_interval(made_items(name, 60, 0.6, seed), name)
        assert ends is not None
        covered += ends[0] < truth < ends[1]
    assert covered >= 16


@pytest.mark.parametrize("name", ["bleu", "macro_f1"])
def test_paired_differences_draw_both_sides_alike(name: str) -> None:
    a, b = made_items(name, 80, 0.7, 1), made_items(name, 80, 0.7, 1)
    for item, other in zip(b[:6], made_items(name, 80, 0.0, 1)[:6], strict=True):
        item["scores"] = other["scores"]
    found = paired_difference(a, b[::-1], name)
    assert found is not None
    difference, low, high = found
    score_a, score_b = METRICS[name].score(a), METRICS[name].score(b)
    assert score_a is not None
    assert score_b is not None
    assert difference == pytest.approx(score_a - score_b)
    assert low <= difference <= high
    ends = confidence_interval(a, name)
    assert ends is not None
    assert high - low < ends[1] - ends[0]
    assert 0 < count_differing(a, b, name) <= 6
    assert paired_difference(a, a, name) == (0, 0, 0)


# -- a run ------------------------------------------------------------------------------------------


def test_a_run_records_all_and_its_report_reads_right(
    run_config: Callable[..., Path], said: Callable[..., str], tmp_path: Path
) -> None:
    config = run_config(
        scoring={"metric": "chrf", "metrics": ["token_f1", "perplexity"], "max_new_tokens": 6},
        search={"trials": 3, "seed": 3},
    )
    found = json.loads(said("tune", config, "--json"))
    metrics = found["winner"]["metrics"]
    assert {"chrf", "token_f1", "perplexity", "test_loss", "low", "high"} <= set(metrics)
    assert metrics["perplexity_low"] < metrics["perplexity"] < metrics["perplexity_high"]
    assert metrics["low"] <= metrics["chrf"] <= metrics["high"]
    assert found["metric"] == "chrf"
    assert found["winner"]["score"] == metrics["chrf"] == found["winner"]["test_value"]
    report = (tmp_path / "run" / "report.md").read_text()
    for row in ("| test chrF |", "| test token f1 |", "| test perplexity |", "| test loss |"):
        assert row in report
    (line,) = [line for line in report.splitlines() if line.startswith("| test perplexity")]
    assert f"{metrics['perplexity']:.4f} (" in line
    item = json.loads((tmp_path / "run/final/winner/items.jsonl").read_text().splitlines()[0])
    assert set(item) == {"index", "loss", "tokens", "prediction", "scores"}
    assert len(item["scores"]["chrf"]) == 18


# -- weighted sums ----------------------------------------------------------------------------------


def test_a_weighted_sum_is_optimised_and_its_parts_are_recorded(base: Base) -> None:
    rows = copy_rows(12)
    settings = ScoringConfig.model_validate(
        {"metric": {"token_f1": 0.7, "perplexity": 0.001, "chrf": 0.01}, "max_new_tokens": 8}
    )
    assert ScoringConfig.model_validate(settings.model_dump(mode="json")) == settings
    found = scored(base, rows, settings)
    parts = found.metrics
    truth = 0.7 * parts["token_f1"] - 0.001 * parts["perplexity"] + 0.01 * parts["chrf"]
    assert found.value == found.metrics[settings.metric] == pytest.approx(truth)
    items = found.items_of(settings.metric)
    assert metric_of(settings.metric).score(items) == pytest.approx(found.value)
    ends = confidence_interval(items, settings.metric)
    assert ends is not None
    assert ends[0] <= found.value <= ends[1]
    assert paired_difference(items, items, settings.metric) == (0, 0, 0)
    assert metric_of(settings.metric).title == "0.7 token f1 - 0.001 perplexity + 0.01 chrF"


def test_a_weighted_sum_is_recorded_beside_another_metric(base: Base) -> None:
    name = "0.5*exact_match + 2.0*token_f1"
    settings = ScoringConfig(metric="exact_match", metrics=[name], max_new_tokens=8)
    found = scored(base, copy_rows(12), settings)
    assert found.metric == "exact_match"
    parts = found.metrics
    assert parts[name] == pytest.approx(0.5 * parts["exact_match"] + 2 * parts["token_f1"])
    assert metric_of(name).score(found.items_of(name)) == pytest.approx(parts[name])


def test_a_metric_that_is_named_twice_in_a_sum_has_both_weights(base: Base) -> None:
    name = "0.5*perplexity + 1.0*chrf + 0.25*perplexity"
    found = scored(base, copy_rows(12), ScoringConfig(metric=name, max_new_tokens=8))
    parts = found.metrics
    assert found.value == pytest.approx(parts["chrf"] - 0.75 * parts["perplexity"])
    assert metric_of(name).title == "- 0.75 perplexity + 1 chrF"


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ([], "a list of objectives names at least one"),
        (["loss", "bleu", "loss"], "the objective loss is named twice"),
        ({"loss": -1}, "the weight of loss is a number above 0; got -1"),
        ({"loss": True}, "the weight of loss is a number above 0; got True"),
        ({"lose": 1}, "there is no such metric; did you mean 'loss'"),
        ({}, "input should be the name of a metric"),
        ("0*loss + 1*bleu", "input should be one of"),
        ("1*value", "there is no such metric|input should be one of"),
        ({"1*loss": 1}, "there is no such metric|input should be one of"),
    ],
)
def test_what_is_no_sum_is_refused(metric: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScoringConfig.model_validate({"metric": metric})
