"""Live progress of a run on stderr: one line a finished trial and, on a terminal, bars below."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from loracle.commands.terminal.console import console as plain_console
from loracle.commands.terminal.console import say, say_notices
from loracle.commands.terminal.summary import Summary, differs
from loracle.config.metrics import show_loss
from loracle.config.settings import RunConfig
from loracle.records.events import (
    Event,
    Expected,
    Listener,
    Noticed,
    PhaseEnded,
    PhaseStarted,
    Step,
    TrialFinished,
    TrialStarted,
)
from loracle.records.trial import Trial
from loracle.report.objectives import show_scores
from loracle.report.time_left import in_words
from loracle.report.wording import show_config
from loracle.search.presets import PRESETS
from loracle.text import escape
from loracle.text.quantities import show_seconds

_ROOM_FOR_CONFIGS = 120  # columns of a terminal that shows the config beside the bar
_LONGEST_TITLE = 34  # characters
_STARTING = "starting"  # a trial that has not told of any step
_BEHIND_COUNT = 6  # columns before a config on a line of its own
_NARROW = 100  # columns of a terminal below which titles and bars are shorter
_TITLE_WHEN_NARROW, _BAR_WHEN_NARROW, _BAR = 25, 10, 20


@contextmanager
def live(config: RunConfig, *, models: bool = False) -> Iterator[Listener]:
    """A listener that shows progress on stderr: a bar on a terminal, plain lines elsewhere.

    Args:
        config: of the run.
        models: whether models are loaded in this process for more than the run itself would.
    """
    quiet(models=models or config.execution.workers == 0 or PRESETS[config.search.preset].reads)
    try:
        with Display(config.metric, objectives=config.objectives) as display:
            yield display.show
    except KeyboardInterrupt:
        sys.stderr.write("loracle: stopped; the same command continues where it was\n")
        raise typer.Exit(130) from None


def quiet(*, models: bool) -> None:
    """Silences libraries that report every step of their own; the display says what matters.

    `models`: those that load models, too; the driver of a run has no use for them otherwise.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # It is loaded with peft, and misses kernels of 4 bits on a CPU that nobody asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if models:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # What it will call otherwise in its next version is its own concern.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)


class Display:
    """Shows events. Use as a context manager; `show` takes them one by one.

    On a terminal there is a bar for each trial that is running, and there for its part, or for the phase; and
    below them what is best, what it took, and what failed last.
    """

    def __init__(
        self, metric: str, console: Console | None = None, *, objectives: Sequence[str] = ()
    ) -> None:
        self._console = console or plain_console(errors=True)
        self._summary = Summary(metric, self._console.width, objectives)
        self._progress = _Bars(
            self._summary,
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_WHEN_NARROW if self._console.width < _NARROW else _BAR),
            _Count(),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            _Elapsed(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bars: dict[int | None, TaskID] = {}  # by the number of the trial; None: the phase's
        self._now = 0.0  # when the event that is being shown happened

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def bars(self) -> RenderableType:
        """What a terminal has below the lines just now."""
        return self._progress.get_renderable()

    def show(self, event: Event, at: float | None = None) -> None:
        """Shows one event, that happened `at` a time in seconds since 1970; None: now."""
        self._summary.take(event)
        self._now = time.time() if at is None else at
        match event:
            case PhaseStarted(text=text, number=number):
                say(self._console, text, "bold")
                for old in [bar for bar in self._bars if number is None or bar is None or bar >= 0]:
                    self._remove(old)
                self._add(number, text)
            case PhaseEnded(number=number):
                self._remove(number)
            case Noticed(notice=notice):
                say_notices(self._console, [notice])
            case Expected():
                say(self._console, in_words(event))
            case TrialStarted(done=done, budget=budget, config=config, number=number):
                self._remove(None)
                note = show_config(config) if self._console.width >= _ROOM_FOR_CONFIGS else ""
                self._add(number, f"trial {number} ({done + 1}/{budget})", note, _STARTING)
            case Step(number=number) if number in self._bars:
                self._step(self._bars[number], event)
            case TrialFinished():
                self._remove(event.trial.number)
                self._finished(event)

    def _add(self, number: int | None, text: str, note: str = "", state: str = "") -> None:
        self._remove(number)
        narrow = self._console.width < _NARROW
        title = escape.printable(text, _TITLE_WHEN_NARROW if narrow else _LONGEST_TITLE)
        note = escape.printable(note)
        self._bars[number] = self._progress.add_task(
            title, total=None, state=state, note=note, began=self._now
        )

    def _step(self, bar: TaskID, step: Step) -> None:
        (before,) = (task.fields["state"] for task in self._progress.tasks if task.id == bar)
        state = "" if before == _STARTING else before
        if step.loss is not None:
            state = f"loss {show_loss(step.loss, 3)}"
        elif step.part != "training":
            state = step.part
        self._progress.update(bar, completed=step.done, total=step.total or None, state=state)

    def _remove(self, number: int | None) -> None:
        if number in self._bars:
            self._progress.remove_task(self._bars.pop(number))

    def _finished(self, event: TrialFinished) -> None:
        outcome = event.trial.outcome
        assert outcome is not None
        is_best = event.best is not None and event.best.number == event.trial.number
        style = "red" if outcome.failure else "green" if is_best else ""
        head = f"{event.done:>4}/{event.budget}  trial {event.trial.number:<{len(str(event.budget))}}"
        score = f"{self._score(event.trial):>13}"
        rest = f"  best {self._score(event.best)}  {show_seconds(outcome.seconds):>5} s"
        if event.trainings is not None and not self._console.is_terminal:  # there it stands below the bars
            rest += f"  cost {event.trainings:.3g}"
        lost = f"  loses {' and '.join(outcome.broken)}" if outcome.broken else ""
        config = f"  {show_config(event.config)}"
        if differs(event.best, event.recommended) and not self._console.is_terminal:  # as above
            assert event.recommended is not None
            config += f"  (recommended: trial {event.recommended.number})"
        width = len(head) + len(score) + len(rest) + len(lost) + len(config)
        line = Text.assemble(head, (score, style), rest, (lost, "red"))
        if self._console.is_terminal and width > self._console.width:
            config = f"\n{'':>{_BEHIND_COUNT}}{config}"
        self._console.print(line.append(escape.lines(config)), soft_wrap=True)

    def _score(self, trial: Trial | None) -> str:
        if trial is None or trial.outcome is None:
            return "-"
        if trial.outcome.value is None:
            return str(trial.outcome.failure.kind) if trial.outcome.failure else "-"
        return show_scores(trial.outcome, self._summary.metric, self._summary.objectives)


class _Bars(Progress):
    """The bars, and the summary below them."""

    def __init__(self, summary: Summary, *columns: ProgressColumn, **options: Any) -> None:
        self._summary = summary
        super().__init__(*columns, **options)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self._summary.lines()


class _Count(ProgressColumn):
    """How many of how many, as far as that is known."""

    def render(self, task: Task) -> Text:
        done, total = int(task.completed), "" if task.total is None else f"/{int(task.total)}"
        return Text(f"{done}{total}" if done or total else "", "progress.download")


class _Elapsed(ProgressColumn):
    """Time since a bar began: also where its part has ended and the next has not begun."""

    def render(self, task: Task) -> Text:
        seconds = max(0, int(time.time() - task.fields["began"]))
        return Text(str(timedelta(seconds=seconds)), "progress.elapsed")
