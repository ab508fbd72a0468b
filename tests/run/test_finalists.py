"""The best of a search, each trained on all data: validation chooses, and everything tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed_runs import killed

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.records.events import Event, Expected, Noticed, PhaseStarted
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.report.verdict import Finalist, verdict
from loracle.report.verdict.stored import verdict_json
from loracle.run.tune import Result, tune
from loracle.training.objective import TrainingObjective

WriteRun = Callable[..., Path]


def run(config: RunConfig) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    return tune(config, events.append), events


def titles(events: list[Event]) -> list[str]:
    """Of trainings that are no trials."""
    return [event.text for event in events if isinstance(event, PhaseStarted) and event.number is not None]


def by_validation(result: Result) -> Finalist:
    return max(result.comparison.finalists, key=lambda one: (one.value is not None, one.value or 0.0))


def recommended(result: Result) -> Any:
    return json.loads((result.folder / "final" / "winner" / "outcome.json").read_text())["config"]


def test_the_best_on_all_data_is_the_winner_and_is_trained_once(run_config: WriteRun) -> None:
    path = run_config(search={"trials": 4, "seed": 3, "finalists": 3})
    config = load_config(path)
    result, events = run(config)
    found = result.comparison.finalists
    assert [one.place for one in found] == [1, 2, 3]
    assert [one for one in found if one.chosen] == [by_validation(result)]
    assert result.comparison.winner == by_validation(result).config == recommended(result)
    assert len([title for title in titles(events) if "one of the best 3" in title]) == 3
    assert not any("training the winner" in title for title in titles(events))
    # A score of all validation rows by the adapter that is kept, whatever it is on test.
    shown = json.loads((result.folder / "final" / "winner" / "outcome.json").read_text())
    assert shown["metrics"]["validation_value"] == by_validation(result).value != shown["value"]
    others = sorted(folder.name for folder in (result.folder / "final").glob("candidate-*"))
    assert len(others) == 2
    (expected,) = [event for event in events if isinstance(event, Expected)]
    assert expected.finals == 4
    # It is told wherever the verdict is.
    said = verdict(result.comparison, "loss", result.history)
    end = ("first of the search stays", "second of them is the winner", "third of them is the winner")
    assert f"in the order of the search): the {end[by_validation(result).place - 1]}." in said
    assert "The best 3 of the search were trained on all data and scored on all validation items (" in said
    for name in ("report.md", "report.html"):
        assert "The best 3 of the search were trained on all data" in (result.folder / name).read_text()
    told = verdict_json(config, result.space, result.finished, result.history, result.notices)
    assert [one["chosen"] for one in told["finalists"]] == [one.chosen for one in found]
    # Nothing is trained again, and nothing moves.
    before = {p: p.stat().st_mtime_ns for p in (result.folder / "final").rglob("*")}
    second, events = run(config)
    assert titles(events) == []
    assert second.comparison == result.comparison
    assert {p: p.stat().st_mtime_ns for p in (result.folder / "final").rglob("*")} == before


def test_the_winner_is_the_training_that_it_would_be_alone(run_config: WriteRun) -> None:
    several, _ = run(load_config(run_config(output="several", search={"trials": 3, "finalists": 2})))
    chosen = several.comparison
    alone = TrainingObjective.from_config(load_config(run_config(output="alone", search={"trials": 3})))
    folder = several.folder / "elsewhere"
    outcome = alone.final(chosen.winner, seed=load_config(run_config()).search.seed, folder=folder)
    assert outcome.value == chosen.winner_outcome.value
    assert "validation_value" not in outcome.metrics
    adapter = several.folder / "best" / "adapter_model.safetensors"
    kept = several.folder / "final" / "winner" / "adapter" / "adapter_model.safetensors"
    assert adapter.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize(
    ("event", "part", "left"),
    [
        ("PhaseStarted", "number=-50", 2),
        pytest.param("PhaseEnded", "number=-50", 1, marks=pytest.mark.slow),
        pytest.param("PhaseEnded", "number=-51", 0, marks=pytest.mark.slow),
        ("PhaseStarted", "standard", 0),
    ],
)
def test_a_run_that_is_killed_among_its_finalists_goes_on_as_if_it_had_not_been(
    run_config: WriteRun, event: str, part: str, left: int
) -> None:
    search = {"trials": 3, "seed": 3, "finalists": 2}
    undisturbed, _ = run(load_config(run_config(output="undisturbed", search=search)))
    path = run_config(output="killed", search=search)
    killed(path, event, part)
    result, events = run(load_config(path))
    made = [title for title in titles(events) if "one of the best" in title]
    assert len(made) == left
    assert result.comparison.winner == undisturbed.comparison.winner
    assert [one.value for one in result.comparison.finalists] == [
        one.value for one in undisturbed.comparison.finalists
    ]
    assert recommended(result) == result.comparison.winner


def test_more_may_be_asked_for_later_and_fewer(run_config: WriteRun) -> None:
    config = load_config(run_config(search={"trials": 4, "seed": 3}))
    first, _ = run(config)
    assert first.comparison.finalists == ()

    def asked(n: int) -> tuple[Result, list[Event]]:
        search = config.search.model_copy(update={"finalists": n})
        return run(config.model_copy(update={"search": search}))

    third, events = asked(3)
    assert len([title for title in titles(events) if "one of the best 3" in title]) == 3  # not scored before
    second, events = asked(2)
    assert not any("one of the best" in title for title in titles(events))
    assert [one.value for one in second.comparison.finalists] == [
        one.value for one in third.comparison.finalists[:2]
    ]
    assert recommended(second) == second.comparison.winner
    one, events = asked(1)
    assert one.comparison.winner == first.comparison.winner == recommended(one)
    assert one.comparison.finalists == ()


def test_one_that_fails_or_breaks_a_guard_on_all_data_is_not_chosen(
    run_config: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingObjective.final
    failed: list[Any] = []

    def final(self: TrainingObjective, config: Any, **given: Any) -> Outcome:
        if not failed:
            failed.append(dict(config))
        if dict(config) == failed[0]:
            given["folder"].mkdir(parents=True)
            return Outcome(None, failure=Failure(FailureKind.DIVERGED, "it went wrong"))
        return original(self, config, **given)

    monkeypatch.setattr(TrainingObjective, "final", final)
    result, _ = run(load_config(run_config(search={"trials": 4, "seed": 3, "finalists": 3})))
    found = result.comparison.finalists
    assert found[0].config == failed[0]
    assert (found[0].value, found[0].chosen) == (None, False)
    assert result.comparison.winner == by_validation(result).config == recommended(result) != failed[0]
    assert "failed: diverged" in verdict(result.comparison, "loss", result.history)


def test_standard_settings_among_them_are_trained_once(run_config: WriteRun) -> None:
    standard = {"rank": 4, "alpha": 4, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-4}
    space = {
        "base": "empty",
        "knobs": {
            "rank": {"values": [4]},
            "alpha_ratio": {"values": [1]},
            "dropout": {"values": [0.0]},
            "batch_size": {"values": [4]},
            "learning_rate": {"values": [1e-4, 1e-2]},
        },
    }
    given = {"space": space, "standard": standard, "search": {"trials": 2, "finalists": 2}}
    result, events = run(load_config(run_config(**given)))
    assert result.comparison.winner["learning_rate"] == 1e-2
    assert not any("standard settings" in title for title in titles(events))
    assert result.comparison.standing == "better"
    assert (result.folder / "final" / "standard" / "adapter" / "adapter_model.safetensors").exists()


def test_where_nothing_is_trained_at_the_end_that_is_told(run_config: WriteRun) -> None:
    objectives = {"metric": ["loss", "bits_per_byte"]}
    path = run_config(search={"trials": 2, "finalists": 2}, scoring=objectives)
    result, events = run(load_config(path))
    told = [event.notice.text for event in events if isinstance(event, Noticed)]
    assert any(text.startswith("search.finalists is not used: of several objectives") for text in told)
    assert result.comparison.finalists == ()


def test_a_number_that_makes_no_sense_is_refused_in_one_line(
    run_config: WriteRun, loracle: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, error = loracle("tune", run_config(search={"trials": 2, "finalists": 0}))
    assert code == 2
    assert "search.finalists" in error
    assert error.strip().count("\n") <= 1
