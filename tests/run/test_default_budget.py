"""A search whose config does not say what ends it costs no more than one full training; and tells so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Loracle, copy_rows
from places import PACKAGE, TESTS

from loracle.config.loading import dump_config, load_config, parse_config
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, StudyError
from loracle.records.events import Event, Expected, PhaseStarted, TrialFinished, TrialStarted
from loracle.run.checks import examine
from loracle.run.proxy import check_proxy
from loracle.run.tune import Result, tune, work

BUDGET = (
    "ends before it costs more than 1 full training (search.budget, the default), after 30 trials at most"
)
BEFORE = "ends after 30 trials (search.trials, the default when this run began)"
OWN = {"function": "math:fsum", "direction": "maximize"}
FEW = {"rank": [2, 4], "alpha_ratio": 4, "dropout": 0, "batch_size": 4, "learning_rate": [1e-4, 1e-3, 1e-2]}


@pytest.fixture
def config_of(run_config: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a config of a run on 900 rows which says nothing of how large trials are, nor what ends it."""

    def write(search: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **more: Any) -> Path:
        path = run_config()
        content = yaml.safe_load(path.read_text())
        content["data"] = {"train": "train.jsonl", "max_length": 32} | (data or {})
        content["search"] = {"seed": 3} | (search or {})
        path.write_text(yaml.safe_dump(content | more, sort_keys=False))
        path.with_name("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in copy_rows(900, 5)))
        return path

    return write


def run(config: RunConfig, job: Callable[..., Any] = tune) -> tuple[Any, list[Event]]:
    told: list[Event] = []
    return job(config, told.append), told


def begins_with(told: list[Event]) -> str:
    """What the search says first."""
    (said,) = [event.text for event in told if isinstance(event, PhaseStarted) and "searching" in event.text]
    return said.removeprefix("searching: ")


def cost(told: list[Event]) -> float:
    (*_, last) = [event for event in told if isinstance(event, TrialFinished)]
    assert last.trainings is not None
    return last.trainings


def indices(result: Result) -> list[int]:
    return [trial.index for trial in result.history.trials]


def texts(config: RunConfig, name: str) -> list[str]:
    """What `doctor` says under a name: that of a check, or of a notice."""
    return [c.text for c in examine(config) if name == (c.name if c.notice is None else c.notice.name)]


@pytest.mark.parametrize(
    ("search", "limit", "seeds"),
    [
        ({}, (30, 1.0, 0.2), 0),
        ({"seed": 7}, (30, 1.0, 0.2), 0),
        ({"trials": 30}, (30, None, None), 1),
        ({"trials": 8}, (8, None, None), 0),
        ({"budget": None}, (30, None, None), 1),
        ({"budget": "none"}, (30, None, None), 1),
        ({"budget": 0.5}, (30, 0.5, 0.1), 0),
        ({"budget": 2, "trials": 40}, (40, 2.0, 0.2), 0),
        ({"worth": "auto"}, (30, None, None), 1),
        ({"worth": "never"}, (30, 1.0, 0.2), 0),
        ({"replicates": 2}, (30, 1.0, 0.2), 2),
        *(
            ({"preset": preset}, (30, None, None), 1)
            for preset in ("thorough", "numeric", "language", "paper")
        ),
        ({"preset": "thorough", "budget": 3}, (30, 3.0, 0.2), 0),
    ],
)
def test_what_limits_a_search(search: dict[str, Any], limit: tuple[Any, ...], seeds: int) -> None:
    content = {"model": "m", "data": {"train": "t"}, "search": search}
    config = RunConfig.model_validate(content)
    assert (config.search.trials, config.search.budget, config.data.trial_cost) == limit
    assert config.search.further_seeds == seeds
    # What a run folder keeps, and what a worker is told, is the same.
    assert parse_config(dump_config(config)) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    own = RunConfig.model_validate({"objective": OWN} | ({} if search.get("budget") else {"search": search}))
    assert (own.search.budget, own.data.trial_cost) == (None, None)


def test_a_budget_that_is_none_of_these_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search.budget: input should be a valid number"):
        parse_config("model: m\ndata: {train: t}\nsearch: {budget: never}")


def test_a_search_that_says_nothing_costs_less_than_a_training_and_says_so(
    config_of: Callable[..., Path], loracle: Loracle
) -> None:
    path = config_of()
    config = load_config(path)
    assert texts(config, "search") == [BUDGET]
    result, told = run(config)
    assert begins_with(told) == BUDGET
    assert indices(result) == [trial.index for trial in result.history.counted]
    assert len(indices(result)) == 5
    assert 0.8 < cost(told) <= 1
    shown = {event.budget for event in told if isinstance(event, TrialStarted | TrialFinished | Expected)}
    assert shown == {5}
    said = "stopped after 5 of at most 30 trials: they cost "
    assert result.stopped.startswith(said)
    assert result.stopped.endswith("is left of 1 (search.budget, the default)")
    assert result.stopped in (result.folder / "report.md").read_text(encoding="utf-8")
    code, out, _ = loracle("tune", path, "--json")  # nothing is left to do
    assert (code in (0, 3, 4), json.loads(out)["stopped"]) == (True, result.stopped)
    assert texts(config, "time") == []
    # Who names trials gets them, whatever they cost, of the size that the run began with.
    code, out, errors = loracle("tune", path, "--trials", 7)
    assert "searching: ends after 7 trials (search.trials)\n" in errors
    more, told = run(load_config(config_of({"preset": "thorough", "trials": 8})))
    assert begins_with(told) == "ends after 8 trials (search.trials)"
    assert len(indices(more)) == 8
    assert indices(more)[:5] == indices(result)
    assert cost(told) > 1


def test_a_run_goes_on_with_what_limited_it_when_it_began(
    config_of: Callable[..., Path], tmp_path: Path
) -> None:
    """Before there was a default budget, a config that named none had 30 trials, of another size."""
    begun, _ = run(load_config(config_of({"trials": 2}, space=FEW)))
    journal = begun.folder / "journal.log"
    lines = [line for line in journal.read_text().splitlines(True) if "loracle:default_budget" not in line]
    assert len(lines) < len(journal.read_text().splitlines())
    journal.write_text("".join(lines))
    plain = load_config(config_of(space=FEW))
    assert texts(plain, "search") == [BEFORE]
    result, told = run(plain)
    assert begins_with(told) == BEFORE
    assert result.stopped == "all 6 candidates are tried"
    assert indices(result)[:2] == indices(begun)
    kept = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert (kept["search"]["budget"], kept["data"]["trial_cost"]) == (None, None)
    # What it says holds, as it did.
    limited, _ = run(load_config(config_of({"budget": 1000}, space=FEW)))
    assert limited.stopped == "all 6 candidates are tried"
    with pytest.raises(StudyError, match=r"this run began with data.trial_cost=None, now 0.2"):
        tune(load_config(config_of(data={"trial_cost": 0.2}, space=FEW)))


def test_a_run_of_an_earlier_version_goes_on_without_a_budget(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "demo", tmp_path / "demo")
    shutil.copytree(TESTS / "recorded" / "run_begun_before", tmp_path / "demo" / "run")
    config = load_config(tmp_path / "demo" / "config.yaml")
    assert (config.search.budget, config.data.trial_cost) == (1.0, 0.2)
    (said,) = texts(config, "search")
    assert said == BEFORE
    (time,) = texts(config, "time")
    assert time.startswith("25 of 30 trials of about ")


def test_machines_that_share_a_database_have_one_limit(
    config_of: Callable[..., Path], tmp_path: Path
) -> None:
    path = config_of({"trials": 2}, execution={"workers": 0, "storage": "sqlite:///trials.db"})
    begun, _ = run(load_config(path), work)
    plain = load_config(config_of(execution={"workers": 0, "storage": "sqlite:///trials.db"}))
    elsewhere = plain.model_copy(update={"output": tmp_path / "other" / plain.output.name})
    (stopped, history), told = run(elsewhere, work)  # not refused: it has the trials of the run
    assert begun[0] == "all 2 trials are done"
    assert begins_with(told).startswith("ends after 3 trials, which cost about 1.07 full trainings, ")
    assert "(search.budget, the default)" in stopped
    assert len(history.counted) == 3  # whatever they cost: see below


@pytest.mark.parametrize(
    ("search", "there", "said"),
    [
        (
            {},
            3,
            "full training (search.budget, the default) is enough for 1; 3 are made all the same, for ab",
        ),
        (
            {"budget": 1.0},
            1,
            "full training (search.budget) is enough for 1. For more, set search.budget or ",
        ),
        (
            {"budget": 2.5},
            2,
            "2.5 full trainings (search.budget) is enough for 2. For more, set search.budget",
        ),
    ],
)
def test_trials_that_are_dear_are_told_and_by_default_there_are_three(
    config_of: Callable[..., Path], search: dict[str, Any], there: int, said: str
) -> None:
    path = config_of(search, {"proxy": 1.0, "validation_limit": None}, training={"epochs": 1.0}, space=FEW)
    config = load_config(path)
    assert config.data.trial_cost is None
    (text,) = texts(config, "few_trials")
    assert said in text
    assert text.endswith("or for smaller trials data.proxy, data.proxy_minimum and data.validation_limit")
    (ends,) = texts(config, "search")
    result, told = run(config)
    assert len(indices(result)) == there
    yields = ", 2 more than the limit of 1 (search.budget, the default): there are 3 in any case, as fewer "
    if there == 3:  # so all that is said of the limit is that it is exceeded, by how much, and why
        assert ends.startswith("ends after 3 trials, which cost about 3 full trainings, ")
        assert begins_with(told).startswith("ends after 3 trials, which cost about 3 full trainings, ")
        for said_of_it in (ends, begins_with(told), result.stopped):
            assert f"{yields}compare nothing" in said_of_it
            assert "ends before" not in said_of_it
            assert "is left of" not in said_of_it
        assert result.stopped.startswith("stopped after 3 of at most 30 trials: they cost 3 full trainings, ")
        assert result.stopped in (result.folder / "report.md").read_text(encoding="utf-8")
    else:
        assert ends == begins_with(told)
        assert ends.startswith("ends before it costs more than ")
    assert [event.budget for event in told if isinstance(event, Expected)] == [there]
    assert result.stopped.startswith(f"stopped after {there} of at most ")
    again, told = run(config)
    assert (indices(again), again.stopped) == (indices(result), result.stopped)


def test_a_budget_that_is_not_enough_for_one_trial_says_so_throughout(
    config_of: Callable[..., Path], loracle: Loracle
) -> None:
    path = config_of({"budget": 0.01}, {"proxy": 0.1}, space=FEW)
    config = load_config(path)
    (text,) = texts(config, "few_trials")
    assert ", more than 0.01 full trainings (search.budget); 1 is made all the same, for about " in text
    (ends,) = texts(config, "search")
    limit = "more than the limit of 0.01 (search.budget): there is 1 in any case"
    assert ends.startswith("ends after 1 trial, which costs about 0.")
    assert ends.endswith(limit)
    _, out, errors = loracle("tune", path, "--json")
    assert f"searching: {ends}\n" in errors
    stopped = json.loads(out)["stopped"]
    assert stopped.startswith("stopped after 1 of at most 30 trials: it costs 0.")
    assert stopped.endswith(limit)
    report = (config.output / "report.md").read_text(encoding="utf-8")
    assert "- 1 trial, " in report
    assert stopped in report


def test_sizes_that_a_user_names_stay_and_the_budget_ends_the_search(config_of: Callable[..., Path]) -> None:
    for data in ({"validation_limit": 30}, {"proxy": 0.2, "proxy_minimum": 50}, {"trial_cost": 0.3}):
        config = load_config(config_of(data=data))
        assert {name: getattr(config.data, name) for name in data} == data
        assert config.data.trial_cost == data.get("trial_cost")
        result, told = run(config.model_copy(update={"output": config.output / next(iter(data))}))
        assert cost(told) <= 1
        assert 3 <= len(indices(result)) < 30
        assert "(search.budget, the default)" in result.stopped


def test_several_objectives_and_guards_keep_to_it_too(config_of: Callable[..., Path]) -> None:
    two = {"metric": ["loss", "token_f1"], "max_new_tokens": 6}
    for more in ({"scoring": two}, {"guard": {"held": {"data": "train.jsonl"}}}):
        config = load_config(config_of(**more))
        result, told = run(config.model_copy(update={"output": config.output / next(iter(more))}))
        assert begins_with(told) == BUDGET
        assert len(indices(result)) == 3 or cost(told) <= 1
        assert "(search.budget, the default)" in result.stopped


def test_named_configs_that_a_budget_leaves_out_are_told(config_of: Callable[..., Path]) -> None:
    named = [
        {"rank": r, "alpha_ratio": 4, "dropout": 0, "batch_size": 4, "learning_rate": lr}
        for r in (2, 4, 8)
        for lr in (1e-4, 1e-3)
    ]
    (text,) = texts(load_config(config_of({"seed_configs": named})), "seed_configs_left_out")
    assert text.startswith(
        "about 5 of 6 search.seed_configs are tried within 1 full training (search.budget, the"
    )
    assert texts(load_config(config_of({"seed_configs": named, "trials": 6})), "seed_configs_left_out") == []


def test_a_proxy_check_goes_on_with_trials_of_the_size_that_it_began_with(
    config_of: Callable[..., Path],
) -> None:
    before = load_config(config_of({"trials": 9}, {"max_length": 32}))
    first = check_proxy(before, 4, [0.05], lambda event: None)
    assert check_proxy(load_config(config_of()), 4, [0.05], lambda event: None) == first
