"""The numbers that an explanation is made of. Scores are as the metric reads; intervals are of 95 %."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from loracle.records.space import Config, Value
from loracle.records.trial import GuardReading
from loracle.report.findings.records import Chosen, PriorKnobs

Source = Literal["named", "chance", "divergence", "belief"]


@dataclass(frozen=True)
class Expected:
    """What was believed of a config before it was trained.

    Attributes:
        score, low, high: of its training.
        best: what the best config known then was believed to score.
        gain: expected improvement over that, of the score, never below 0.
        chance: probability of any improvement.
        keeps: probability that its trial keeps every guard; None without guards.
        or_worse: whether the worse end is the worst score so far, below which nothing says how bad it gets.
    """

    score: float
    low: float
    high: float
    best: float
    gain: float
    chance: float
    keeps: float | None = None
    or_worse: bool = False

    def holds(self, score: float, *, less_is_better: bool) -> bool:
        """Whether what came is inside the interval."""
        beyond = score > self.high if less_is_better else score < self.low
        return self.low <= score <= self.high or (self.or_worse and beyond)


@dataclass(frozen=True)
class Evidence:
    """The nearest config that was known.

    Attributes:
        trial: its number.
        score: what it scored; None: it diverged.
        differs: names of the knobs with another value.
    """

    trial: int
    score: float | None
    differs: tuple[str, ...]


@dataclass(frozen=True)
class PriorWord:
    """What other landscapes alone say of a config.

    Attributes:
        share: of all candidates, that the prior alone expects more of; 0 is its favourite.
        weight: probability, after what was known, that this task is like those the prior was fitted to.
    """

    share: float
    weight: float


@dataclass(frozen=True)
class UsersWord:
    """What the user holds likely, and what it says of a config.

    Attributes:
        said: in words.
        share: of all candidates, that are likelier by it.
    """

    said: str
    share: float


@dataclass(frozen=True)
class Proposal:
    """Why a trial was made.

    Attributes:
        trial: its number.
        config: that was trained.
        source: `named`: the settings that are tried first; `chance`: nothing was known;
            `divergence`: all before it had diverged, so it has a smaller learning rate; `belief`.
        known: trials that had said something before it.
        again: whether the search, asked again with the trials before this one, chooses the same; None where
            it cannot be asked, as its belief reads prompts.
        expected, prior, beliefs: None where there was nothing to go by (a prior may know none of the knobs);
            `expected` also where fewer than
            three different scores did not say what a difference is worth.
        nearest: None for the first.
        score: what came of it; None: it failed, or is not over.
        failure: its kind.
        broken: guards that it lost.
    """

    trial: int
    config: Config
    source: Source
    known: int
    again: bool | None
    expected: Expected | None
    nearest: Evidence | None
    prior: PriorWord | None
    beliefs: UsersWord | None
    score: float | None
    failure: str | None
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conclusion:
    """Something that one would like to say, and whether the numbers carry it.

    Attributes:
        about: `standard` (winner against it, on test items), `guard` (the winner against the base model, in
            what must not be lost: safe where the interval tells whether it is kept), `runner_up` (the leading
            config against the next one, as believed), or `knob` (what a knob's value changes around the
            leading config).
        safe: whether the interval excludes no difference; of a guard, one number has none and is not safe.
        difference, low, high: of the value, larger is better.
        name: of the knob or the guard, or what the leading config is compared with.
        best: the value of the knob that is believed best.
        broken: guards that what the leading config is compared with lost in its trials.
        keeps: of a knob's best value: probability that a trial of it keeps every guard; None without guards.
        reading: of a guard, what the winner's final training did to it.
    """

    about: Literal["standard", "guard", "runner_up", "knob"]
    safe: bool
    difference: float
    low: float
    high: float
    name: str = ""
    best: Value | None = None
    broken: tuple[str, ...] = ()
    keeps: float | None = None
    reading: GuardReading | None = None


@dataclass(frozen=True)
class LostInFinals:
    """What must not be lost, in final trainings: trials, by which the search goes, may see too little data.

    Attributes:
        trainings: final trainings that were scored on it.
        lost: by name of a guard, how many of them lost it; only those that some lost.
        rows: that they were trained on; None where nobody said.
    """

    trainings: int
    lost: Mapping[str, int]
    rows: int | None


@dataclass(frozen=True)
class Next:
    """The experiment that promises most.

    Attributes:
        config: to train.
        expected: of it.
        seconds: a trial of this run takes, the median; None: none has succeeded.
        cost: at the price of an hour that the config names; None without one.
        rows: that a trial trains on, the median; None where nobody said.
        lost: in final trainings; None where these lost nothing that must not be lost: `expected.keeps` is of
            a trial.
    """

    config: Config
    expected: Expected | None
    seconds: float | None
    cost: float | None
    rows: int | None = None
    lost: LostInFinals | None = None


@dataclass(frozen=True)
class Explanation:
    """All of it.

    Attributes:
        metric: of the scores.
        proposals: of the trials that were asked about.
        conclusions: safe ones first.
        next: None where every candidate was tried.
        own: whether the belief is the one that the search used; else that on numbers stands in.
        chosen: the leading config's score, and what is believed of it; None where nothing was to choose from.
        prior_knobs: which knobs the prior knows; None where the search has none.
    """

    metric: str
    proposals: tuple[Proposal, ...]
    conclusions: tuple[Conclusion, ...]
    next: Next | None
    own: bool
    chosen: Chosen | None = None
    prior_knobs: PriorKnobs | None = None
