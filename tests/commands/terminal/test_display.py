from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from loracle.commands.terminal.display import Display
from loracle.records.events import (
    Expected,
    Noticed,
    PhaseEnded,
    PhaseStarted,
    Span,
    Step,
    TrialFinished,
    TrialStarted,
)
from loracle.records.notices import Notice
from loracle.records.trial import Failure, FailureKind, GuardReading, Outcome, Trial

CONFIG = {"rank": 8, "alpha_ratio": 2, "alpha": 16, "learning_rate": 2e-4}


def shown(terminal: bool) -> str:
    out = io.StringIO()
    first = Trial(0, 1, Outcome(0.5, seconds=3.0))
    failed = Trial(1, 2, Outcome(None, seconds=1.0, failure=Failure(FailureKind.DIVERGED, "NaN")))
    with Display("exact_match", Console(file=out, force_terminal=terminal, width=160)) as display:
        display.show(PhaseStarted("searching"))
        display.show(TrialStarted(0, 30, CONFIG, 0))
        display.show(Step(3, 10, 1.25, 0))
        display.show(TrialFinished(first, CONFIG, first, 1, 30, Span(70.0, 80.0, 87.0)))
        display.show(TrialStarted(1, 30, CONFIG, 1))
        display.show(TrialFinished(failed, CONFIG, first, 2, 30, Span(4000.0, 6000.0, 8000.0)))
        display.show(TrialStarted(2, 30, CONFIG, 2))
    return out.getvalue()


def test_plain_output_is_one_line_a_trial() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "searching"
    assert "1/30" in lines[1]
    assert "50.0 %" in lines[1]
    assert "rank 8, alpha 16, learning_rate 2e-4" in lines[1]
    assert "diverged" in lines[2]
    assert "best 50.0 %" in lines[2]
    assert len(lines) == 3


def test_a_trial_that_loses_a_guard_says_so_beside_its_score() -> None:
    def trial(number: int, change: float) -> Trial:
        reading = GuardReading("loss", -1.0, -1.0 + change, change, change, change, 0.1, 50)
        return Trial(number, number, Outcome(0.5 - change, seconds=3.0, guards={"text": reading}))

    out = io.StringIO()
    kept, lost = trial(0, 0.0), trial(1, -0.3)
    with Display(
        "exact_match", Console(file=out, force_terminal=True, width=80, color_system=None)
    ) as display:
        display.show(TrialFinished(kept, CONFIG, kept, 1, 30, None))
        display.show(TrialFinished(lost, CONFIG, kept, 2, 30, None))
        assert not any("loses" in line for line in bars_of(display, 80))
        display.show(TrialFinished(lost, CONFIG, lost, 2, 30, None))
        assert any("80.0 %, trial 1, loses text" in line for line in bars_of(display, 80))
    said = [line for line in out.getvalue().splitlines() if "/30" in line]
    assert "loses" not in said[0]
    assert re.search(r"2/30 +trial 1 +80.0 % +best 50.0 % +3.0 s  loses text", said[1])


def test_the_recommended_trial_is_told_where_it_is_not_that_of_the_best_score() -> None:
    out = io.StringIO()
    lucky, sound = Trial(0, 1, Outcome(0.9, seconds=3.0)), Trial(1, 2, Outcome(0.8, seconds=3.0))
    with Display(
        "exact_match", Console(file=out, force_terminal=True, width=120, color_system=None)
    ) as display:
        display.show(TrialFinished(lucky, CONFIG, lucky, 1, 30, None, recommended=lucky))
        assert [line.split()[0] for line in bars_of(display, 120)].count("use") == 0
        display.show(TrialFinished(sound, CONFIG, lucky, 2, 30, None, recommended=sound))
        best, use = (line for line in bars_of(display, 120) if line.startswith(("best", "use")))
    assert "90.0 %, trial 0: rank 8" in best
    assert "80.0 %, trial 1, recommended by all trials: rank 8" in use
    assert "(recommended" not in out.getvalue()  # there it stands below the bars
    log = io.StringIO()
    with Display("exact_match", Console(file=log, width=200)) as display:
        display.show(TrialFinished(lucky, CONFIG, lucky, 1, 30, None, recommended=lucky))
        display.show(TrialFinished(sound, CONFIG, lucky, 2, 30, None, recommended=sound))
    said = [line for line in log.getvalue().splitlines() if "/30" in line]
    assert "recommended" not in said[0]
    assert re.search(r"2/30 +trial 1 +80.0 % +best 90.0 % +3.0 s .*\(recommended: trial 1\)$", said[1])


def test_how_long_a_run_takes_is_said_before_its_first_trial() -> None:
    out = io.StringIO()
    with Display("loss", Console(file=out, force_terminal=True, width=80, color_system=None)) as display:
        minutes = Span(1300.0, 1500.0, 2100.0)
        display.show(Expected(30, 30, 1, 2, Span(30.0, 40.0, 50.0), Span(90.0, 120.0, 150.0), minutes))
        display.show(TrialStarted(0, 30, CONFIG, 0))
        display.show(Step(1234, 5678, 1.25, 0))
        bar, line = bars_of(display, 80)
        assert "loss 1.250" in bar
        assert line == "time    22 to 35 min left"
    said = "30 trials of about 40 s, then 2 final trainings of about 2 min: 22 to 35 min in all"
    assert said in out.getvalue()


def test_a_terminal_shows_a_bar_with_the_time_left() -> None:
    text = shown(terminal=True)
    assert "trial 2 (3/30)" in text
    assert "1.1 to 2.2 h left" in text


def test_trials_that_run_at_the_same_time_have_a_bar_each() -> None:
    out = io.StringIO()
    with Display("loss", Console(file=out, force_terminal=True, width=160)) as display:
        display.show(PhaseStarted("searching"))
        for number in (7, 8):
            display.show(TrialStarted(number, 30, CONFIG, number))
        display.show(Step(3, 10, 1.25, 8))
        display.show(Step(4, 10, 2.5, 7))
        both = display.bars
        text = Console(file=io.StringIO(), record=True, width=160)
        text.print(both)
        lines = text.export_text().splitlines()
        assert ["trial 7 (8/30)" in lines[0], "4/10" in lines[0], "loss 2.500" in lines[0]] == [True] * 3
        assert ["trial 8 (9/30)" in lines[1], "3/10" in lines[1], "loss 1.250" in lines[1]] == [True] * 3
        display.show(PhaseStarted("training the winner", -1))
        display.show(PhaseStarted("training the standard settings", -2))
        display.show(Step(5, 10, 0.5, -2))
        display.show(Step(6, 10, 0.25, -1))
        text.print(display.bars)
        shown = text.export_text()
    assert "trial" not in shown.split("training", 1)[1]
    assert "training the winner" in shown
    assert "training the standard settings" in shown


def bars_of(display: Display, width: int) -> list[str]:
    text = Console(file=io.StringIO(), record=True, width=width)
    text.print(display.bars)
    return text.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 140])
def test_every_part_has_a_bar_that_fits(width: int) -> None:
    out = io.StringIO()
    with Display("loss", Console(file=out, force_terminal=True, width=width, color_system=None)) as display:
        display.show(PhaseStarted("reading data and model"))
        (loading,) = bars_of(display, width)
        assert loading.startswith("reading data and model")
        assert loading.rstrip().endswith("0:00:00")
        display.show(TrialStarted(29, 30, CONFIG, 0))
        (line,) = bars_of(display, width)
        assert "trial 0 (30/30)" in line
        assert "starting" in line
        display.show(Step(3, 10, 1.25, 0))
        (line,) = bars_of(display, width)
        assert "3/10 loss 1.250" in line
        display.show(Step(120, 5000, None, 0, "scoring"))
        (line,) = bars_of(display, width)
        assert "120/5000 scoring" in line
        display.show(Step(12, 5000, None, 0, "writing"))
        assert "12/5000 writing" in bars_of(display, width)[0]
        titles = (
            "training the winner on all 2,000,000 examples",
            "training the standard settings on all 2,000",
        )
        for number, title in zip((-1, -2), titles, strict=True):
            display.show(PhaseStarted(title, number))
            display.show(Step(12345, 123456, 12345.678, number))
        lines = bars_of(display, width)
        assert ["12345/123456" in line for line in lines] == [True, True]
        assert ["loss 12345.678" in line for line in lines] == [True, True]
        assert max(map(len, lines)) <= width
        assert not any("\N{HORIZONTAL ELLIPSIS}" in line[30:] for line in lines)  # no number is cut
        display.show(PhaseEnded(-1))
        (line,) = bars_of(display, width)
        assert "training the standard" in line


@pytest.mark.parametrize("width", [80, 140])
def test_lines_fit_the_terminal(width: int) -> None:
    out = io.StringIO()
    config = {"rank": 128, "alpha_ratio": 32, "alpha": 4096, "dropout": 0.05, "batch_size": 128} | CONFIG
    trial = Trial(0, 1, Outcome(0.5, seconds=300.0))
    with Display(
        "exact_match", Console(file=out, force_terminal=True, width=width, color_system=None)
    ) as display:
        display.show(TrialFinished(trial, config, trial, 1, 30, Span(70.0, 80.0, 87.0)))
        display.show(TrialStarted(1, 30, config, 1))
        display.show(Step(3, 10, 1.25, 1))
        bars = Console(file=io.StringIO(), record=True, width=width)
        bars.print(display.bars)
        shown = bars.export_text().splitlines()
    text = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", out.getvalue())
    lines = [line for line in text.splitlines() if "50.0 %" in line or "learning_rate" in line]
    assert max(map(len, lines + shown)) <= width
    assert "trial 1 (2/30)" in shown[0]
    assert "loss 1.250" in shown[0]
    assert shown[-1] == "time    5 min of trials, 70 to 87 s left"
    best = " ".join(shown[1:-1])  # in two lines where one has no room for it
    assert len(shown) == (4 if width == 80 else 3)
    assert "50.0 %, trial 0" in best
    assert not best.endswith("\N{HORIZONTAL ELLIPSIS}")


def test_hostile_names_are_text() -> None:
    out = io.StringIO()
    with Display("loss", Console(file=out, force_terminal=True, width=200, color_system=None)) as display:
        display.show(PhaseStarted("reading 3 prompts (v1, [/x] [bold]b \x1b[2J)"))
        display.show(Noticed(Notice("data", "odd", "rows of [/x] :smile:")))
        display.show(TrialStarted(0, 3, {"λ": 1}, 0))
        display.show(Step(1, 2, 1e300, 0))
    text = out.getvalue()
    assert "reading 3 prompts (v1, [/x] [bold]b \\x1b[2J)" in text
    assert "rows of [/x] :smile:" in text
    assert "\x1b[2J" not in text
