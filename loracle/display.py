"""Live progress of a run on stderr: one line a finished trial and a bar below on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loracle.report import show_config, show_score
from loracle.trial import Trial
from loracle.tune import Event, PhaseStarted, Step, TrialFinished, TrialStarted


class Display:
    """Shows events. Use as a context manager; `show` takes them one by one."""

    def __init__(self, metric: str, console: Console | None = None) -> None:
        self._metric = metric
        self._console = console or Console(stderr=True)
        self._bar = Progress(
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
        self._task = self._bar.add_task("starting", total=None, loss="", note="", visible=False)
        self._left = ""

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case PhaseStarted(text=text):
                self._console.print(f"[bold]{text}[/]", highlight=False)
                self._bar.reset(self._task, description=text, total=None, loss="", note="", visible=False)
            case TrialStarted(number=number, budget=budget, config=config):
                label = f"trial {number + 1}/{budget}"
                note = f"{show_config(config)}{self._left}"
                self._bar.reset(self._task, description=label, total=None, loss="", note=note, visible=True)
            case Step(done=done, total=total, loss=loss):
                self._bar.update(self._task, completed=done, total=total, visible=True)
                if loss is not None:
                    self._bar.update(self._task, loss=f"loss {loss:.3f}")
            case TrialFinished():
                self._finished(event)

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
