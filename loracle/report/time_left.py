"""How long a run takes, with a range: before its first trial from the measured pace, then from its trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from loracle.config.search.limits import least_trials
from loracle.config.settings import RunConfig
from loracle.config.training.plan import seen_of, steps_of
from loracle.config.training.settings import TrainingConfig
from loracle.records.events import Expected, Span
from loracle.records.objective import Pace
from loracle.records.sizes import Sizes
from loracle.records.space import SearchSpace
from loracle.records.trial import Outcome, Trial
from loracle.report.findings.search_cost import affordable, search_cost, show_trainings
from loracle.report.verdict import RUNNERS_UP
from loracle.report.wording import show_value
from loracle.text.quantities import show_duration, show_money, show_span

# A first estimate rests on a few seconds; by how much runs differ from it: `benchmarks/first_estimate.py`.
_MARGIN = 1.5
# Ranges are meant to hold in four of five runs.
_DEVIATIONS = 1.28
# How much trials differ: known before there are many, with the weight of so many trials.
_SPREAD, _WEIGHT = 0.35, 2
_NEEDED = 0.5  # of searches, whose best two lie within noise: `benchmarks/replication.py`
_NARROW = 1.1  # ends that are no further apart, as a ratio, are not told
_LEAST = 0.1  # of the time left: the range is never narrower to each side


@dataclass(frozen=True)
class Finals:
    """The trainings after the search, measured in trials.

    Attributes:
        count: how many there are.
        training: how many times as much as a trial one of them trains.
        scoring: how many times as much it scores.
        spare: how many more there may be, should the winner lose what must not be lost.
        again: trainings as long as a trial that come before, should the best two lie within noise.
    """

    count: int = 0
    training: float = 1.0
    scoring: float = 1.0
    spare: int = 0
    again: int = 0


NO_FINALS = Finals()


def finals(count: int, sizes: Sizes | None, fraction: float, spare: int = 0) -> Finals:
    """The final trainings of a run.

    Args:
        count: how many.
        sizes: how many examples a trial and a final training use; None: the trainer is the user's own.
        fraction: of the data, that an own trainer uses in a trial; the final run uses all.
        spare: how many more there may be.
    """
    if sizes is None:
        return Finals(count, 1 / fraction, 1.0, spare)
    return Finals(count, sizes.train / sizes.proxy, sizes.test / sizes.scored, spare)


@dataclass(frozen=True)
class Guess:
    """What one trial and one final training take, before there was any."""

    trial: Span
    final: Span


@dataclass(frozen=True)
class Lengths:
    """What makes trainings long or short.

    Attributes:
        values: batch sizes, with the epochs where these are a knob, that candidates have.
        weights: how often each is likely to be tried.
    """

    values: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, space: SearchSpace, first: Callable[[], Sequence[int]] = lambda: ()) -> Lengths:
        """Those of all candidates, weighed by the configs that the search tries `first`, if it says them."""
        names = [name for name in ("batch_size", "epochs") if name in space.names]

        def told(indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
            values = space.values(indices)
            return np.stack([values[name] for name in names])

        lengths, counts = np.unique(told(space.candidates), axis=1, return_counts=True)
        if len(counts) > 1 and (likely := first()):
            counts = (lengths[:, :, np.newaxis] == told(likely)[:, np.newaxis]).all(axis=0).sum(axis=1)
        return cls(tuple(map(tuple, lengths.T.tolist())), tuple(counts.tolist()))

    def mean(self, each: Sequence[float]) -> float:
        """Of what belongs to each of the lengths."""
        return float(np.average(each, weights=self.weights))


def guess(
    pace: Pace | None,
    sizes: Sizes | None,
    space: SearchSpace,
    settings: TrainingConfig,
    lengths: Lengths | None = None,
) -> Guess | None:
    """From the measured pace: trainings of all lengths that the space has; None where none was measured.

    `lengths`: as the search is likely to try them; None: as the candidates have them.
    """
    if pace is None or sizes is None:
        return None
    lengths = Lengths.of(space) if lengths is None else lengths

    def span(n: int, share: float, scored: int) -> Span:
        each = [_training(pace, settings, n, share, *length) for length in lengths.values]
        least, most = (scored * item for item in (pace.item_least, pace.item_most))
        mean = lengths.mean(each)
        middle = pace.other + mean + (least + most) / 2
        return Span(pace.other + min(each) + least, middle, pace.other + max(each) + most)

    trial = span(sizes.trial_rows, sizes.proxy / sizes.train, sizes.scored)
    return Guess(trial, span(sizes.rows, 1.0, sizes.test))


def _training(
    pace: Pace, settings: TrainingConfig, n: int, share: float, batch_size: float, epochs: float | None = None
) -> float:
    """Seconds of a training on n examples or blocks; `epochs`: where they are a knob."""
    length = (settings, n, batch_size, share, epochs)
    return steps_of(*length) * pace.step + seen_of(*length) * pace.example


class Forecast:
    """Estimates: from the finished trials, which say what took how long; before, from what was measured."""

    def __init__(
        self,
        ends: Finals = NO_FINALS,
        first: Guess | None = None,
        cost_per_hour: float | None = None,
        trainings: Span | None = None,
        most: float | None = None,
        least: int = 1,
    ) -> None:
        """`trainings`: what one trial may cost, in full trainings; `most`: what all may, but for the first
        `least`, which there are whatever they cost."""
        self._trainings, self._most, self._least = trainings, most, least
        self._ends = ends
        self._first = first
        self._cost = cost_per_hour

    def expected(self, done: Sequence[Trial], budget: int, capacity: int) -> Expected:
        """What is to come when `done` of `budget` trials have finished, `capacity` at a time.

        Trials that are to come take as long as those before. A final training takes as much longer than a
        successful trial as it has more examples to train and to score on.
        """
        ceiling, one = budget, self._cost_of_one(done)
        budget = self._affordable(done, ceiling, None if one is None else one.likely)
        coming, ends = max(0, budget - len(done)), self._ends
        at_a_time = max(1, min(capacity, coming))
        rounds = math.ceil(ends.count / capacity)
        numbers = (coming, budget, at_a_time, ends.count)
        told = Expected(*numbers, cost_per_hour=self._cost, spare=ends.spare, again=ends.again)
        if one is not None:
            most, least = (self._affordable(done, ceiling, end) for end in (one.low, one.high))
            costs = (budget * one.likely, most * one.low, least * one.high)
            span = Span(min(costs), costs[0], max(costs))
            told = replace(told, trainings=costs[0], trainings_span=span, budget_ends=(least, most))
        again = math.ceil(ends.again / capacity)
        outcomes = [trial.outcome for trial in done if trial.outcome]
        if not outcomes:
            if self._first is None:
                return told
            trial, final = self._first.trial, self._first.final
            ends_low, ends_high = rounds * final.low, rounds * final.high + again * trial.high
            # A search tries many lengths: its mean trial is between the mean of all and their ends.
            low, high = ((end + trial.likely) / 2 * coming / at_a_time for end in (trial.low, trial.high))
            likely = trial.likely * (coming / at_a_time + _NEEDED * again) + rounds * final.likely
            whole = Span((low + ends_low) / _MARGIN, likely, (high + ends_high) * _MARGIN)
            return replace(told, trial=trial, final=final, whole=whole)
        seconds = [outcome.seconds for outcome in outcomes]
        succeeded = [outcome for outcome in outcomes if outcome.value is not None]
        each, n = [self._final(outcome) for outcome in succeeded or outcomes], len(seconds)
        trial, final = _span(seconds, 1, n), _span(each, 1, len(each))
        search = _span(seconds, coming, n).times(1 / at_a_time)
        ending = final.times(rounds)
        likely = search.likely + ending.likely + _NEEDED * again * trial.likely
        low, high = search.low + ending.low, search.high + ending.high + again * trial.likely
        whole = Span(min(low, (1 - _LEAST) * likely), likely, max(high, (1 + _LEAST) * likely))
        return replace(told, trial=trial, final=final, whole=whole)

    @property
    def each(self) -> float | None:
        """What a trial is expected to cost, in full trainings, before there was any; None: not known."""
        return None if self._trainings is None else self._trainings.likely

    def each_after(self, done: Sequence[Trial]) -> float | None:
        """The same when so many are done, as these say it."""
        one = self._cost_of_one(done)
        return None if one is None else one.likely

    def _affordable(self, done: Sequence[Trial], budget: int, each: float | None) -> int:
        """How many of so many trials there will be where one costs so many full trainings."""
        if self._most is None or not each:
            return budget
        return max(len(done), min(budget, affordable(self._most, each, self._least)))

    def _cost_of_one(self, done: Sequence[Trial]) -> Span | None:
        """What a trial costs in the mean, in full trainings, as those say that are done; else as expected."""
        cost = search_cost(trial.outcome for trial in done if trial.outcome)
        return self._trainings if cost is None else Span(*[cost.trainings / len(done)] * 3)

    def _final(self, outcome: Outcome) -> float:
        whole, parts = outcome.seconds, outcome.seconds_by_part
        if "training" not in parts:  # a trainer of the user's own
            return whole * self._ends.training
        training, scoring = parts["training"], parts.get("scoring", 0.0)
        other = max(0.0, whole - training - scoring)
        return training * self._ends.training + scoring * self._ends.scoring + other


def forecast(
    config: RunConfig,
    space: SearchSpace,
    *,
    has_final: bool,
    sizes: Sizes | None = None,
    pace: Pace | None = None,
    first: Callable[[], Sequence[int]] = lambda: (),
) -> Forecast:
    """Estimates of a run: its search, and the training of the winner and of what it is compared with.

    Args:
        config, space: of the run.
        has_final: whether the winner's final training is more than its trial was.
        sizes: how many examples; None: the trainer is the user's own.
        pace: how fast trainings go, where that was measured.
        first: gives the configs that the search would try first; none: all candidates are as likely.
    """
    own = config.objective
    fraction = 1.0 if own is None or not has_final else own.fraction
    spare = RUNNERS_UP if config.guard and has_final else 0
    ends = finals(has_final + (config.standard is not None), sizes, fraction, spare)
    if sizes is not None and not config.objectives:
        ends = replace(ends, again=2 * config.search.further_seeds)
        if (more := config.search.finalists - 1) > 0:  # each is scored on validation as well
            scoring = (sizes.test + sizes.validation) / sizes.scored
            ends = replace(ends, count=ends.count + more, scoring=scoring)
    each = known = None
    if sizes is not None:
        lengths = Lengths.of(space, first)
        known = guess(pace, sizes, space, config.training, lengths)
        each = _cost(sizes, lengths)
    most, least = config.search.budget, least_trials(config.search)
    return Forecast(ends, known, config.execution.cost_per_hour, each, most, least)


def _cost(sizes: Sizes, lengths: Lengths) -> Span | None:
    """Of a trial, in full trainings, before there was any; None: of runs begun before."""
    if sizes.expected is None:
        return None
    low, high = sizes.expected_ends or (sizes.expected, sizes.expected)
    known = {row[:-1]: row[-1] for row in sizes.costs}
    if not known.keys() >= set(lengths.values):
        return Span(low, sizes.expected, high)
    return Span(low, lengths.mean([known[length] for length in lengths.values]), high)


def _span(seen: Sequence[float], coming: int, n: int) -> Span:
    """The sum of `coming` more like those that were seen: its mean, and as far from it as a normal
    distribution lets four of five be, with a deviation that starts from the usual one."""
    mean = sum(seen) / len(seen)
    squares = sum((x - mean) ** 2 for x in seen) + _WEIGHT * (_SPREAD * mean) ** 2
    deviation = math.sqrt(squares / (len(seen) - 1 + _WEIGHT))
    half = _DEVIATIONS * deviation * math.sqrt(coming + coming**2 / n)
    return Span(max(0.0, coming * mean - half), coming * mean, coming * mean + half)


def in_words(expected: Expected) -> str:
    """One sentence without a full stop."""
    e = expected
    parts = []
    if e.trials:
        trials = _plural(e.trials, "trial") if e.trials == e.budget else f"{e.trials} of {e.budget} trials"
        if e.budget_ends and e.budget_ends[0] < e.budget_ends[1]:
            trials += f" ({e.budget_ends[0]} to {e.budget_ends[1]}, by what they cost)"
        parts.append(trials + _of_about(e.trial))
        if e.at_a_time > 1:
            parts[-1] += f", {e.at_a_time} at a time"
    if e.again:
        parts.append(f"up to {e.again} with another seed, should the best two lie within noise")
    if e.finals:
        then = "then " if parts else ""
        parts.append(then + _plural(e.finals, "final training") + _of_about(e.final))
        if e.spare:
            parts[-1] += f" (and up to {e.spare} more, should the winner lose what is guarded)"
    if e.whole is None:
        return f"{', '.join(parts)}: how long they take is known after the first trial"
    cost = ""
    if e.cost_per_hour is not None:
        ends = [show_money(end * e.cost_per_hour / 3600) for end in (e.whole.low, e.whole.high)]
        cost = f", at {show_value(e.cost_per_hour)} an hour {' to '.join(dict.fromkeys(ends))}"
    if e.trainings is not None:
        cost += f"; the search costs about {show_trainings(e.trainings, 2)} in tokens"
        if e.trainings_span and e.trainings_span.high > _NARROW * e.trainings_span.low:
            cost += f" ({e.trainings_span.low:.2g} to {e.trainings_span.high:.2g})"
    return f"{', '.join(parts)}: {show_span(e.whole.low, e.whole.high)} in all{cost}"


def _of_about(one: Span | None) -> str:
    shown = "" if one is None else show_duration(one.likely)
    return f" of {'' if shown.startswith('under') else 'about '}{shown}" if shown else ""


def _plural(n: int, name: str) -> str:
    return f"{n} {name}{'' if n == 1 else 's'}"
