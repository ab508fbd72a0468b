from __future__ import annotations

import io

from rich.console import Console

from loracle.display import Display
from loracle.trial import Failure, FailureKind, Outcome, Trial
from loracle.tune import PhaseStarted, Step, TrialFinished, TrialStarted

CONFIG = {"rank": 8, "alpha_ratio": 2, "alpha": 16, "learning_rate": 2e-4}


def shown(terminal: bool) -> str:
    out = io.StringIO()
    first = Trial(0, 1, Outcome(0.5, seconds=3.0))
    failed = Trial(1, 2, Outcome(None, seconds=1.0, failure=Failure(FailureKind.DIVERGED, "NaN")))
    with Display("exact_match", Console(file=out, force_terminal=terminal, width=160)) as display:
        display.show(PhaseStarted("searching"))
        display.show(TrialStarted(0, 30, CONFIG))
        display.show(Step(3, 10, 1.25))
        display.show(TrialFinished(first, CONFIG, first, 1, 30, 87.0))
        display.show(TrialStarted(1, 30, CONFIG))
        display.show(TrialFinished(failed, CONFIG, first, 2, 30, 6000.0))
        display.show(TrialStarted(2, 30, CONFIG))
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


def test_a_terminal_shows_a_bar_with_the_time_left() -> None:
    text = shown(terminal=True)
    assert "trial 3/30" in text
    assert "about 1.7 h left" in text
