"""What is measured before the first trial: there is a figure for everything, and nothing else has changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loracle.config.loading import load_config
from loracle.records.objective import Report
from loracle.records.trial import Outcome
from loracle.records.trial_files import write_outcome
from loracle.training.model.checksum import weights_checksum
from loracle.training.objective import TrainingObjective

STANDARD = {"rank": 4, "alpha": 8, "dropout": 0.0, "learning_rate": 1e-3, "batch_size": 4}


def states() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


@pytest.mark.parametrize("scoring", [{}, {"metric": "exact_match", "max_new_tokens": 8, "batch_size": 4}])
def test_measuring_leaves_no_trace(
    run_config: Callable[..., Path], tmp_path: Path, scoring: dict[str, Any]
) -> None:
    config = load_config(run_config(scoring=scoring))
    fresh = TrainingObjective.from_config(config)
    expected = fresh.run(STANDARD, seed=1, folder=tmp_path / "a")
    objective = TrainingObjective.from_config(config)
    before, files = states(), sorted(tmp_path.rglob("*"))
    pace = objective.pace()
    assert pace is not None
    assert min(pace.step, pace.other) >= 0
    assert pace.example > 0 or pace.step > 0
    assert 0 < pace.item_least <= pace.item_most
    assert states() == before
    assert sorted(tmp_path.rglob("*")) == files
    assert weights_checksum(objective.base.model) == objective.base.checksum
    outcome = objective.run(STANDARD, seed=1, folder=tmp_path / "b")
    assert outcome.value == expected.value
    assert outcome.metrics["training_loss"] == expected.metrics["training_loss"]
    assert (tmp_path / "a" / "items.jsonl").read_text() == (tmp_path / "b" / "items.jsonl").read_text()


def test_trials_that_were_trained_are_not_measured_again(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    objective = TrainingObjective.from_config(config)
    report: Report = objective.report()
    assert report.pace is not None
    write_outcome(config.output / "trials" / "0000", STANDARD, Outcome(0.5, {}, 3.0))
    assert objective.report().pace is None


@pytest.mark.parametrize("standard", [{"batch_size": 1}, {"batch_size": 500}, {"learning_rate": 1e30}])
def test_any_standard_is_measured_or_left(
    run_config: Callable[..., Path], standard: dict[str, float]
) -> None:
    """As many examples as there are; where the loss is no number nothing is said."""
    config = load_config(run_config(standard=STANDARD | standard))
    pace = TrainingObjective.from_config(config).pace()
    assert pace is None or pace.example >= 0
