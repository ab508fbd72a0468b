"""What a run tells whoever listens, as it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loracle.records.notices import Notice
from loracle.records.objective import Part
from loracle.records.space import Config
from loracle.records.trial import Outcome, Trial


@dataclass(frozen=True)
class PhaseStarted:
    """A new part of the run begins; `text` says which, for people. `number`: of the final training it is."""

    text: str
    number: int | None = None


@dataclass(frozen=True)
class PhaseEnded:
    """The final training `number` has ended."""

    number: int


@dataclass(frozen=True)
class Noticed:
    """Something that the user must see; told once, before anything is trained where that is possible."""

    notice: Notice


@dataclass(frozen=True)
class Span:
    """Seconds that something will take, or what it costs: likely, and from `low` to `high`."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Span:
        """So many of it, one after the other."""
        return Span(factor * self.low, factor * self.likely, factor * self.high)


@dataclass(frozen=True)
class Expected:
    """How long the rest of a run takes; told before its first trial.

    Attributes:
        trials, budget: to come, and in all.
        at_a_time: how many run at the same time.
        finals: final trainings to come.
        again: trainings with further seeds, should the best two trials lie within noise: half of them are in
            `whole.likely`, as half of all searches need them.
        spare: how many more there may be, should the winner lose what must not be lost; not in `whole`.
        trial, final, whole: seconds of one trial, of one final training, and of everything; None: not known.
        cost_per_hour: what an hour costs; None: nobody has said.
        trainings: what all trials of the budget are expected to cost, in full trainings; None: not known.
        trainings_span: the same with its ends: how long trainings and answers are is known when they end.
        budget_ends: how many trials there are at least and at most, as that is not known.
    """

    trials: int
    budget: int
    at_a_time: int
    finals: int
    trial: Span | None = None
    final: Span | None = None
    whole: Span | None = None
    cost_per_hour: float | None = None
    spare: int = 0
    again: int = 0
    trainings: float | None = None
    trainings_span: Span | None = None
    budget_ends: tuple[int, int] | None = None


@dataclass(frozen=True)
class Believed:
    """What a search expects of a trial, with an interval of 95 %: values, larger is better."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TrialStarted:
    """A trial begins.

    Attributes:
        done, budget: how many have finished, and how many there will be.
        config: that it trains.
        number: its own.
        believed: what the search expects of it; None: nothing yet, or it would have to be computed anew.
    """

    done: int
    budget: int
    config: Config
    number: int
    believed: Believed | None = None


@dataclass(frozen=True)
class Step:
    """Work went on: `done` of `total` steps, examples or candidates, `loss` while training (trial `number`).

    `part` of the trial: as `Progress` has it.
    """

    done: int
    total: int
    loss: float | None = None
    number: int | None = None
    part: Part = "training"


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended.

    Attributes:
        trial: with its outcome.
        config: that it trained.
        best: the success with the best score so far, which never gets worse; of those that keep what must
            not be lost, if any does. Of several objectives: the trial that is recommended.
        done: trials that count towards the budget.
        budget: how many there will be.
        left: estimate for the rest of the run, final trainings included; None: not known.
        trainings: what all trials so far have cost, in full trainings; None: not known.
        recommended: whose config would be used if the search ended now, by what all trials tell: the best
            score may be luck. None: nothing has succeeded, or an earlier version told of it.
    """

    trial: Trial
    config: Config
    best: Trial | None
    done: int
    budget: int
    left: Span | None
    trainings: float | None = None
    recommended: Trial | None = None


@dataclass(frozen=True)
class FinalFinished:
    """What a config scored that was trained on all data; `name` says which: `winner` or `standard`. Told when
    the verdict is another one than the run had before."""

    name: str
    config: Config
    outcome: Outcome


@dataclass(frozen=True)
class RunEnded:
    """Nothing more happens; `text` says how it ended, for people; `failed`: with an error."""

    text: str
    failed: bool = False


Event = (
    PhaseStarted
    | PhaseEnded
    | Noticed
    | Expected
    | TrialStarted
    | Step
    | TrialFinished
    | FinalFinished
    | RunEnded
)
Listener = Callable[[Event], None]


def tell_steps(listen: Listener) -> Callable[..., None]:
    """Takes the number of a trial and what `Progress` takes, and tells it as a `Step`."""

    def progress(number: int, step: int, total: int, loss: float | None, part: Part = "training") -> None:
        listen(Step(step, total, loss, number, part))

    return progress
