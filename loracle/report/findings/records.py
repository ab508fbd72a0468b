"""What a run shows, part by part. All are plain data: `codec.to_plain` makes JSON of them.

Scores read as the metric reads (a loss without its sign, a share from 0 to 1) unless a field is a `value`,
where larger is better. A part that cannot be said is None, and `Findings.left_out` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loracle.records.space import Config, Value
from loracle.report.findings.search_cost import SearchCost
from loracle.report.findings.surface import Surface


@dataclass(frozen=True)
class TrialRow:
    """One trial, whatever became of it.

    Attributes:
        state: `succeeded`, `failed`, `interrupted` or `running`.
        score: as the metric reads; None where there is none.
        failure, message: kind and one line, where it failed.
        seconds: wall-clock time.
        guards: what became of each guard, by name, as `show --json` has it.
        broken: names of the guards that it lost; such a trial is not recommended while others keep them all.
    """

    number: int
    state: str
    config: Config
    value: float | None = None
    score: float | None = None
    failure: str | None = None
    message: str = ""
    seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    guards: Mapping[str, Any] = field(default_factory=dict)
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """The best score so far after each trial that counts.

    Attributes:
        numbers: of the trials.
        seconds: of training and scoring up to the end of each trial, summed over all trials.
        best: highest score so far, or lowest where less is better, of the trials that lost no guard; None
            before the first of those.
        standard: what the standard settings scored in their trial; None where they had none.
    """

    numbers: tuple[int, ...]
    seconds: tuple[float, ...]
    best: tuple[float | None, ...]
    standard: float | None


@dataclass(frozen=True)
class Chosen:
    """The leading config, whose score is the best of many and so partly luck.

    Attributes:
        trial, score: its best trial, on validation items.
        believed: its score as the belief has it, which takes luck of items and of the seed off.
    """

    trial: int
    score: float
    believed: float


@dataclass(frozen=True)
class Curve:
    """The training loss of one trial; points are means over stretches of steps.

    Attributes:
        role: `winner`, `standard`, `failed` or `other`.
        validation_steps, validation_losses: on some validation examples, where they were read.
    """

    number: int
    role: str
    steps: tuple[float, ...]
    losses: tuple[float, ...]
    validation_steps: tuple[float, ...] = ()
    validation_losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class SlicePoint:
    """What is believed of one value of a knob; scores, with an interval of 95 %."""

    value: Value
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Slice:
    """The belief along one knob, the others as in the config that leads.

    Attributes:
        at: the leading config's own value.
        named: whether its values have no order.
    """

    knob: str
    at: Value
    logarithmic: bool
    points: tuple[SlicePoint, ...]
    named: bool = False


@dataclass(frozen=True)
class Share:
    """How much of the variance of the believed score a knob, or a pair of knobs, explains.

    Attributes:
        knobs: one, or two.
        share: from 0 to 1, median over draws from the belief.
        low, high: 2.5 and 97.5 % of the draws.
        total: of a single knob: its share with all its interactions.
    """

    knobs: tuple[str, ...]
    share: float
    low: float
    high: float
    total: float | None = None


@dataclass(frozen=True)
class Importance:
    """Functional analysis of variance of the belief; see `importance.py`.

    Attributes:
        knobs: each by itself, the most important first.
        interaction: the pair that explains most beyond its two knobs; None with fewer than two knobs.
        configs: over how many configs of the space.
        draws: how many functions were drawn from the belief.
    """

    knobs: tuple[Share, ...]
    interaction: Share | None
    configs: int
    draws: int


@dataclass(frozen=True)
class Expectation:
    """What the prior expected of one trial.

    Attributes:
        rank: share of all candidates that it expected to be worse, from 0 to 1.
        score: that was then measured; None: the training diverged.
    """

    number: int
    rank: float
    score: float | None


@dataclass(frozen=True)
class PriorKnobs:
    """Which of the knobs that have several values the prior says something of, by name."""

    known: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def silent(self) -> bool:
        """Whether it says the same of all candidates."""
        return bool(self.unknown) and not self.known


@dataclass(frozen=True)
class PriorCheck:
    """What the prior said against what was seen.

    Attributes:
        agreement: Spearman's correlation over the trials; None where it has no meaning.
        weight: probability, after the trials, that the task is like those the prior was fitted to.
        weight_before: the same before the first trial.
        favourite: the config that the prior alone would have chosen, without the knobs that it does not know.
        favourite_now: the candidate that is believed to be best now, tried or not, of those that likely keep
            every guard.
    """

    expected: tuple[Expectation, ...]
    agreement: float | None
    weight: float
    weight_before: float
    favourite: Config
    favourite_now: Config


@dataclass(frozen=True)
class HeldLikely:
    """What the user held likely before the first trial, and what became of it.

    Attributes:
        said: in words.
        favourite: the candidate that was believed best before the first trial, by the prior and by what the
            user holds likely together; None where several are.
        likelier: share of the candidates that were held likelier than the leading config.
        agreement: Spearman's correlation, over the trials, of how likely the user held a config and what it
            scored; None where it has no meaning.
        trials: how many these are.
        weight: probability, after the trials, that what the user holds likely explains the scores.
        weight_before: the same before the first trial.
        alone: whether it spoke alone before the first trial: no prior is there that knows any of the knobs.
    """

    said: str
    favourite: Config | None
    likelier: float
    agreement: float | None
    trials: int
    weight: float
    weight_before: float
    alone: bool = False


@dataclass(frozen=True)
class NearEqual:
    """A config that is cheaper than the leading one, as good within noise as far as is believed, and likely
    to keep every guard.

    Attributes:
        rank, steps: what makes it cheaper; None where the run does not know.
        difference, low, high: believed, of the score's value (larger is better), with its interval of 95 %.
        trial: that trained it; None: not tried.
    """

    config: Config
    rank: int | None
    steps: int | None
    difference: float
    low: float
    high: float
    trial: int | None


@dataclass(frozen=True)
class Cliff:
    """Where training breaks.

    Attributes:
        of: what is measured: `learning_rate`, or its product with alpha or alpha_ratio.
        breaks: the smallest value from which every trial diverged or collapsed.
        holds: the largest value of a trial below it that did well.
        trials: numbers of the trials that broke.
        within: how many trials did well.
    """

    of: str
    breaks: float
    holds: float
    trials: tuple[int, ...]
    within: int


@dataclass(frozen=True)
class ProxyPair:
    """One config's score in its trial, on part of the data, and in its final training, on all."""

    name: str
    trial: float
    final: float


@dataclass(frozen=True)
class Example:
    """One test item. Texts are foreign; they are cut, and None where nobody recorded them.

    Attributes:
        index: its place among the test rows, or what a trainer of the user's own calls it.
        winner, standard: what each wrote, or its score where nothing is written.
        gain: the winner's result less the standard's, larger is better.
    """

    index: int | str
    gain: float
    winner: str
    standard: str
    prompt: str | None = None
    reference: str | None = None


@dataclass(frozen=True)
class Examples:
    """Items on which winner and standard differ most, at most 20 each way, and how many there are."""

    won: tuple[Example, ...]
    lost: tuple[Example, ...]
    n_won: int
    n_lost: int
    items: int


@dataclass(frozen=True)
class Cost:
    """What the run took.

    Attributes:
        trials_seconds, finals_seconds: of training and scoring.
        by_part: seconds by part, trials and finals together.
        tokens: that were trained on; None where the trainer does not say.
        search: of the trials, in full trainings; None where trials do not say what they took.
        peak_memory_bytes: the largest of all trainings; None where nobody measured.
        money: at the price of an hour that the user gave, all workers together; None without one.
        kilowatt_hours: at the watts that the user gave; None without them.
    """

    trials_seconds: float
    finals_seconds: float
    by_part: Mapping[str, float]
    tokens: int | None
    peak_memory_bytes: int | None
    money: float | None
    kilowatt_hours: float | None
    search: SearchCost | None = None


@dataclass(frozen=True)
class Recipe:
    """Settings of the winner in the words of one tool; `text` is ready to copy."""

    dialect: str
    file: str
    text: str


@dataclass(frozen=True)
class ScoredTrial:
    """A trial's score by each of several objectives, as they read, and whether it is in the Pareto set."""

    number: int
    scores: tuple[float, ...]
    on_front: bool


@dataclass(frozen=True)
class ParetoSet:
    """Several objectives.

    Attributes:
        objectives: names of the metrics.
        trials: those that succeeded, the Pareto set among them.
        standard: number of the trial of the standard settings; None where they had none.
    """

    objectives: tuple[str, ...]
    trials: tuple[ScoredTrial, ...]
    standard: int | None


@dataclass(frozen=True)
class Findings:
    """Everything that a report says.

    Attributes:
        run: the run folder.
        name: what is tuned.
        metric: that is optimised.
        title: the metric for people.
        less_is_better: whether the score reads so.
        scale, unit: what people's numbers are multiplied by, and then are: 100 and `%` for a share.
        done, budget: trials that count, and how many there shall be.
        finished: whether the final comparison is there.
        ran_again: whether the winner was, or will be, trained again when the search is over; a trainer of the
            user's own may not be.
        verdict: the result in sentences, or how far the search is.
        standing: see `verdict.Standing`; None before the end.
        knobs: names of the searched knobs.
        comparison: rows of a table of winner and standard, the first its head; empty before the end.
        comparison_data: the same as plain data, see docs/json.md.
        leader: number of the trial whose config leads, or won.
        stopped: why the search ended; None where that was not recorded.
        notices: what the user must see.
        candidates: how many configs there are to choose from.
        chosen: the leading config's score and what is believed of it; None before there are two configs.
        own_belief: whether what is believed here is what the search believes; else numbers alone stand in.
        pareto: of several objectives; None where there is one.
        surface: the belief over two knobs; None where there are no two.
        prior_knobs: which knobs the prior knows; None where the search has none.
        without_recipe: by export format that has a text of settings: why there is none here.
        left_out: by part: why it cannot be said.
        provenance: what the run is made of, as it was recorded.
    """

    run: str
    name: str
    metric: str
    title: str
    less_is_better: bool
    scale: float
    unit: str
    done: int
    budget: int
    finished: bool
    verdict: tuple[str, ...]
    standing: str | None
    knobs: tuple[str, ...]
    comparison: tuple[tuple[str, ...], ...]
    comparison_data: Mapping[str, Any] | None
    leader: int | None
    stopped: str | None
    notices: tuple[str, ...]
    candidates: int
    trials: tuple[TrialRow, ...]
    own_belief: bool = True
    pareto: ParetoSet | None = None
    progress: Progress | None = None
    chosen: Chosen | None = None
    curves: tuple[Curve, ...] = ()
    slices: tuple[Slice, ...] = ()
    surface: Surface | None = None
    importance: Importance | None = None
    prior: PriorCheck | None = None
    prior_knobs: PriorKnobs | None = None
    held: HeldLikely | None = None
    near_equals: tuple[NearEqual, ...] = ()
    cliff: Cliff | None = None
    proxy: tuple[ProxyPair, ...] = ()
    examples: Examples | None = None
    recipes: tuple[Recipe, ...] = ()
    without_recipe: Mapping[str, str] = field(default_factory=dict)
    cost: Cost | None = None
    ran_again: bool = True
    left_out: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def watched(self) -> bool:
        """Whether something must not be lost."""
        return any(row.guards for row in self.trials)

    @property
    def ended(self) -> tuple[TrialRow, ...]:
        """Trials that say something of their config: they succeeded, or failed by themselves."""
        return tuple(row for row in self.trials if row.state in ("succeeded", "failed"))
