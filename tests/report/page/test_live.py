"""The page of a run that goes on."""

from __future__ import annotations

from pathlib import Path

from reported_runs import Made, made

from loracle.records.events import Event, Noticed, TrialFinished, TrialStarted
from loracle.report.page.live import LivePage
from loracle.report.verdict.stored import Finished


def finished(run: Made) -> TrialFinished:
    return TrialFinished(run.history.trials[-1], {}, None, 1, 30, None)


class Clock:
    """Seconds that a page takes `each` of."""

    def __init__(self, each: float) -> None:
        self.now, self.each = 0.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now


def test_a_page_is_written_when_a_trial_ends_and_everything_is_told_on(tmp_path: Path) -> None:
    run, told = made(tmp_path, n=3, finished=False), list[Event]()
    live = LivePage(run.subject, lambda: run.history, (), told.append)
    live(TrialStarted(0, 30, {}, 0))
    assert not (tmp_path / "report.html").exists()
    live(finished(run))
    assert "3 of 30 trials are done" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [type(event) for event in told] == [TrialStarted, TrialFinished]


def test_a_page_that_takes_long_is_written_seldom(tmp_path: Path) -> None:
    run, asked, clock = made(tmp_path, n=3, finished=False), list[int](), Clock(each=1.0)

    def history() -> object:
        asked.append(1)
        return run.history

    live = LivePage(run.subject, history, (), lambda event: None, clock)  # type: ignore[arg-type]
    for _ in range(20):
        live(finished(run))
    assert len(asked) == 1  # a page a second of work: 50 seconds go by before the next
    clock.now += 50
    live(finished(run))
    assert len(asked) == 2


def test_a_page_that_cannot_be_written_is_told_of_and_stops_nothing(tmp_path: Path) -> None:
    run, told = made(tmp_path, n=3), list[Event]()
    (tmp_path / "report.html").mkdir()
    live = LivePage(run.subject, lambda: run.history, (), told.append)
    live(finished(run))
    live(finished(run))
    assert run.comparison is not None
    assert not live.finish(run.history, Finished(run.comparison, "done", 3), ())
    assert not list(tmp_path.glob("*.partial"))
    (tmp_path / "report.html").rmdir()
    assert live.finish(run.history, Finished(run.comparison, "done", 3), ())
    notices = [event.notice for event in told if isinstance(event, Noticed)]
    assert {notice.name for notice in notices} == {"page_not_written"}
    assert "loracle report" in notices[0].text
