"""Runs whose trials train together: what they find, what they say, and what happens to them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed_runs import killed

from loracle.config.loading import load_config
from loracle.errors import ConfigError, StudyError
from loracle.records.events import Event, Noticed, Step, TrialStarted
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.records.trial_files import write_attempt
from loracle.run.checks import examine
from loracle.run.folder import open_run
from loracle.run.search import Search, run_preset, search_space
from loracle.run.search_notices import alone_notices
from loracle.run.storage.opening import begun_with, open_study, read_history
from loracle.run.storage.study import Study
from loracle.run.tune import tune
from loracle.training.memory.plan import MemoryModel

WriteRun = Callable[..., Path]
THREE = {"workers": 0, "trials_together": 3}


@pytest.fixture
def run_of_seven(run_config: WriteRun) -> WriteRun:
    def write(**changes: Any) -> Path:
        return run_config(**{"search": {"trials": 7, "seed": 3}, "execution": THREE} | changes)

    return write


def trials(folder: Path) -> tuple[Trial, ...]:
    config, space = open_run(folder)
    return read_history(folder, space, config.execution.storage).counted


def study_of(path: Path) -> Study:
    config = load_config(path)
    return open_study(config.output, search_space(config, 24))  # examples of a trial


_UNDISTURBED: list[Path] = []


@pytest.fixture
def undisturbed(run_of_seven: WriteRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happens to; made once."""
    if not _UNDISTURBED:
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        tune(load_config(run_of_seven(output=str(folder))))
        _UNDISTURBED.append(folder)
    return _UNDISTURBED[0]


def shown(folder: Path) -> list[Any]:
    """What counts, to the bit, in order."""
    return [
        (trial.index, trial.outcome.value, trial.outcome.curve, trial.outcome.metrics.get("together"))
        for trial in trials(folder)
        if trial.outcome
    ]


def test_trials_train_together_and_are_chosen_together(run_of_seven: WriteRun) -> None:
    events: list[Event] = []
    path = run_of_seven()
    result = tune(load_config(path), events.append)
    found = result.history.counted
    assert len({trial.index for trial in found}) == len(found) == 7
    assert [trial.outcome and trial.outcome.metrics.get("together") for trial in found] == [3] * 6 + [None]
    groups = [tuple(trial.index for trial in found[i : i + 3]) for i in (0, 3)]
    assert [trial.together for trial in found] == [groups[0]] * 3 + [groups[1]] * 3 + [()]
    started = [event for event in events if isinstance(event, TrialStarted)]
    assert [event.done for event in started] == list(range(7))
    assert {event.number for event in events if isinstance(event, Step) and event.number is not None} >= set(
        range(7)
    )
    assert not [event for event in events if isinstance(event, Noticed) and "one at a time" in str(event)]
    # The search is that of three workers, to the config.
    assert [trial.index for trial in found] == _alone_three_at_a_time(path)


def _alone_three_at_a_time(path: Path) -> list[int]:
    """Configs of the same search where three trials are chosen at once and trained one after the other."""
    config = load_config(path)
    done, contents = trials(config.output), begun_with(config.output, None)
    search = Search(search_space(config, 24), run_preset(config, contents), None, config.search.seed)
    found: list[int] = []
    while len(found) < 7:
        ended, begun = done[: len(found)], []
        for number in range(len(found), min(7, len(found) + 3)):
            index = search.next(History((*ended, *begun)))
            assert index is not None
            begun.append(Trial(number, index))
        found += [trial.index for trial in begun]
    return found


@pytest.mark.parametrize(
    ("event", "part"),
    [
        pytest.param("TrialStarted", "number=0", marks=pytest.mark.slow),
        ("Step", "number=4"),
        ("TrialFinished", "number=3"),
        pytest.param("TrialFinished", "number=5", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_in_a_group_goes_on_as_if_it_had_not_been(
    run_of_seven: WriteRun, undisturbed: Path, tmp_path: Path, event: str, part: str
) -> None:
    path = run_of_seven()
    killed(path, event, part)
    tune(load_config(path))
    assert shown(tmp_path / "run") == shown(undisturbed)
    assert len(shown(tmp_path / "run")) == 7


def test_a_group_that_had_not_begun_as_a_whole_begins_as_a_whole(
    run_of_seven: WriteRun, undisturbed: Path, tmp_path: Path
) -> None:
    path = run_of_seven()
    killed(path, "TrialFinished", "number=2")
    second = trials(undisturbed)[3].together
    with study_of(path) as study:
        study.claim(second[0], 7, second)  # and then its process died
    tune(load_config(path))
    assert shown(tmp_path / "run") == shown(undisturbed)


@pytest.mark.slow
def test_another_number_of_trials_together_is_no_other_run(run_of_seven: WriteRun, tmp_path: Path) -> None:
    killed(run_of_seven(), "TrialFinished", "number=4")
    result = tune(load_config(run_of_seven(execution={"workers": 0})))
    together = [trial.outcome and trial.outcome.metrics.get("together") for trial in result.history.counted]
    assert together == [3] * 6 + [None]  # what was left of the group was trained as it had begun
    assert len(result.history.counted) == 7


def test_a_worker_that_dies_in_a_group_costs_an_attempt_and_no_trial(
    run_of_seven: WriteRun, undisturbed: Path, tmp_path: Path
) -> None:
    path = run_of_seven(execution={"workers": 1, "trials_together": 3})
    told: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Step) and event.number == 4 and not told:
            told.append(event.number)
            for pid in _workers():
                os.kill(pid, signal.SIGKILL)

    tune(load_config(path), kill)
    assert told
    found, expected = trials(tmp_path / "run"), trials(undisturbed)
    attempts = [trial.outcome.metrics.get("attempts") for trial in found if trial.outcome]
    assert attempts == [None] * 3 + [2.0] * 3 + [None]
    for mine, own in zip(found[:6], expected[:6], strict=True):
        assert mine.index == own.index
        assert mine.outcome is not None
        assert own.outcome is not None
        assert mine.outcome.value == pytest.approx(own.outcome.value, rel=1e-5)
    kept = tmp_path / "run" / "trials" / "0004" / "attempt-1.json"
    assert "killed (signal 9)" in kept.read_text()


def _workers() -> list[int]:
    import psutil

    below = psutil.Process().children(recursive=True)
    return [process.pid for process in below if "worker.py" in " ".join(process.cmdline())]


def test_several_workers_have_a_group_each(run_of_seven: WriteRun, tmp_path: Path) -> None:
    running: set[int] = set()
    most = 0

    def watch(event: Event) -> None:
        nonlocal most
        if isinstance(event, TrialStarted):
            assert event.number is not None
            running.add(event.number)
            most = max(most, len(running))
        elif type(event).__name__ == "TrialFinished":
            running.discard(event.trial.number)  # type: ignore[union-attr]

    execution = {"workers": 2, "trials_together": 2}
    result = tune(load_config(run_of_seven(execution=execution)), watch)
    assert len(result.history.counted) == 7
    assert most == 4
    sizes = [trial.outcome.metrics.get("together") for trial in result.history.counted if trial.outcome]
    assert sizes.count(2) == 6


def test_with_a_budget_the_first_trial_says_what_the_next_cost(run_of_seven: WriteRun) -> None:
    search = {"trials": 7, "seed": 3, "budget": 2.0}
    result = tune(load_config(run_of_seven(search=search, data={"trial_cost": 0.4})))
    together = [trial.outcome and trial.outcome.metrics.get("together") for trial in result.history.counted]
    assert together[0] is None
    assert set(together[1:]) <= {2, 3, None}
    assert 3 <= len(together) <= 5
    assert "search.budget" in result.stopped


def test_auto_measures_once_and_is_kept(run_of_seven: WriteRun, tmp_path: Path) -> None:
    path = run_of_seven(execution={"workers": 0, "trials_together": "auto"})
    killed(path, "TrialFinished", "number=1")
    with study_of(path) as study:
        width = study.together
    assert width in (1, 2, 4, 8)
    told: list[Event] = []
    result = tune(load_config(path), told.append)
    sizes = [trial.outcome.metrics.get("together", 1.0) for trial in result.history.counted if trial.outcome]
    assert sizes[0] == min(width, 7)


def test_what_cannot_train_together_is_chosen_one_at_a_time(run_of_seven: WriteRun) -> None:
    told: list[Event] = []
    training = {"early_stopping": {"patience": 3}}
    result = tune(load_config(run_of_seven(search={"trials": 4, "seed": 3}, training=training)), told.append)
    notices = [event.notice for event in told if isinstance(event, Noticed)]
    (alone,) = [notice for notice in notices if notice.name == "trials_alone"]
    assert alone.text == (
        "execution.trials_together: 3: trials train one at a time: early_stopping ends each training at a "
        "moment of its own"
    )
    assert [trial.together for trial in result.history.counted] == [()] * 4
    assert "trained_alone" not in {notice.name for notice in result.notices}


def test_trials_that_trained_alone_after_all_are_counted(
    run_of_seven: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryModel, "micro_batch_of_all", lambda self, configs: None)  # little memory
    result = tune(load_config(run_of_seven(search={"trials": 4, "seed": 3})))
    (notice,) = [notice for notice in result.notices if notice.name == "trained_alone"]
    assert notice.text == (
        "3 of 3 trials that were to train together trained alone, which takes longer: 3 as they do not fit "
        "into memory together"
    )
    assert (notice.about, notice.count) == ("search", 3)


def test_what_trains_apart_in_a_group_is_told_before_and_counted_to_the_end(run_of_seven: WriteRun) -> None:
    space = {
        "base": "empty",
        "knobs": {
            "rank": [2, 4],
            "alpha_ratio": 2,
            "dropout": 0,
            "batch_size": 4,
            "learning_rate": [1e-3, 1e-2],
            "variant": ["lora", "rslora", "dora"],
        },
    }
    config = load_config(run_of_seven(search={"trials": 7, "seed": 3}, space=space))
    noted = [check.notice for check in examine(config) if check.notice]
    events: list[Event] = []
    result = tune(config, events.append)
    begins = next(place for place, event in enumerate(events) if isinstance(event, TrialStarted))
    before = [event.notice for event in events[:begins] if isinstance(event, Noticed)]
    for said in (noted, before):
        texts = {notice.name: notice.text for notice in said}
        assert texts["trials_together"] == (
            "up to 3 trials train together, in one forward pass (execution.trials_together)"
        )
        assert texts["trials_apart"] == (
            "execution.trials_together: only trials with the same variant train together; trials with "
            "variant dora train alone, which takes longer"
        )
    (last,) = [notice for notice in result.notices if notice.name == "trained_alone"]
    told = [event.notice for event in events if isinstance(event, Noticed) and event.notice.name == last.name]
    assert told[-1] == last  # so whoever follows has the count of the end
    reasons = ("no other of its group has its settings", "variant dora; only lora and rslora train together")
    assert any(reason in last.text for reason in reasons)
    grouped = [trial.outcome.metrics for trial in trials(result.folder) if trial.together and trial.outcome]
    assert last.count == sum("together" not in metrics for metrics in grouped)
    assert last.text.startswith(f"{last.count} of {len(grouped)} trials that were to train together ")


def test_of_a_group_that_was_given_up_the_reason_is_told(tmp_path: Path) -> None:
    late = Failure(FailureKind.TIMEOUT, "took longer than execution.time_limit, 9 s for each of the 2")
    found = []
    for number in range(2):
        write_attempt(tmp_path / "trials" / f"{number:04d}", 1, {}, Outcome(None, failure=late))
        found.append(Trial(number, number, Outcome(0.5), together=(0, 1)))
    (one,) = alone_notices(History(tuple(found[:1])), tmp_path)
    assert one.text.startswith(
        "1 trial that was to train together trained alone, which takes longer: 1 as the"
    )
    (both,) = alone_notices(History(tuple(found)), tmp_path)
    assert both.text == (
        "2 of 2 trials that were to train together trained alone, which takes longer: 2 as the group took "
        "longer than execution.time_limit, 9 s for each of the 2"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"executor": "ray"}, "a worker on a Ray cluster trains one trial at a time"),
        ({"processes_per_trial": 2, "workers": 1}, "2 processes share each trial"),
        ({"trials_together": 9}, "trials_together"),
        ({"trials_together": "all"}, "trials_together"),
    ],
)
def test_what_cannot_train_together_is_refused(
    run_config: WriteRun, changes: dict[str, Any], says: str
) -> None:
    execution = {"workers": 1, "trials_together": 2} | changes
    with pytest.raises(ConfigError, match=says):
        tune(load_config(run_config(execution=execution)))


def test_a_damaged_group_in_a_journal_is_told(run_of_seven: WriteRun, tmp_path: Path) -> None:
    path = run_of_seven()
    killed(path, "TrialFinished", "number=4")
    journal = tmp_path / "run" / "journal.log"
    shutil.copy(journal, tmp_path / "kept")
    text = journal.read_text()
    assert '"loracle:together":[' in text
    journal.write_text(text.replace('"loracle:together":[', '"loracle:together":[-4,'))
    with pytest.raises(StudyError, match="damaged or was written by another program"):
        tune(load_config(path))
