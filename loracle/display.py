"""Live progress of a run on stderr: one line a finished trial and, on a terminal, bars below."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from loracle import escape
from loracle.events import Event, Noticed, PhaseStarted, Step, TrialFinished, TrialStarted
from loracle.report import show_config, show_score
from loracle.trial import Trial


class Display:
    """Shows events. Use as a context manager; `show` takes them one by one.

    On a terminal there is a bar for each trial that is running, or for the phase.
    """

    def __init__(self, metric: str, console: Console | None = None) -> None:
        self._metric = metric
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("[dim]{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bars: dict[int | None, TaskID] = {}  # by the number of the trial; None: the phase's
        self._left = ""

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case PhaseStarted(text=text, number=number):
                self._console.print(f"[bold]{text}[/]", highlight=False)
                for old in [bar for bar in self._bars if number is None or bar is None or bar >= 0]:
                    self._remove(old)
                self._add(number, text, visible=False)
            case Noticed(notice=notice):
                line = f"[yellow]note[/] {notice.about}: {escape.terminal(notice.text)}"
                self._console.print(line, highlight=False, soft_wrap=True, emoji=False)
            case TrialStarted(done=done, budget=budget, config=config, number=number):
                self._remove(None)
                self._add(number, f"trial {done + 1}/{budget}", f"{show_config(config)}{self._left}")
            case Step(done=done, total=total, loss=loss, number=number) if number in self._bars:
                bar = self._bars[number]
                self._progress.update(bar, completed=done, total=total or None, visible=True)
                if loss is not None:
                    self._progress.update(bar, loss=f"loss {loss:.3f}")
            case TrialFinished():
                self._remove(event.trial.number)
                self._finished(event)

    def _add(self, number: int | None, text: str, note: str = "", *, visible: bool = True) -> None:
        self._remove(number)
        self._bars[number] = self._progress.add_task(text, total=None, loss="", note=note, visible=visible)

    def _remove(self, number: int | None) -> None:
        if number in self._bars:
            self._progress.remove_task(self._bars.pop(number))

    def _finished(self, event: TrialFinished) -> None:
        self._left = f"  about {_duration(event.seconds_left)} left"
        outcome = event.trial.outcome
        assert outcome is not None
        is_best = event.best is not None and event.best.number == event.trial.number
        score = (
            str(outcome.failure.kind) if outcome.failure else show_score(outcome.value or 0.0, self._metric)
        )
        style = "red" if outcome.failure else "green" if is_best else ""
        self._console.print(
            f"{event.done:>4}/{event.budget}  [{style or 'default'}]{score:>13}[/]  "
            f"best {_score(event.best, self._metric)}  {outcome.seconds:5.1f} s  {show_config(event.config)}",
            highlight=False,
            soft_wrap=True,
        )


def _score(trial: Trial | None, metric: str) -> str:
    if trial is None or trial.outcome is None or trial.outcome.value is None:
        return "-"
    return show_score(trial.outcome.value, metric)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
