"""Winner and standard settings against each other: a record of what may be claimed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from loracle.records.sizes import Overlap
from loracle.records.space import Config
from loracle.records.trial import Outcome
from loracle.report.wording import round_up

# With fewer items on which the two differ, no test tells them apart: an exact sign test on 5 has p = 0.06.
MIN_DIFFERING = 6
_TOO_MANY = 1000  # times the test items that there are

RUNNERS_UP = 2  # trained on all data, one after the other, where the winner fails there or breaks a guard

EXIT_CODES = {"better": 0, "no_difference": 3, "worse": 4}  # 2 is bad input, as for every command

Standing = Literal["better", "worse", "no_difference", "untested", "trade_off", "same", "not_compared"]
Told = Literal["better", "worse", "no_difference", "untested"]


@dataclass(frozen=True)
class GivenUp:
    """The best trial of those that lost what must not be lost, where its value is above the winner's.

    Attributes:
        number, config, value: of the trial; the value is of validation items.
        winner_value: the best of the winner's own trials, on the same items.
        broken: names of the guards that it breaks.
    """

    number: int
    config: Config
    value: float
    winner_value: float
    broken: tuple[str, ...]


@dataclass(frozen=True)
class GuardedSearch:
    """How the guards fared in the trials.

    Attributes:
        tried: configs that were asked about them.
        kept: how many of those kept them all.
        lost: names of the guards that the others broke.
        given_up: what was not recommended; None where nothing that broke a guard scored higher.
    """

    tried: int
    kept: int
    given_up: GivenUp | None = None
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassedOver:
    """A config that led, and then failed in its final training or lost there what must not be lost."""

    config: Config
    outcome: Outcome


@dataclass(frozen=True)
class Difference:
    """Winner and standard settings by one objective of several, on the same test items.

    Attributes:
        metric: that objective.
        winner_value, standard_value: test scores, larger is better; None where a training failed.
        mean, low, high: winner minus standard with a 95 % interval; None where the score is not of items.
        items, differing: test items, and how many of them the two scored differently.
    """

    metric: str
    winner_value: float | None = None
    standard_value: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0
    differing: int = 0

    @property
    def told(self) -> Told:
        """Whether the winner is told to be better or worse by this objective.

        Where the interval excludes zero. Without one there is one number each, of which nobody knows what is
        chance: a gain is `untested`, and a loss counts, so that nothing is used that scored less.
        """
        if self.low is None or self.high is None:
            if self.winner_value is None or self.standard_value is None:
                return "no_difference"
            gap = self.winner_value - self.standard_value
            return "untested" if gap > 0 else "worse" if gap < 0 else "no_difference"
        if self.differing < MIN_DIFFERING or self.low <= 0 <= self.high:
            return "no_difference"
        return "better" if self.low > 0 else "worse"


@dataclass(frozen=True)
class Replicated:
    """One of the best two configs of a search, with what it scored with further seeds.

    Attributes:
        config, trial: settings, and the number of their trial.
        values: of validation items: the trial's, then those of further seeds.
        failed: further trainings that failed.
        broken: guards that one of them broke.
        seconds: of them.
    """

    config: Config
    trial: int
    values: tuple[float, ...]
    failed: int = 0
    broken: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        """Of all seeds."""
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class Replication:
    """The best two configs, whose trials lie within the noise of each other, with further seeds.

    Attributes:
        leader, rival: the first and the second of the search.
        difference, low, high: leader less rival in their trials, on the same items, with a 95 % interval.
        items: how many.
        chosen: which one the mean of all seeds is for.
    """

    leader: Replicated
    rival: Replicated
    difference: float
    low: float
    high: float
    items: int
    chosen: Literal["leader", "rival"] = "leader"


@dataclass(frozen=True)
class Finalist:
    """One of the best configs of a search, trained on all data.

    Attributes:
        config: settings.
        place: in the search, from 1.
        outcome: of its final training.
        value: on all validation items, larger is better; None where it failed.
        chosen: whether it is the winner.
    """

    config: Config
    place: int
    outcome: Outcome
    value: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Comparison:
    """Winner and standard settings, both trained on all training data and scored once on test data.

    A trainer of the user's own may have no standard settings, and its winner's outcome may be a trial's.

    Attributes:
        difference, low, high: of the per-item score (larger is better), winner minus standard on the same
            items, with a 95 % interval; None where one of the two failed, or there are no items.
        items: test items that both were scored on.
        differing: how many of those the two scored differently.
        same: whether winner and standard train identically; then they were trained once.
        others: the same by the objectives after the first, where there are several.
        overlap: test items that were seen before they were scored, so what scores say of new data is less.
        guarded: how what must not be lost fared in the search; None where nothing was watched. How it fared
            in the final trainings stands in their outcomes.
        passed_over: what was trained on all data before the winner, and is not recommended.
        replication: of the best two of the search; None where their trials told them apart.
        finalists: the best of the search where several were trained on all data (`search.finalists`), in the
            order of the search.
        among: configs of which the winner is the best on these very items, for which the interval of the
            difference is widened (Bonferroni): where a trainer of the user's own has no final run. Else 1.
        unpaired: why there is no such interval, in words; empty where there is, or nothing is compared.
    """

    winner: Config
    standard: Config | None
    winner_outcome: Outcome
    standard_outcome: Outcome | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0
    differing: int = 0
    same: bool = False
    overlap: Overlap = field(default_factory=Overlap)
    guarded: GuardedSearch | None = None
    passed_over: tuple[PassedOver, ...] = ()
    others: tuple[Difference, ...] = ()
    replication: Replication | None = None
    finalists: tuple[Finalist, ...] = ()
    among: int = 1
    unpaired: str = ""

    @property
    def standing(self) -> Standing:
        """How the winner stands against the standard settings.

        `better` and `worse` are claimed where the interval excludes zero. Where nothing is known of items
        (of a trainer of the user's own, say), there is one number each and no interval: a higher one is
        `untested`, a lower one `worse`. Of several objectives: `better` by one at least and worse by none, or
        the other way round; `trade_off` where it is better, or untested, by one and worse by another.
        """
        if self.winner_outcome.value is None or self._standard_value is None:
            return "not_compared"
        if self.same:
            return "same"
        found = {one.told for one in self.by_objective("")}
        if "worse" in found:
            return "trade_off" if found & {"better", "untested"} else "worse"
        return "better" if "better" in found else "untested" if "untested" in found else "no_difference"

    def by_objective(self, metric: str) -> tuple[Difference, ...]:
        """Winner and standard by the metric of the value, and by other objectives where there are some."""
        values = (self.winner_outcome.value, self._standard_value)
        ends = (self.difference, self.low, self.high)
        return (Difference(metric, *values, *ends, self.items, self.differing), *self.others)

    @property
    def exit_code(self) -> int:
        """What `loracle verdict` tells a script: see `EXIT_CODES`.

        A winner that failed where the standard settings succeeded is worse. Where nothing was compared,
        nothing is known to be better. A winner that breaks a guard is worse where it matters.
        """
        if (
            self.winner_outcome.broken
            or self.standing == "worse"
            or (self.standing == "not_compared" and self.best == "standard")
        ):
            return EXIT_CODES["worse"]
        return EXIT_CODES["better" if self.standing == "better" else "no_difference"]

    @property
    def best(self) -> Literal["winner", "standard"]:
        """Whose settings to use: those of the standard only where they did better, or keep what the winner
        loses. What loses something that must not be lost is used only where the other does, too."""
        failed = self.winner_outcome.value is None and self._standard_value is not None
        if self._standard_value is not None and self.standard_outcome is not None and not failed:
            losing = [bool(outcome.broken) for outcome in (self.winner_outcome, self.standard_outcome)]
            if losing[0] != losing[1] and self.winner_outcome.value is not None:
                return "standard" if losing[0] else "winner"
        return "standard" if failed or self.standing == "worse" else "winner"

    @property
    def sides(self) -> dict[str, tuple[Config, Outcome]]:
        """Config and outcome by name, the winner's first."""
        sides = {"winner": (self.winner, self.winner_outcome)}
        if self.standard is not None and self.standard_outcome is not None:
            sides["standard"] = (self.standard, self.standard_outcome)
        return sides

    @property
    def items_needed(self) -> int | None:
        """Test items that would tell a difference as large as this one; None where that cannot be said.

        An interval narrows with the square root of the number of items.
        """
        if self.difference is None or self.low is None or self.high is None or self.difference == 0:
            return None
        half = (self.high - self.low) / 2
        needed = self.items * (half / abs(self.difference)) ** 2
        needed = max(needed, self.items * MIN_DIFFERING / max(self.differing, 1))
        return round_up(needed) if math.isfinite(needed) and needed < _TOO_MANY * self.items else None

    @property
    def _standard_value(self) -> float | None:
        return self.standard_outcome.value if self.standard_outcome else None
