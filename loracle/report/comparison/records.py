"""What several runs found, as records. Values are larger where they are better; scores as a metric reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loracle.records.space import Config
from loracle.records.trial import GuardReading
from loracle.report.verdict import GivenUp


@dataclass(frozen=True)
class RunRow:
    """One finished run.

    Attributes:
        run: its folder's name, or more of its path where two have one name.
        folder: whole.
        model, data, variant, preset, metric: what was tuned, on what, how, and by which score.
        config: of the winner.
        value, low, high: of the winner on its test items, with a 95 % interval; None where its final training
            failed, or the ends are not known.
        score: the value as the metric reads.
        standard: value of the standard settings.
        standing: of the winner against them; see `verdict.Standing`.
        others: objectives after the first, which is `metric`, where the run has several.
        trials: that counted.
        seconds: of training and scoring, trials and final trainings together.
        guards: what became of each guard with the winner.
        given_up: the best trial of those that lost one, if it scored above the winner.
        guarded: the same in sentences.
    """

    run: str
    folder: str
    model: str
    data: str
    variant: str
    preset: str
    metric: str
    config: Config
    value: float | None
    low: float | None
    high: float | None
    score: float | None
    standard: float | None
    standing: str
    trials: int
    seconds: float
    others: tuple[str, ...] = ()
    guards: Mapping[str, GuardReading] = field(default_factory=dict)
    given_up: GivenUp | None = None
    guarded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """The winners of two runs on the test items that both were scored on.

    Attributes:
        one, other: names of the runs.
        difference, low, high: value of one less value of the other, with a 95 % interval; None where they
            cannot be paired.
        p: of a paired permutation test; `holm`: adjusted for the number of pairs (Holm 1979).
        items: that both were scored on.
        among: pairs of configs that the two were chosen from by these very items, for all of which interval
            and p hold (Bonferroni); 1 where both were run again.
        chosen: names of the runs whose winner was not run again.
        by_place: whether items are known by their places alone, as trainers of one's own may leave it.
        why_not: in words, why they cannot be paired; empty where they are.
    """

    one: str
    other: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm: float | None = None
    items: int = 0
    why_not: str = ""
    among: int = 1
    chosen: tuple[str, ...] = ()
    by_place: bool = False

    @property
    def told(self) -> bool:
        """Whether the two are told apart, with as many pairs as there are."""
        return self.holm is not None and self.holm < 0.05


@dataclass(frozen=True)
class RunsCompared:
    """All runs, the best of each metric first, and all pairs of them."""

    runs: tuple[RunRow, ...]
    pairs: tuple[Pair, ...]
