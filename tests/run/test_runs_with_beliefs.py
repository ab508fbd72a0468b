"""A run that is told what its user holds likely: what it says of it, and that it keeps to it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from loracle.config.loading import load_config
from loracle.errors import ConfigError, StudyError
from loracle.run.tune import tune

TRAINER = """
import math


def score(config, **other):
    return -abs(math.log10(config["learning_rate"]) + 4)
"""


def written(folder: Path, beliefs: dict[str, Any], **search: Any) -> Path:
    (folder / "trainer.py").write_text(TRAINER)
    content = {
        "objective": {"function": "trainer:score", "direction": "maximize"},
        "space": {"rank": [8, 16, 32, 64], "alpha_ratio": 2, "dropout": 0, "batch_size": 16},
        "beliefs": beliefs,
        "search": {"trials": 5, **search},
        "output": "run",
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_run_says_what_its_beliefs_did(tmp_path: Path, said: Callable[..., str]) -> None:
    beliefs = {"learning_rate": "around 1e-4", "dropout": "probably 0", "good": [{"rank": 32}]}
    path = written(tmp_path, beliefs)
    result = tune(load_config(path))
    second = result.space.config(result.history.trials[1].index)
    assert float(second["learning_rate"]) <= 3e-4
    told = [notice.text for notice in result.notices if notice.name == "belief_of_no_use"]
    assert told == ["beliefs.dropout: probably 0 makes no difference, as it says the same of all candidates"]
    words = "learning_rate around 0.0001, dropout probably 0, 1 config known to be good"
    explained = said("explain", tmp_path / "run", 1)
    assert f"By what you hold likely ({words}), " in explained
    (proposal,) = json.loads(said("explain", tmp_path / "run", 1, "--json"))["proposals"]
    assert proposal["beliefs"]["said"] == words
    assert proposal["beliefs"]["share"] < 0.2
    said("report", tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    markdown = (tmp_path / "run" / "report.md").read_text(encoding="utf-8").replace("\\", "")
    held = json.loads(said("report", tmp_path / "run", "--json"))["held"]
    assert held["said"] == words
    assert abs(math.log10(held["favourite"]["learning_rate"]) + 4) < 0.5
    for text in (page, markdown):
        assert "What you held likely" in text
        assert (
            f"You held likely: {words}. Before the first trial, that and the prior spoke most for rank 32"
            in text
        )
        assert f"rank correlation {held['agreement']:.2f} over 5 trials." in text
        assert "likelier than the config that leads." in text


def test_it_says_whether_the_trials_took_the_weight_away(tmp_path: Path) -> None:
    told = {}
    for name, rate, preset in (
        ("right", "1e-4", "default"),
        ("wrong", "at least 2e-3", "default"),
        ("plain", "at least 2e-3", "numeric"),
    ):
        (tmp_path / name).mkdir()
        path = written(tmp_path / name, {"learning_rate": rate}, preset=preset, trials=12)
        tune(load_config(path))
        text = (tmp_path / name / "run" / "report.md").read_text(encoding="utf-8")
        told[name] = text.partition("How much the search goes by it: ")[2]
    assert "the trials took its weight away." in told["wrong"]
    assert "took its weight away" not in told["right"]
    assert told["plain"].startswith("50 % before the first trial, ")


def test_without_beliefs_nothing_is_said_of_them(tmp_path: Path, said: Callable[..., str]) -> None:
    tune(load_config(written(tmp_path, {}, trials=2)))
    assert "held likely" not in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "held likely" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8").lower()
    assert json.loads(said("report", tmp_path / "run", "--json"))["held"] is None


def test_what_the_space_lacks_and_a_preset_that_reads_none_are_refused(
    tmp_path: Path, loracle: Callable[..., tuple[int, str, str]]
) -> None:
    with pytest.raises(
        ConfigError, match=r"config.yaml:\d+: beliefs\.lr: lr is no knob of the space; it has"
    ):
        tune(load_config(written(tmp_path, {"lr": "around 1e-4"})))
    path = written(tmp_path, {"rank": "at least 32"}, preset="paper")
    content = yaml.safe_load(path.read_text()) | {"language": {"model": "minilm"}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(
        ConfigError, match="beliefs: the preset paper reads none; default, thorough and numeric do"
    ):
        tune(load_config(path))
    code, _, err = loracle("doctor", path)
    assert code == 2
    assert "beliefs: the preset paper reads none; default, thorough and numeric do" in err


def test_beliefs_that_cancel_each_other_are_told_of(tmp_path: Path) -> None:
    path = written(tmp_path, {"good": [{"rank": 16}], "bad": [{"rank": 16}]})
    told = [notice.text for notice in tune(load_config(path)).notices if notice.name == "belief_of_no_use"]
    assert told == ["beliefs make no difference together, as they say the same of all candidates"]


def test_configs_that_are_far_from_all_candidates_are_told_of(tmp_path: Path) -> None:
    path = written(tmp_path, {"good": [{"learning_rate": 1, "rank": 8}], "learning_rate": "at least 0.1"})
    told = [notice.text for notice in tune(load_config(path)).notices if notice.name == "belief_of_no_use"]
    assert told[:2] == [
        "beliefs.learning_rate: at least 0.1 makes no difference, as no candidate is near: the nearest has "
        "learning_rate 0.003",
        "beliefs.good: learning_rate 1, rank 8 makes no difference, as no candidate is near: the nearest has "
        "learning_rate 0.003, rank 8",
    ]


def test_a_run_keeps_the_beliefs_that_it_began_with(tmp_path: Path) -> None:
    before = tune(load_config(written(tmp_path, {"rank": "at least 32"}, trials=3)))
    with pytest.raises(StudyError, match=r"beliefs\.knobs\.rank='at least 32', now 'at most 8'"):
        tune(load_config(written(tmp_path, {"rank": "at most 8"})))
    after = tune(load_config(written(tmp_path, {"rank": "at least 32"})))
    assert after.history.trials[:3] == before.history.trials
    other = tmp_path / "other"
    other.mkdir()
    whole = tune(load_config(written(other, {"rank": "at least 32"})))
    assert [trial.index for trial in whole.history.trials] == [trial.index for trial in after.history.trials]
