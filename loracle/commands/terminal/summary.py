"""What stands below the bars while a run goes on: what is best, what it took, what failed last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.text import Text

from loracle.records.events import Believed, Event, Expected, PhaseStarted, Span, TrialFinished, TrialStarted
from loracle.records.space import Config
from loracle.records.trial import Trial
from loracle.report.findings.search_cost import show_trainings
from loracle.report.objectives import show_scores
from loracle.report.wording import (
    show_config,
    show_with_interval,
)
from loracle.text import escape
from loracle.text.quantities import show_duration, show_money, show_span

_LABEL = 8  # columns


@dataclass
class Summary:
    """Takes events and shows lines; a line without content is left out.

    Attributes:
        metric: of the run.
        columns: of the terminal.
        objectives: where they are several.
    """

    metric: str
    columns: int
    objectives: Sequence[str] = ()
    _best: Trial | None = None
    _recommended: Trial | None = None
    _configs: dict[int, Config] = field(default_factory=dict)  # by index
    _seconds: float = 0.0
    _left: Span | None = None
    _cost_per_hour: float | None = None  # of all workers together
    _at_a_time: int = 1
    _failures: int = 0
    _done: int = 0
    _last_failure: str = ""
    _trainings: float | None = None
    _coming: float | None = None  # what the whole search is expected to cost
    _believed: dict[int, Believed] = field(default_factory=dict)  # by trial that runs

    def take(self, event: Event) -> None:
        """Notes what an event says."""
        match event:
            case Expected(whole=whole, cost_per_hour=cost, at_a_time=at_a_time, trainings=coming):
                self._coming = coming
                self._left, self._cost_per_hour, self._at_a_time = whole, cost, at_a_time
            case PhaseStarted():
                self._believed.clear()
            case TrialStarted(number=number, believed=believed) if believed is not None:
                self._believed[number] = believed
            case TrialFinished(trial=trial, config=config, done=done, left=left, trainings=spent):
                assert trial.outcome is not None
                self._trainings = spent
                self._configs[trial.index] = config
                self._believed.pop(trial.number, None)
                self._done, self._left = done, left
                self._best, self._recommended = event.best, event.recommended
                self._seconds += trial.outcome.seconds
                if failure := trial.outcome.failure:
                    self._failures += 1
                    self._last_failure = f"trial {trial.number}, {failure.kind}: {failure.message}"

    def lines(self) -> RenderableType:
        """As they are now; none is broken, and what does not fit ends in dots."""
        return Group(*(self._line(label, text, style) for label, text, style in self._content()))

    def _content(self) -> Iterator[tuple[str, str, str]]:
        if self._best is not None:
            yield from self._of_trial("best", self._best, "green")
        if differs(self._best, self._recommended):
            assert self._recommended is not None
            yield from self._of_trial("use", self._recommended, "", ", recommended by all trials")
        for number, believed in self._believed.items():
            shown = show_with_interval(believed.value, self.metric, (believed.low, believed.high))
            yield "expect", f"{shown} of trial {number}", ""
        parts = []
        if self._seconds:
            parts.append(
                f"{show_duration(self._seconds)} of trials{self._price(self._seconds / self._at_a_time)}"
            )
        if self._left is not None:
            left = f"{show_span(self._left.low, self._left.high)} left"
            parts.append(left + self._price(self._left.likely, about=True))
        if parts:
            yield "time", ", ".join(parts), ""
        if self._trainings is not None:
            about = "" if self._coming is None else f", of about {self._coming:.2g}"
            yield "cost", f"{show_trainings(self._trainings)}{about}", ""
        if self._failures:
            yield "failed", f"{self._failures} of {self._done}; {self._last_failure}", "red"

    def _of_trial(
        self, label: str, trial: Trial, style: str, why: str = ""
    ) -> Iterator[tuple[str, str, str]]:
        """Score and config of a trial."""
        if trial.outcome is None or trial.outcome.value is None:
            return
        config = self._configs.get(trial.index)
        shown = show_scores(trial.outcome, self.metric, self.objectives)
        shown += f", trial {trial.number}"
        if trial.outcome.broken:  # of those that all lose it, the one that loses the least
            shown += f", loses {' and '.join(trial.outcome.broken)}"
        shown += why
        settings = show_config(config) if config else ""
        if _LABEL + len(f"{shown}: {settings}") <= self.columns:
            yield label, f"{shown}: {settings}" if settings else shown, style
        else:
            yield label, shown, style
            yield "", settings, style

    def _price(self, seconds: float, *, about: bool = False) -> str:
        if self._cost_per_hour is None:
            return ""
        return f" ({'about ' if about else ''}{show_money(self._cost_per_hour * seconds / 3600)})"

    def _line(self, label: str, text: str, style: str) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{label:<{_LABEL}}", "dim")
        return line.append(escape.printable(text), style)


def differs(best: Trial | None, recommended: Trial | None) -> bool:
    """Whether another config is recommended than that of the best score."""
    return best is not None and recommended is not None and best.index != recommended.index
