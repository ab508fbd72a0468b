"""The tokens of a trial, what a search costs: counted by hand, and the same however it is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_rows

from loracle.config.settings import RunConfig
from loracle.records.trial import Outcome, Tokens
from loracle.records.trial_files import read_items
from loracle.report.findings.search_cost import search_cost
from loracle.training.objective import TrainingObjective

Write = Callable[[str, list[dict[str, Any]]], Path]
Make = Callable[..., TrainingObjective]
CONFIG = {"rank": 4, "alpha_ratio": 2, "dropout": 0.1, "batch_size": 8, "learning_rate": 5e-3}
ROWS = copy_rows(80, 5)
TRAIN, VALIDATION, TEST = ROWS[:60], ROWS[60:], copy_rows(20, 3, letters="efg")
SIZES = {"proxy", "validation_limit", "trial_cost"}
EXACT = {"metric": "exact_match", "max_new_tokens": 6}


def tokens(row: dict[str, Any]) -> int:
    """The tiny tokenizer has a token a character, and a completion ends with a stop token."""
    return len(row["prompt"]) + len(row["completion"]) + 1


@pytest.fixture
def make(tiny_model: Path, write_rows: Write) -> Make:
    def build(**changes: Any) -> TrainingObjective:
        own = {name: changes.pop(name) for name in SIZES & changes.keys()}
        data = {
            "train": write_rows("train.jsonl", TRAIN),
            "validation": write_rows("validation.jsonl", VALIDATION),
            "test": write_rows("test.jsonl", TEST),
            "proxy": 0.5,
            "proxy_minimum": 1,
            **own,
        }
        settings = {"training": {"epochs": 2.0}, "device": "cpu"} | changes
        return TrainingObjective.from_config(
            RunConfig.model_validate({"model": str(tiny_model), "data": data} | settings)
        )

    return build


def trial(objective: TrainingObjective, folder: Path, **changes: Any) -> tuple[Outcome, Tokens]:
    outcome = objective.run(CONFIG | changes, seed=0, folder=folder)
    found = Tokens.of(outcome)
    assert found is not None
    return outcome, found


def test_what_is_trained_on_and_read_is_every_token_of_the_rows(make: Make, tmp_path: Path) -> None:
    objective = make()
    outcome, took = trial(objective, tmp_path / "half")
    whole = 2 * sum(map(tokens, TRAIN))  # two epochs
    assert took.full == whole
    assert 0.4 * whole < took.trained < 0.6 * whole
    readings = 1 + len(outcome.curve.validation_steps if outcome.curve else ())
    assert took.read == readings * sum(map(tokens, VALIDATION))
    assert took.generated == 0
    everything = objective.run(CONFIG, seed=0, folder=tmp_path / "whole", fraction=1.0)
    assert everything.metrics["tokens"] == whole


def test_what_is_written_counts_with_the_prompts_it_is_written_behind(make: Make, tmp_path: Path) -> None:
    _, took = trial(make(scoring=EXACT), tmp_path)
    asked = [
        (row, item["prediction"])
        for row, item in zip(VALIDATION, read_items(tmp_path), strict=True)
        if not item["correct"]  # the others' references are the likeliest token by token
    ]
    assert asked
    assert took.generated == sum(len(row["prompt"]) + len(written) for row, written in asked)


def test_a_full_training_is_scored_on_every_row(make: Make, tmp_path: Path) -> None:
    _, took = trial(make(scoring=EXACT, validation_limit=5), tmp_path)
    assert took.full_scoring == pytest.approx(4 * (took.read + took.generated), rel=0.4)  # 5 of 20 rows
    _, all_of_them = trial(make(scoring=EXACT), tmp_path)
    assert all_of_them.full_scoring == all_of_them.read + all_of_them.generated


@pytest.mark.parametrize(
    "scoring",
    [{}, EXACT, {"metric": "choice_accuracy", "choices": sorted(r["completion"] for r in [*ROWS, *TEST])}],
)
def test_a_trial_costs_what_it_may(make: Make, tmp_path: Path, scoring: dict[str, Any]) -> None:
    objective = make(
        scoring=scoring, training={"epochs": 20.0}, proxy=1.0, validation_limit=None, trial_cost=0.5
    )
    outcome, took = trial(objective, tmp_path)
    cost = search_cost([outcome])
    assert cost is not None
    assert 0.35 < cost.trainings < 0.6
    assert objective.sizes.expected == pytest.approx(cost.trainings, rel=0.2)  # from the lengths of rows
    assert outcome.metrics["n_examples"] == objective.n_proxy < len(TRAIN)
    told = next(notice for notice in objective.notices if notice.name == "trial_limited")
    assert f"a trial trains on {objective.n_proxy} of 60 rows" in told.text
    assert f"which cost about {objective.sizes.expected:.3g} full trainings (data.trial_cost" in told.text
    assert took.full == 20 * sum(map(tokens, TRAIN))


def test_guards_and_early_stopping_are_in_what_is_expected(
    make: Make, write_rows: Write, tmp_path: Path
) -> None:
    guarded = {"guard": {"held": {"data": write_rows("held.jsonl", copy_rows(60, 4, letters="hij"))}}}
    for name, changes in (
        ("guard", guarded),
        ("stopping", {"training": {"epochs": 2.0, "early_stopping": {"patience": 10, "evaluations": 4}}}),
        ("few scored", {"training": {"epochs": 2.0, "early_stopping": 10}, "validation_limit": 5}),
        ("steps", {"training": {"epochs": None, "max_steps": 12}}),
    ):
        objective = make(**changes)
        outcome, _ = trial(objective, tmp_path / name, batch_size=16)  # as the standard settings
        cost = search_cost([outcome])
        assert cost is not None
        assert objective.sizes.expected == pytest.approx(cost.trainings, rel=0.25), name


def test_trials_are_no_larger_for_it(make: Make) -> None:
    objective = make(trial_cost=1.0)
    assert (objective.n_proxy, objective.sizes.scored) == (30, 20)
    assert not any(notice.name == "trial_limited" for notice in objective.notices)


def test_choices_share_the_prompt_that_is_read_once(make: Make, tmp_path: Path) -> None:
    options = sorted(row["completion"] for row in [*ROWS, *TEST])
    _, took = trial(make(scoring={"metric": "choice_accuracy", "choices": options}), tmp_path)
    endings = sum(len(option) + 1 for option in options)
    assert took.read == sum(len(row["prompt"]) + endings for row in VALIDATION)


def test_batches_change_no_count(make: Make, tmp_path: Path) -> None:
    counts = []
    for i, size in enumerate((1, 32)):
        changes = {"training": {"epochs": 2.0, "micro_batch": size}, "scoring": EXACT | {"batch_size": size}}
        counts.append(trial(make(**changes), tmp_path / str(i))[1])
    assert counts[0] == counts[1]


def test_a_training_that_diverged_took_what_it_had_trained_on(make: Make, tmp_path: Path) -> None:
    outcome, took = trial(make(), tmp_path, learning_rate=1e30, batch_size=4)
    assert outcome.failure is not None
    assert 0 < took.trained < sum(map(tokens, TRAIN))
    assert took.full == 2 * sum(map(tokens, TRAIN))
