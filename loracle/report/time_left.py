"""How long a run will still take, from what its trials took: the search, and the trainings at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loracle.records.sizes import Sizes
from loracle.records.trial import Outcome, Trial


@dataclass(frozen=True)
class Finals:
    """The trainings after the search, measured in trials.

    Attributes:
        count: how many there are.
        training: how many times as much as a trial one of them trains.
        scoring: how many times as much it scores.
    """

    count: int = 0
    training: float = 1.0
    scoring: float = 1.0


NO_FINALS = Finals()


def finals(count: int, sizes: Sizes | None, fraction: float) -> Finals:
    """The final trainings of a run.

    Args:
        count: how many.
        sizes: how many examples a trial and a final training use; None: the trainer is the user's own.
        fraction: of the data, that an own trainer uses in a trial; the final run uses all.
    """
    if sizes is None:
        return Finals(count, 1 / fraction, 1.0)
    return Finals(count, sizes.train / sizes.proxy, sizes.test / sizes.scored)


class Forecast:
    """Estimates from the finished trials, which say what took how long."""

    def __init__(self, ends: Finals) -> None:
        self._ends = ends

    def seconds_left(self, done: Sequence[Trial], budget: int, capacity: int) -> float:
        """Seconds until the run ends, when `done` of `budget` trials have finished, `capacity` at a time.

        Trials that are to come take as long as those before. A final training takes as much longer than a
        successful trial as it has more examples to train and to score on.
        """
        seconds = [trial.outcome.seconds for trial in done if trial.outcome]
        if not seconds:
            return math.nan
        search = sum(seconds) / len(seconds) * max(0, budget - len(done)) / capacity
        succeeded = [trial for trial in done if trial.outcome and trial.outcome.value is not None]
        each = [self._final(trial.outcome) for trial in succeeded or done if trial.outcome]
        rounds = math.ceil(self._ends.count / capacity)
        return search + rounds * sum(each) / len(each)

    def _final(self, outcome: Outcome) -> float:
        whole, parts = outcome.seconds, outcome.seconds_by_part
        if "training" not in parts:  # a trainer of the user's own
            return whole * self._ends.training
        training, scoring = parts["training"], parts.get("scoring", 0.0)
        other = max(0.0, whole - training - scoring)
        return training * self._ends.training + scoring * self._ends.scoring + other
