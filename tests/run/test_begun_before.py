"""A run folder that an earlier version began is gone on with, as that version would have.

`recorded/run_begun_before` was made by version 0.1.0, when the package was one flat folder: five trials on a
part of the demo's data. `went_on.json` holds the eight trials that it gave when it went on.
"""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
from places import PACKAGE, TESTS

from loracle.config.loading import load_config
from loracle.run.tune import tune

BEFORE = TESTS / "recorded" / "run_begun_before"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The config of that run, with its data."""
    shutil.copytree(PACKAGE / "demo", tmp_path / "demo")
    for name, n in (("train", 400), ("validation", 40), ("test", 40)):
        path = tmp_path / "demo" / f"{name}.jsonl"
        with path.open() as file:
            rows = list(islice(file, n))
        path.write_text("".join(rows))
    config = tmp_path / "demo" / "config.yaml"
    text = config.read_text().replace("  max_length: 64", "  proxy: 0.25\n  max_length: 64")  # as it was
    text = text.replace("metric: exact_match", "metric: loss")
    text = text.replace("  max_new_tokens: 10\n", "") + "search: {trials: 8}\n"
    config.write_text(text.replace("batch_size: 300", "batch_size: 40"))
    return config


def test_a_run_begun_by_an_earlier_version_goes_on_as_it_would_have(demo: Path) -> None:
    shutil.copytree(BEFORE, demo.parent / "run")
    expected = json.loads((BEFORE / "went_on.json").read_text())
    result = tune(load_config(demo))
    trials = result.history.trials
    assert [result.space.config(trial.index) for trial in trials] == [trial["config"] for trial in expected]
    values = [trial.outcome.value for trial in trials if trial.outcome]
    assert values[:5] == [trial["value"] for trial in expected[:5]]  # as they were recorded
    assert values[5:] == pytest.approx([trial["value"] for trial in expected[5:]], rel=1e-3)
