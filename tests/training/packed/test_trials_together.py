"""Trials that train together are trials as any other: files, scores, failures, memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import copy_rows

from loracle.config.settings import RunConfig
from loracle.records.objective import Asked
from loracle.records.trial import FailureKind, Outcome
from loracle.records.trial_files import read_items, write_outcome
from loracle.training.memory.plan import MemoryModel
from loracle.training.objective import TrainingObjective
from loracle.training.packed import trials

Write = Callable[[str, list[dict[str, Any]]], Path]
Make = Callable[..., TrainingObjective]
CONFIGS: list[dict[str, Any]] = [
    {"rank": 8, "alpha_ratio": 2, "alpha": 16, "dropout": 0.1, "batch_size": 4, "learning_rate": 5e-3},
    {"rank": 2, "alpha_ratio": 1, "alpha": 2, "dropout": 0.0, "batch_size": 8, "learning_rate": 2e-3},
    {"rank": 4, "alpha_ratio": 4, "alpha": 16, "dropout": 0.2, "batch_size": 4, "learning_rate": 1e-3},
]
EXPLODING = {**CONFIGS[1], "learning_rate": 1e30}
# What is said of time, memory, and of training together.
_OTHERWISE = {"together", "micro_batch", "memory_growth_bytes", "predicted_growth_bytes", "peak_memory_bytes"}


@pytest.fixture
def make(tiny_model: Path, write_rows: Write, tmp_path: Path) -> Make:
    def build(**changes: Any) -> TrainingObjective:
        data = {"train": write_rows("t.jsonl", copy_rows(100, 5)), "proxy_minimum": 20, "max_length": 64}
        content = {"model": str(tiny_model), "data": data | changes.pop("data", {}), "device": "cpu"}
        scoring = {"metric": "exact_match", "max_new_tokens": 6}
        return TrainingObjective.from_config(
            RunConfig.model_validate(
                {**content, "scoring": scoring, "output": tmp_path / "run", "threads": 1} | changes
            )
        )

    return build


def together(
    objective: TrainingObjective, folder: Path, configs: list[dict[str, Any]] = CONFIGS, wanted: Any = None
) -> list[Outcome]:
    places = range(len(configs)) if wanted is None else wanted
    asked = [Asked(configs[i], 3, folder / f"{i}") for i in places]
    return objective.run_together(asked, configs)


def alone(objective: TrainingObjective, folder: Path, config: dict[str, Any]) -> Outcome:
    return objective.run(config, seed=3, folder=folder)


def said(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
    return content


def test_each_gives_what_it_gives_alone(make: Make, tmp_path: Path) -> None:
    objective = make()
    told: dict[int, list[Any]] = {}
    asked = [
        Asked(config, 3, tmp_path / f"{i}", lambda *step, i=i: told.setdefault(i, []).append(step))
        for i, config in enumerate(CONFIGS)
    ]
    outcomes = objective.run_together(asked, CONFIGS)
    for i, (config, outcome) in enumerate(zip(CONFIGS, outcomes, strict=True)):
        own = alone(objective, tmp_path / f"alone-{i}", config)
        assert own.curve is not None
        assert outcome.curve is not None
        assert outcome.value == own.value
        assert outcome.metrics["together"] == 3
        assert outcome.metrics.keys() - _OTHERWISE == own.metrics.keys() - _OTHERWISE
        for name in own.metrics.keys() - _OTHERWISE - {"read_tokens", "full_scoring_tokens"}:
            assert outcome.metrics[name] == pytest.approx(own.metrics[name], rel=1e-4), name
        assert outcome.curve.losses == pytest.approx(own.curve.losses, rel=1e-5)
        assert outcome.curve.tokens == own.curve.tokens
        assert sum(outcome.seconds_by_part.values()) == pytest.approx(outcome.seconds)
        assert [step[0] for step in told[i] if len(step) == 3] == list(outcome.curve.steps)
        files = {path.name for path in (tmp_path / f"{i}").iterdir()}
        assert files == {path.name for path in (tmp_path / f"alone-{i}").iterdir()}
        items, expected = read_items(tmp_path / f"{i}"), read_items(tmp_path / f"alone-{i}")
        for item, other in zip(items, expected, strict=True):
            assert item.pop("loss") == pytest.approx(other.pop("loss"), rel=1e-5)
            assert item == other
        assert said(tmp_path / f"{i}")["together"] == 3
        assert said(tmp_path / f"{i}")["config"] == config


def test_what_is_not_asked_for_takes_its_part_and_leaves_nothing(make: Make, tmp_path: Path) -> None:
    objective = make()
    all_of_them = together(objective, tmp_path / "all")
    some = together(objective, tmp_path / "some", wanted=[2, 1])
    for mine, whole in zip(some, (all_of_them[2], all_of_them[1]), strict=True):
        assert mine.curve == whole.curve  # to the bit
        assert mine.value == whole.value
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["1", "2"]


def test_one_that_diverges_fails_alone_and_others_are_the_same_to_the_bit(make: Make, tmp_path: Path) -> None:
    objective = make()
    with_it = together(objective, tmp_path / "a", [CONFIGS[0], EXPLODING, CONFIGS[2]])
    without = together(objective, tmp_path / "b")
    failed = with_it[1].failure
    assert failed is not None
    assert failed.kind is FailureKind.DIVERGED
    assert with_it[1].curve is not None
    assert with_it[1].metrics["tokens"] > 0
    for i in (0, 2):
        assert with_it[i].curve == without[i].curve
        assert with_it[i].value == without[i].value


def test_memory_that_runs_out_together_lets_each_train_alone(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make()
    own = [alone(objective, tmp_path / f"alone-{i}", config) for i, config in enumerate(CONFIGS)]

    def no_memory(*arguments: object, **named: object) -> None:
        raise torch.OutOfMemoryError("out of memory: tried to allocate 8.00 GiB")  # as the allocator says it

    monkeypatch.setattr(
        "loracle.training.packed.loop.add_weighted_gradient", no_memory
    )  # as the allocator says it
    outcomes = together(objective, tmp_path)
    assert [outcome.value for outcome in outcomes] == [one.value for one in own]
    assert [outcome.curve for outcome in outcomes] == [one.curve for one in own]  # to the bit
    assert all("out of memory" in said(tmp_path / f"{i}")["alone"] for i in range(3))
    assert not any("together" in outcome.metrics for outcome in outcomes)


def test_as_many_train_together_as_fit(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    four = [*CONFIGS, {**CONFIGS[0], "rank": 1, "alpha": 2}]
    for many, expected in ((2.5, 2.0), (1.2, None)):
        objective = make(training={"micro_batch": 1})
        memory = objective.memory
        each = max(memory.predict(config, 1) for config in four)
        small: MemoryModel = replace(memory, room=many * each)
        monkeypatch.setattr(objective, "memory", small)
        outcomes = together(objective, tmp_path / str(expected), four)
        assert all(outcome.failure is None for outcome in outcomes)
        assert [outcome.metrics.get("together") for outcome in outcomes] == [expected] * 4


def test_only_like_settings_share_a_forward_pass(make: Make, tmp_path: Path) -> None:
    objective = make(
        space={
            "knobs": {"schedule": {"values": ["cosine", "linear"]}, "variant": {"values": ["lora", "dora"]}}
        }
    )
    configs = [
        {**CONFIGS[0], "schedule": "cosine", "variant": "lora"},
        {**CONFIGS[1], "schedule": "linear", "variant": "lora"},
        {**CONFIGS[2], "schedule": "cosine", "variant": "lora"},
        {**CONFIGS[2], "schedule": "cosine", "variant": "dora"},
    ]
    outcomes = together(objective, tmp_path, configs)
    assert all(outcome.failure is None for outcome in outcomes)
    assert [outcome.metrics.get("together") for outcome in outcomes] == [2, None, 2, None]
    assert "no other of its group has its settings" in said(tmp_path / "1")["alone"]
    assert "variant dora" in said(tmp_path / "3")["alone"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"early_stopping": {"patience": 2}}}, "early_stopping ends each training"),
        ({"training": {"optimizer": "sgd"}}, "optimizer sgd"),
        ({"training": {"variant": "dora"}}, "variant dora"),
        ({"data": {"packing": True, "proxy_minimum": 100}}, "data.packing makes blocks"),
    ],
)
@pytest.mark.parametrize("wanted", [4, "auto"])
def test_a_run_is_told_why_its_trials_train_alone(
    make: Make, changes: dict[str, Any], says: str, wanted: Any
) -> None:
    report = make(execution={"trials_together": wanted}, **changes).report()
    (notice,) = [one for one in report.notices if one.name == "trials_alone"]
    assert says in notice.text
    assert "one at a time" in notice.text
    assert report.together == 1


def test_how_many_is_measured_once_a_run(make: Make, tmp_path: Path) -> None:
    objective = make(execution={"trials_together": "auto"})
    report = objective.report()
    assert report.together in (1, 2, 4, 8)
    (notice,) = [one for one in report.notices if one.name in ("trials_alone", "trials_together")]
    assert notice.text.startswith(
        "trials train" if report.together == 1 else f"up to {report.together} trials train"
    )
    write_outcome(tmp_path / "run" / "trials" / "0000", CONFIGS[0], Outcome(0.5))
    again = objective.report()
    assert again.together is None
    assert make().report().together is None  # nobody asked


def test_a_width_has_to_fit(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make(execution={"trials_together": "auto"}, training={"micro_batch": 1})
    memory = objective.memory
    monkeypatch.setattr(objective, "memory", replace(memory, room=1.5 * memory.predict(CONFIGS[0], 1)))
    (notice,) = [one for one in objective.report().notices if one.name == "trials_alone"]
    assert notice.text == "trials train one at a time: they do not fit into memory together"
    assert trials.WIDTHS[0] == 2
