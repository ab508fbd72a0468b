"""A search ends where going on is not worth it, for a stated reason, and where it would have when resumed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import copy_rows
from places import BENCHMARKS, ROOT

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, StudyError
from loracle.records.events import Expected, TrialFinished
from loracle.run.stopping import LEAST, SHARE
from loracle.run.tune import Result, tune
from loracle.run.worker import load_objective

SPACE = {
    "base": "empty",
    "knobs": {
        "rank": {"values": [4, 8, 16, 32], "scale": "log2"},
        "learning_rate": {"values": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3], "scale": "log10"},
    },
}
TRAINER = """
import math
def train(config):
    return -(math.log10(config["learning_rate"]) + 3.7) ** 2 - 0.1 * abs(math.log2(config["rank"]) - 4)
"""


def config_of(folder: Path, **search: Any) -> RunConfig:
    folder.mkdir(exist_ok=True)
    (folder / "smooth_trainer.py").write_text(TRAINER)
    path = folder / "config.yaml"
    objective = {"function": "smooth_trainer.py:train", "direction": "maximize"}
    content = {"space": SPACE, "objective": objective, "execution": {"workers": 0}}
    path.write_text(yaml.safe_dump(content | {"search": {"trials": 15} | search}))
    return load_config(path)


def tried(result: Result) -> list[int]:
    return [trial.index for trial in result.history.trials]


def test_a_search_ends_where_one_more_trial_is_not_worth_it_and_says_why(tmp_path: Path) -> None:
    told: list[Any] = []
    result = tune(config_of(tmp_path / "a", worth=1000), told.append)
    assert len(tried(result)) == LEAST
    reason = rf"stopped after {LEAST} of 15 trials: one more is expected to gain \S+, less than it is worth"
    assert re.match(reason, result.stopped)
    assert "the best candidate is expected to be" in result.stopped
    assert result.stopped in [getattr(event, "text", "") for event in told]
    assert result.stopped in (result.folder / "report.md").read_text(encoding="utf-8")
    assert json.loads((result.folder / "verdict.json").read_text())["stopped"] == result.stopped
    # The same command again, and a run that ended before, end at the same trial for the same reason.
    again = tune(config_of(tmp_path / "a", worth=1000))
    assert (tried(again), again.stopped) == (tried(result), result.stopped)
    tune(config_of(tmp_path / "b", worth=1000, trials=5))
    resumed = tune(config_of(tmp_path / "b", worth=1000))
    assert (tried(resumed), resumed.stopped) == (tried(result), result.stopped)


def test_what_is_not_worth_it_any_more_says_how_many_trials_there_are(tmp_path: Path) -> None:
    tune(config_of(tmp_path, trials=LEAST + 1))
    less = tune(config_of(tmp_path, worth=1000))
    assert less.stopped.startswith(
        f"stopped after {LEAST + 1} of 15 trials: after {LEAST} of them one more is"
    )
    amounts = re.findall(r"[\d.]+(?:e-\d+)?", less.stopped.partition("gain")[2])
    assert max(len(amount.partition("e")[0].replace(".", "").lstrip("0")) for amount in amounts) <= 4


def test_a_search_ends_within_its_budget_and_goes_on_with_a_larger_one(
    run_config: Callable[..., Path],
) -> None:
    def run(budget: float, trials: int = 8) -> tuple[Result, list[Any]]:
        told: list[Any] = []
        search = {"trials": trials, "budget": budget}
        return tune(load_config(run_config(search=search)), told.append), told

    first, told = run(1.5)
    (*_, last) = [event for event in told if isinstance(event, TrialFinished)]
    assert last.trainings is not None
    assert 1 < len(tried(first)) < 8
    assert last.trainings <= 1.5 < last.trainings * (1 + 1 / len(tried(first)))
    assert first.stopped.startswith(f"stopped after {len(tried(first))} of at most 8 trials: they cost ")
    assert "search.budget" in (first.folder / "report.md").read_text(encoding="utf-8")
    expected = next(event for event in told if isinstance(event, Expected))
    assert abs(expected.trials - len(tried(first))) <= 1  # told before
    again, told = run(1.5)
    assert (tried(again), again.stopped) == (tried(first), first.stopped)
    assert not any(isinstance(event, TrialFinished) for event in told)
    _replayed(first, load_config(run_config(search={"trials": 8, "budget": 1.5})))
    more, _ = run(1000, trials=len(tried(first)) + 1)
    assert tried(more)[: len(tried(first))] == tried(first)
    assert more.stopped == f"all {len(tried(more))} trials are done"


def _replayed(result: Result, config: RunConfig) -> None:
    """A run can be had again from what it recorded, in virtual time: configs, outcomes and why it ended."""
    pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
    from simulator import Replayed, simulate

    trials = {trial.index: trial.outcome for trial in result.history.trials if trial.outcome}
    objective = Replayed(result.space, trials, told=load_objective(config).report())
    found = simulate(config.model_copy(update={"output": result.folder / "again"}), objective)
    assert found.history == result.history
    assert found.stopped == result.stopped
    assert result.space.config(found.ranked[0]) == result.comparison.winner
    assert found.seconds == pytest.approx(sum(outcome.seconds for outcome in trials.values()))


def test_several_workers_keep_to_a_budget(run_config: Callable[..., Path]) -> None:
    """Nothing is known of what a trial costs before one has ended, so the others wait for it."""
    told: list[Any] = []
    search = {"trials": 8, "budget": 1.5}
    result = tune(load_config(run_config(search=search, execution={"workers": 3})), told.append)
    (*_, last) = [event for event in told if isinstance(event, TrialFinished)]
    assert last.trainings is not None
    assert last.trainings <= 1.5
    assert 1 < len(tried(result)) < 8


def test_trials_of_a_search_with_a_budget_are_as_large_as_lets_five_fit_in(
    run_config: Callable[..., Path],
) -> None:
    def data_of(search: dict[str, Any], **data: Any) -> Any:
        path = run_config(search=search)
        content = yaml.safe_load(path.read_text())
        for name in ("proxy", "proxy_minimum", "validation_limit"):
            content["data"].pop(name, None)
        content["data"] |= data
        path.write_text(yaml.safe_dump(content))
        path.with_name("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in copy_rows(900, 5)))
        return load_config(path)

    assert data_of({"budget": 0.5}).data.trial_cost == 0.1
    assert data_of({"budget": 1}).data.trial_cost == data_of({"budget": 20}).data.trial_cost == 0.2
    assert data_of({"trials": 9}).data.trial_cost is data_of({"budget": None}).data.trial_cost is None
    assert data_of({"budget": 0.5}, trial_cost=0.05).data.trial_cost == 0.05
    for said in ({"proxy": 0.2}, {"proxy_minimum": 100}, {"validation_limit": None}, {"trial_cost": None}):
        assert data_of({"budget": 0.5}, **said).data.trial_cost is None

    told: list[Any] = []
    first = tune(data_of({"budget": 0.5, "trials": 30}), told.append)
    assert len(tried(first)) == 5
    (*_, last) = [event for event in told if isinstance(event, TrialFinished)]
    assert last.trainings is not None
    assert 0.4 < last.trainings <= 0.5
    assert next(event for event in told if isinstance(event, Expected)).trials == 5  # told before
    with pytest.raises(StudyError, match=r"this run began with data.trial_cost=0.1, now 0.2"):
        tune(data_of({"budget": 1, "trials": 30}, trial_cost=0.2))
    more = tune(data_of({"budget": 0.7, "trials": 30}))  # with the trials that it began with
    assert len(tried(more)) == 7
    assert tried(more)[:5] == tried(first)


@pytest.mark.parametrize("search", [{}, {"worth": "never"}, {"worth": 0}, {"worth": 1e-300}])
def test_trials_are_all_done_where_nothing_else_is_asked_for(tmp_path: Path, search: dict[str, Any]) -> None:
    result = tune(config_of(tmp_path, trials=LEAST + 1, **search))
    assert len(tried(result)) == LEAST + 1
    assert result.stopped == f"all {LEAST + 1} trials are done"


def test_what_says_nothing_of_gains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the preset paper does not say what one more trial"):
        config_of(tmp_path, worth="auto", preset="paper")
    with pytest.raises(ConfigError, match="worth: has to be a number from 0, auto or never; got -1"):
        config_of(tmp_path, worth=-1)


def test_a_budget_needs_trials_whose_tokens_are_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search.budget: is in full trainings.* set search.trials"):
        config_of(tmp_path, budget=0.5)
    with pytest.raises(ConfigError, match=r"search.budget: input should be greater than 0; got 0"):
        config_of(tmp_path, budget=0)


def test_the_page_states_what_was_measured_and_the_default_follows_from_it() -> None:
    found = json.loads((BENCHMARKS / "results" / "stopping.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "search-cost.md").read_text(encoding="utf-8")
    assert f"{found['searches']} searches of 30 trials" in page
    fixed = next(row for row in found["summary"] if row["rule"] == "trials")
    for row in found["summary"]:
        lost, error, as_much = (f"{row[key]:.4f}"[1:] for key in ("lost", "error", "fixed_lost"))
        assert f"| {row['trials']:.1f} trials | {lost} ({error}) | {as_much} |" in page
        assert row["trials"] >= fixed["trials"]  # none saves more at the same loss
        assert row["lost"] >= row["fixed_lost"]
    gain = found["summary"][0]
    assert (gain["rule"], gain["threshold"], gain["least"], gain["again"]) == ("gain", SHARE, LEAST, 1)


def test_rules_of_the_benchmark_end_where_they_say() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
    import stopping as program

    row = {"gain": [1.0] * 12 + [0.01] * 16, "noise": [1.0] * 28, "leader": [1.0] * 28, "regret": [0.5] * 28}
    assert program.below("gain", 0.05, 12, 1)(row) == 15
    assert program.below("gain", 0.05, 12, 3)(row) == 17
    assert program.below("gain", 0.001, 12, 1)(row) == 30
    assert program.patience(5)(row) == 8
    assert program.judged(program.fixed(20), [row, row]) == {"trials": 20.0, "lost": 0.0, "error": 0.0}
