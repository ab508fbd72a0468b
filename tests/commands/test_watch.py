"""A run is followed from another terminal by what it tells in its folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Loracle
from rich.console import Console

from loracle.commands.terminal.display import Display
from loracle.config.loading import load_config
from loracle.errors import StudyError
from loracle.records.events import (
    Believed,
    Event,
    Expected,
    RunEnded,
    Span,
    Step,
    TrialFinished,
    TrialStarted,
)
from loracle.records.trial import Failure, FailureKind, Outcome, Trial
from loracle.run.storage.event_file import follow, recorded, wait_until_told
from loracle.run.storage.lock import run_lock
from loracle.run.tune import tune

CONFIG = {"rank": 8, "alpha": 16}


def test_what_is_told_in_a_run_is_what_watch_shows(
    run_config: Callable[..., Path], loracle: Loracle, tmp_path: Path
) -> None:
    told: list[Event] = []
    tune(load_config(run_config()), told.append)
    seen = [one.event for one in follow(tmp_path / "run")]
    assert [event for event in seen if not isinstance(event, Step)] == [
        event for event in told if not isinstance(event, Step)
    ]
    assert sum(isinstance(event, TrialFinished) for event in seen) == 5
    first, *later = [event.believed for event in seen if isinstance(event, TrialStarted)]
    assert first is None  # nothing has been measured
    assert all(one is not None and one.low <= one.value <= one.high <= 0 for one in later)  # losses
    code, out, errors = loracle("watch", tmp_path / "run")
    assert code == 0
    assert len(re.findall(r"^ +\d/5 ", errors, flags=re.MULTILINE)) == 5
    assert out.strip() == loracle("verdict", tmp_path / "run")[1].strip()


def test_a_run_is_followed_while_it_goes_on_and_said_to_be_gone_when_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from loracle.records.events import *\n"
        "from loracle.run.storage.event_file import recorded\n"
        "from loracle.run.storage.lock import run_lock\n"
        "folder = Path(sys.argv[1])\n"
        "with run_lock(folder), recorded(folder, lambda event: None) as tell:\n"
        "    tell(TrialStarted(0, 3, {'rank': 8}, 0))\n    print('told', flush=True)\n    time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "told\n"
        waited = 0

        def wait(seconds: float) -> None:
            nonlocal waited
            waited += 1
            if waited == 3:
                os.kill(run.pid, signal.SIGKILL)
                run.wait()

        seen = [one.event for one in follow(tmp_path, wait)]
    finally:
        run.kill()
        run.communicate()
    assert waited >= 3
    assert seen[0] == TrialStarted(0, 3, {"rank": 8}, 0)
    assert isinstance(seen[-1], RunEnded)
    assert "the same loracle tune goes on" in seen[-1].text


def test_a_run_that_has_just_begun_is_waited_for(tmp_path: Path) -> None:
    with run_lock(tmp_path), contextlib.ExitStack() as begun:
        waited = []

        def go_on(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 2:
                begun.enter_context(recorded(tmp_path, lambda event: None))
            if len(waited) == 4:
                (tmp_path / "config.yaml").touch()

        wait_until_told(tmp_path, go_on)
    assert len(waited) == 4


def test_a_folder_that_nobody_works_in_is_not_waited_for(tmp_path: Path, loracle: Loracle) -> None:
    code, _, errors = loracle("watch", tmp_path)
    assert code == 2
    assert "not a run folder" in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_run_that_another_process_takes_over_is_followed_on(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        first, second = contextlib.ExitStack(), contextlib.ExitStack()
        tell = first.enter_context(recorded(tmp_path, lambda event: None))
        tell(TrialStarted(0, 3, CONFIG, 0))

        def go_on(seconds: float) -> None:
            first.close()
            tell = second.enter_context(recorded(tmp_path, lambda event: None))
            tell(TrialStarted(1, 3, CONFIG, 1))
            tell(RunEnded("done"))

        seen = [one.event for one in follow(tmp_path, go_on)]
        second.close()
    assert seen == [TrialStarted(0, 3, CONFIG, 0), TrialStarted(1, 3, CONFIG, 1), RunEnded("done")]


def test_steps_are_thinned_out_and_lines_of_other_versions_left_out(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with recorded(tmp_path, lambda event: None) as tell:
            for step in range(1000):
                tell(Step(step, 1000, 1.0, 4))
        with (tmp_path / ".events.jsonl").open("a") as file:
            file.write(json.dumps({"at": 1.0, "event": "Unheard", "x": 1}) + "\n")
            file.write("not json\n" + json.dumps({"at": 2.0, "event": "RunEnded", "text": "x"}) + "\n")
        seen = [one.event for one in follow(tmp_path)]
    assert 1 <= len(seen) < 20
    assert seen[-1] == RunEnded("x")


def test_an_error_ends_the_run_for_those_who_watch(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(StudyError), recorded(tmp_path, lambda event: None):
        raise StudyError("no\nroom")
    with run_lock(tmp_path):
        (last,) = follow(tmp_path)
    assert last.event == RunEnded("no room", failed=True)


def test_a_folder_in_which_nobody_told_anything_is_one_line(said: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: m\ndata: {train: t.jsonl}\n")
    assert "loracle show lists its trials" in said("watch", tmp_path, refused=True)


@pytest.mark.parametrize("width", [80, 140])
def test_what_is_best_what_it_took_and_what_failed_stands_below_the_bars(width: int) -> None:
    best = Trial(0, 5, Outcome(0.5, seconds=90.0))
    failed = Trial(
        1, 2, Outcome(None, seconds=30.0, failure=Failure(FailureKind.CRASHED, "b[/x] \x1b[2J " * 30))
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Display("exact_match", console) as display:
        whole = Span(500.0, 600.0, 700.0)
        display.show(Expected(30, 30, 1, 2, whole=whole, cost_per_hour=2.0, trainings=3.21))
        display.show(TrialFinished(best, CONFIG, best, 1, 30, whole, 0.1))
        display.show(TrialFinished(failed, CONFIG, best, 2, 30, Span(400.0, 450.0, 600.0), 0.1432))
        display.show(TrialStarted(2, 30, CONFIG, 2, Believed(0.6, 0.41, 0.8)), at=0.0)
        below = Console(file=io.StringIO(), record=True, width=width)
        below.print(display.bars)
    bar, *lines = below.export_text().splitlines()
    assert re.search(r"\d+ days", bar)  # since it began, not since it was looked at
    assert [line.split()[0] for line in lines] == ["best", "expect", "time", "cost", "failed"]
    assert "50.0 %, trial 0: rank 8, alpha 16" in lines[0]
    assert "2 min of trials (0.07), 7 to 10 min left (about 0.25)" in lines[2]
    assert lines[1].split(maxsplit=1)[1] == "60.0 % (41.0 to 80.0) of trial 2"
    assert lines[3].split(maxsplit=1)[1] == "0.143 full trainings, of about 3.2"
    assert "1 of 2; trial 1, crashed: b[/x] \\x1b[2J" in lines[4]
    assert max(map(len, lines)) <= width


def test_two_trials_at_a_time_share_the_price_of_an_hour() -> None:
    done = Trial(0, 5, Outcome(0.5, seconds=3600.0))
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    with Display("exact_match", console) as display:
        display.show(Expected(30, 30, 2, 2, whole=Span(500.0, 600.0, 700.0), cost_per_hour=4.0))
        display.show(TrialFinished(done, CONFIG, done, 1, 30, Span(500.0, 600.0, 700.0)))
        below = Console(file=io.StringIO(), record=True, width=140)
        below.print(display.bars)
    assert "60 min of trials (2.00)" in below.export_text()


def test_watch_of_a_run_that_failed_ends_with_its_exit_code(loracle: Loracle, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def train(config):\n    return float('nan')\n")
    (tmp_path / "loracle.yaml").write_text(
        "objective: {function: 'mine.py:train', direction: minimize}\nsearch: {trials: 2}\n"
        "execution: {workers: 0}\noutput: run\n"
    )
    code, _, errors = loracle("tune", tmp_path / "loracle.yaml")
    said = "no trial has succeeded, so there is nothing to recommend: 2 diverged, the last one with: "
    assert (code, said in errors) == (2, True)
    assert "give the space lower learning rates, or mend the trainer or its data" in errors
    code, out, _ = loracle("watch", tmp_path / "run")
    assert (code, said in out) == (2, True)
    code, _, errors = loracle("verdict", tmp_path / "run")
    assert (code, said in errors) == (2, True)
    assert loracle("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "All 2 trials are done.</p>" in page
    assert "more search.trials" in page


def test_who_tries_one_trial_first_and_corrects_the_trainer_loses_no_config(
    loracle: Loracle, tmp_path: Path
) -> None:
    """As the page on trainers of your own advises; a crash says nothing about its config."""
    config = tmp_path / "loracle.yaml"
    text = (
        "objective: {function: 'mine.py:train', direction: minimize}\nsearch: {trials: 4}\n"
        "execution: {workers: 0}\noutput: run\n"
    )
    config.write_text(text)
    (tmp_path / "mine.py").write_text("def train(config):\n    return missing\n")
    for _ in range(2):
        code, _, errors = loracle("tune", config, "--trials", "1")
        assert code == 2
        assert "name 'missing' is not defined" in errors
        assert "Once it is mended, the same loracle tune runs them again" in errors
    (tmp_path / "mine.py").write_text("def train(config):\n    return config['learning_rate']\n")
    assert loracle("tune", config)[0] == 0
    trials = json.loads(loracle("show", tmp_path / "run", "--json")[1])["trials"]
    succeeded = [trial["config"] for trial in trials if trial["score"] is not None]
    assert len(succeeded) == 4
    assert trials[0]["score"] is None
    assert succeeded[0] == trials[0]["config"]  # the usual settings, with which every search begins
