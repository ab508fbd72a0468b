"""What must not be lost: measured against the base model, learnt of by the search, told of at the end."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import write_config
from killed_runs import killed
from places import PACKAGE

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError, DataError, StudyError
from loracle.records.events import PhaseStarted
from loracle.records.trial import Failure, FailureKind, GuardReading, Outcome
from loracle.records.trial_files import read_outcome, write_outcome
from loracle.report.verdict import Comparison, PassedOver, headline, verdict
from loracle.report.verdict.stored import verdict_json
from loracle.run.checks import examine
from loracle.run.finals.results import bring_back, set_aside
from loracle.run.tune import Result, tune

DEMO = PACKAGE / "demo"


def known_rows(n: int) -> list[dict[str, str]]:
    """What the demo's base model does without a fault."""
    chooser = random.Random(5)
    found = []
    for _ in range(n):
        text = "".join(chooser.choices(string.ascii_lowercase, k=chooser.randint(4, 8)))
        name, answer = chooser.choice([("copy", text), ("rev", text[::-1]), ("sort", "".join(sorted(text)))])
        found.append({"prompt": f"{name} {text}=", "completion": answer})
    return found


def forgetting(folder: Path, rows: int, rates: list[float], **changes: Any) -> Path:
    """A run on the demo's new task, which large steps teach best, and pay for with the old ones."""
    train = (DEMO / "train.jsonl").read_text().splitlines()[:rows]
    (folder / "train.jsonl").write_text("\n".join(train) + "\n")
    (folder / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known_rows(160)))
    knobs = {"rank": 16, "alpha_ratio": 2, "dropout": 0.0, "batch_size": 8, "learning_rate": rates}
    content = {
        "model": str(DEMO / "base"),
        "device": "cpu",
        "threads": 1,
        "data": {"train": "train.jsonl", "proxy": 1.0, "max_length": 64},
        "space": {"base": "empty", **knobs},
        "standard": {"rank": 16, "alpha": 32, "dropout": 0.0, "batch_size": 8, "learning_rate": rates[0]},
        "scoring": {"metric": "loss"},
        "guard": {"strings": {"data": "known.jsonl", "tolerance": 0.05, "items": 40}},
        "language": {"model": "none"},
        "search": {"trials": len(rates)},
        "execution": {"workers": 0},
    }
    return write_config(folder / "config.yaml", content, changes)


def check_forgotten(result: Result, metric: str = "loss") -> None:
    """The best score of all broke the guard; the recommended config keeps it, and the report says so."""
    succeeded = {t.number: t.outcome for t in result.history.succeeded if t.outcome}
    best = max(succeeded.values(), key=lambda outcome: outcome.value or -1e9)
    assert best.broken == ("strings",)
    comparison = result.comparison
    trial = next(t for t in result.history.succeeded if result.space.config(t.index) == comparison.winner)
    assert trial.outcome is not None
    assert trial.outcome.guards["strings"].kept
    assert comparison.winner_outcome.guards["strings"].kept
    assert comparison.guarded is not None
    given_up = comparison.guarded.given_up
    assert given_up is not None
    assert given_up.value == best.value
    assert given_up.winner_value == trial.outcome.value
    text = (result.folder / "report.md").read_text()
    assert f"Given up for it: trial {given_up.number} scored" in text
    assert "(loses strings)" in text
    assert "guard strings" in text
    assert "strings is kept" in headline(comparison, metric)


def test_the_winner_keeps_what_the_best_score_forgets_and_the_report_says_what_was_given_up(
    tmp_path: Path,
) -> None:
    path = forgetting(tmp_path, 120, [1e-6, 1e-3, 3e-3])
    result = tune(load_config(path))
    check_forgotten(result)
    found = verdict_json(load_config(path), result.space, result.finished, result.history, result.notices)
    assert found["guarded"]["given_up"]["broken"] == ["strings"]
    assert found["winner"]["guards"]["strings"]["kept"] is True
    cost = next(notice.text for notice in result.notices if notice.name == "guard")
    assert "every trial is scored on 40 more items and each final training on 80 others" in cost
    assert (result.folder / "guard" / "strings-validation.json").exists()
    items = (result.folder / "trials" / "0000" / "items-guard-strings.jsonl").read_text().splitlines()
    assert len(items) == 40
    # Other rows of a guard are another run.
    known = tmp_path / "known.jsonl"
    known.write_text(known.read_text().replace("copy", "kopy"))
    with pytest.raises(StudyError, match="rows of guard strings"):
        tune(load_config(path))


@pytest.mark.slow
def test_a_longer_search_on_answers_keeps_what_is_known(tmp_path: Path) -> None:
    guard = {"metric": "exact_match", "max_new_tokens": 10, "tolerance": 0.05, "items": 60}
    rates = [1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    changes = {"guard": {"strings": {"data": "known.jsonl"} | guard}, "search": {"trials": 6}}
    result = tune(load_config(forgetting(tmp_path, 600, rates, **changes)))
    check_forgotten(result)


PART = {"train": "train.jsonl", "proxy": 0.25, "proxy_minimum": 1, "max_length": 64}


def finals(config: RunConfig) -> tuple[Result, list[str]]:
    """The run, and which final trainings it had to make."""
    told: list[str] = []
    result = tune(config, lambda e: told.append(e.text) if isinstance(e, PhaseStarted) and e.number else None)
    return result, told


def test_a_winner_that_forgets_in_its_final_training_is_passed_over_however_often_the_run_is_killed(
    tmp_path: Path,
) -> None:
    """On a quarter of the data every config keeps it."""
    path = forgetting(tmp_path, 160, [1e-6, 1e-3, 1.5e-3], data=PART)
    killed(path, "PhaseStarted", "training the next best settings")
    killed(path, "PhaseEnded", "number=-1")
    config = load_config(path)
    result, trained = finals(config)
    assert trained == []
    comparison = result.comparison
    assert all(trial.outcome and not trial.outcome.broken for trial in result.history.succeeded)
    assert comparison.winner["learning_rate"] == 1e-3
    assert comparison.winner_outcome.guards["strings"].kept
    (passed,) = comparison.passed_over
    assert passed.config["learning_rate"] == 1.5e-3
    assert passed.outcome.broken == ("strings",)
    assert passed.outcome.value is not None
    assert comparison.winner_outcome.value is not None
    assert passed.outcome.value > comparison.winner_outcome.value
    assert read_outcome(config.output / "final" / "broken-1", passed.config) == passed.outcome
    report = (config.output / "report.md").read_text()
    assert "Passed over: rank 16, alpha 32, dropout 0, batch_size 8, learning_rate 1.5e-3 scored" in report
    found = verdict_json(config, result.space, result.finished, result.history, result.notices)
    assert found["passed_over"][0]["guards"]["strings"]["kept"] is False
    assert found["exit_code"] == 0
    # What is gone of the winner is made again, and nothing else.
    (config.output / "final" / "winner" / "adapter" / "adapter_model.safetensors").unlink()
    again, trained = finals(config)
    assert trained == ["training the next best settings on all 128 examples"]
    assert again.comparison.winner_outcome.value == comparison.winner_outcome.value
    assert again.comparison.passed_over == comparison.passed_over


def test_where_no_final_training_of_the_search_keeps_it_the_standard_settings_are_used(
    tmp_path: Path,
) -> None:
    guard = {"strings": {"data": "known.jsonl", "tolerance": 0.02, "items": 40}}
    standard = {"learning_rate": 1e-6}
    path = forgetting(tmp_path, 160, [1e-3, 1.5e-3], data=PART, guard=guard, standard=standard)
    config = load_config(path)
    result, trained = finals(config)
    assert len(trained) == 3
    comparison = result.comparison
    assert comparison.best == "standard"
    assert comparison.exit_code == 4
    assert comparison.winner["learning_rate"] == 1e-3  # it loses less
    assert [one.config["learning_rate"] for one in comparison.passed_over] == [1.5e-3]
    report = (config.output / "report.md").read_text()
    assert "So `best/` holds the standard settings, which keep what must not be lost." in report
    assert "None of" not in report
    again, trained = finals(config)
    assert trained == []
    assert again.comparison == comparison


def test_where_nothing_that_was_trained_on_all_data_keeps_it_the_verdict_says_so() -> None:
    lost = GuardReading("loss", -1.0, -2.0, -1.0, -1.1, -0.9, 0.1, 50)
    outcome = Outcome(-1.0, guards={"text": lost})
    knobs = {"rank": 8.0, "alpha": 16.0}
    comparison = Comparison(knobs, knobs, outcome, outcome, 0.1, 0.05, 0.2, 50, 40)
    failed = PassedOver(knobs, Outcome(None, failure=Failure(FailureKind.DIVERGED, "diverged")))
    comparison = replace(comparison, passed_over=(failed, PassedOver(knobs, outcome)))
    said = verdict(comparison, "loss")
    assert "Passed over: rank 8, alpha 16 failed in its final training (diverged)." in said
    assert "Passed over: rank 8, alpha 16 scored 1.0000 on test items and, trained on all data, loses" in said
    assert "None of the 3 configs that were trained on all data keeps it." in said
    assert comparison.exit_code == 4


def test_of_those_that_all_break_it_the_one_that_loses_the_least_is_brought_back(
    run_config: Callable[..., Path],
) -> None:
    config = load_config(run_config())
    lost = GuardReading("loss", -1.0, -2.0, -1.0, -1.1, -0.9, 0.1, 50)
    for rank in (1.0, 2.0):
        write_outcome(config.output / "final" / "winner", {"rank": rank}, Outcome(-rank, guards={"a": lost}))
        if rank == 1:
            set_aside(config, {"rank": rank})
    bring_back(config, {"rank": 1.0})
    bring_back(config, {"rank": 1.0})  # nothing to do
    final = config.output / "final"
    assert sorted(path.name for path in final.iterdir()) == ["broken-2", "winner"]
    assert read_outcome(final / "winner", {"rank": 1.0}) is not None
    assert read_outcome(final / "broken-2", {"rank": 2.0}) is not None


def test_where_nothing_keeps_it_the_least_loss_is_recommended_and_told_as_worse(tmp_path: Path) -> None:
    path = forgetting(tmp_path, 60, [3e-3, 1e-2], guard={"strings": {"data": "known.jsonl", "tolerance": 0}})
    result = tune(load_config(path))
    comparison = result.comparison
    assert comparison.guarded is not None
    assert comparison.guarded.kept == 0
    slack = {t.index: t.outcome.slack for t in result.history.succeeded if t.outcome}
    assert result.space.index(comparison.winner) == max(slack, key=lambda index: slack[index])
    assert comparison.exit_code == 4
    said = verdict(comparison, "loss", result.history)
    assert "Nothing is kept by any of the 2 configs that were tried" in said
    assert "strings is lost" in headline(comparison, "loss")


def test_a_file_of_plain_text_is_watched_by_its_loss(run_config: Callable[..., Path], tmp_path: Path) -> None:
    lines = ["abcd " * 4, "", *["dcba abc " * 3] * 30, "abcd" * 100]
    (tmp_path / "held out.txt").write_text("\n".join(lines))
    result = tune(load_config(run_config(guard="held out.txt", search={"trials": 1})))
    reading = result.comparison.winner_outcome.guards["held_out"]
    assert reading.items > 10  # of pieces that the model can read, whose half the trial has seen
    assert not [notice for notice in result.notices if notice.name == "guard_rows_dropped"]
    (tmp_path / "held out.txt").write_text("abcd")
    with pytest.raises(DataError, match=r"guard\.held_out: the guard split has one example"):
        tune(load_config(run_config(guard="held out.txt", search={"trials": 1}, output="other")))
    rows = [{"text": "abcd" * i} for i in range(1, 8)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = tune(load_config(run_config(guard="text.jsonl", search={"trials": 1}, output="third")))
    reading = result.comparison.winner_outcome.guards["text"]
    assert reading.metric == "loss"
    assert reading.allowed == pytest.approx(0.02 * abs(reading.base))


def test_bad_guards_are_refused_in_one_line(run_config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text('{"text": "abc"}\n' * 8)

    def refused(guard: Any, **changes: Any) -> str:
        with pytest.raises((ConfigError, DataError)) as error:
            tune(load_config(run_config(guard=guard, search={"trials": 1}, **changes)))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "tolerance is a number" in refused({"a": {"data": "g.jsonl", "tolerance": -1}})
    assert "each guard has a name" in refused({"data": "g.jsonl"})
    assert "a guard's name has letters" in refused({"a.b": {"data": "g.jsonl"}})
    assert "gone.jsonl does not exist" in refused({"a": {"data": "gone.jsonl"}})
    assert "guard.a.metric: exact_match needs rows with an answer" in refused(
        {"a": {"data": "g.jsonl", "metric": "exact_match"}}
    )
    (tmp_path / "answers.jsonl").write_text('{"prompt": "ab", "completion": "cdefgh"}\n' * 8)
    assert "guard.a.max_new_tokens: " in refused(
        {"a": {"data": "answers.jsonl", "metric": "exact_match", "max_new_tokens": 2}}
    )
    names = "{rank} {alpha_ratio} {dropout} {batch_size} {learning_rate}"
    own = {"command": f"true {names}", "direction": "maximize"}
    for guard in ({"a": {"data": "g.jsonl"}}, "g.jsonl", {"a": "g.jsonl"}):
        assert "a trainer of your own gives a number beside its result" in refused(guard, objective=own)
    assert "guard.a.direction: field required" in refused({"a": {"base": 1}}, objective=own)
    assert "unknown key 'guard.a.keys'; did you mean 'key'?" in refused({"a": {"keys": 1}}, objective=own)
    assert "unknown key 'guard.a.metrc'; did you mean 'metric'?" in refused({"a": {"metrc": 1}})


def test_a_guard_is_broken_beyond_noise_alone() -> None:
    def reading(change: float, half: float, allowed: float) -> GuardReading:
        return GuardReading("loss", -1.0, -1.0 + change, change, change - half, change + half, allowed, 50)

    assert reading(-0.1, 0.02, 0.05).kept is False
    assert reading(-0.1, 0.06, 0.05).kept is True  # the interval reaches what is allowed
    assert reading(-0.04, 0.01, 0.05).kept is True
    assert reading(-0.1, 0.02, 0.05).slack == pytest.approx(-0.03)
    assert reading(-0.1, 0.02, 0.05).relative_slack == pytest.approx(-0.6)


def test_a_guard_that_nothing_can_break_and_few_items_are_told_beforehand(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{'abcd'[i % 4]} =", "completion": "zzzz"} for i in range(40)]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    hard = {"data": "hard.jsonl", "metric": "exact_match", "tolerance": 0.03, "max_new_tokens": 5}
    config = load_config(run_config(guard={"hard": hard, "loss": "hard.jsonl"}, search={"trials": 1}))
    checked = {c.notice.name: c.text for c in examine(config) if c.notice and "guard" in c.notice.name}
    assert not (config.output / "guard").exists()
    told = {notice.name: notice.text for notice in tune(config).notices}
    for found in (checked, told):
        assert found["guard_cannot_break"].startswith(
            "guard hard: nothing can break it: the base model scores 0"
        )
        assert "3 points may be lost" in found["guard_cannot_break"]
        assert "20 items in trials and 20 in final trainings are few" in found["few_guard_items"]
    assert "nothing can break it" in (config.output / "report.md").read_text()
