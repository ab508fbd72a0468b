"""What is likely to keep what must not be lost: a Gaussian process on how far each guard is from breaking.

Constrained expected improvement, Gardner et al. (2014), section 3: the acquisition is multiplied by the
probability that every constraint holds. Until a config that keeps all of them is known, there is no value to
improve on, and that probability alone decides.

Notation: n readings, N candidates; `y` is 0 where a guard is just broken, and larger is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from loracle.records.space import SearchSpace
from loracle.records.trial import History
from loracle.search.belief import Floats, Rows
from loracle.search.ensemble import Ensemble, fit_ensemble
from loracle.search.observations import Mask, rows_of
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import EARLIER, describe

# What other landscapes taught is of scores, and says nothing about what is forgotten.
_SETTINGS = EnsembleSettings(informed=0.0, prior=EARLIER)


@dataclass(frozen=True)
class Feasibility:
    """What a search believes about the guards after a history.

    Attributes:
        models: one of each guard, with the transformed slack at which it is just broken.
        keeping: (m,) rows of the configs that were tried and kept all of them.
    """

    models: tuple[tuple[Ensemble, float], ...]
    keeping: Rows

    @classmethod
    def of(cls, space: SearchSpace, history: History) -> Feasibility | None:
        """After `history`; None where no trial was asked about a guard."""
        asked = [trial for trial in history.succeeded if trial.outcome and trial.outcome.guards]
        rows, known = rows_of(space, [trial.index for trial in asked])
        asked = [trial for trial, is_one in zip(asked, known, strict=True) if is_one]
        if not asked:
            return None
        outcomes = [trial.outcome for trial in asked if trial.outcome]
        rows = rows[known]
        names = dict.fromkeys(name for outcome in outcomes for name in outcome.guards)
        models = []
        for name in names:
            told = np.array([name in outcome.guards for outcome in outcomes])
            slack = np.array([o.guards[name].relative_slack for o in outcomes if name in o.guards])
            y, threshold = _transformed(slack)
            models.append((fit_ensemble(_SETTINGS, describe(space), rows[told], y), threshold))
        kept = np.array([not outcome.broken for outcome in outcomes])
        return cls(tuple(models), rows[kept])

    def log_probability(self, pending: Sequence[int], at: Rows) -> Floats:
        """Logarithm of the probability that each candidate keeps every guard, (m,)."""
        total = np.zeros(len(at))
        for model, threshold in self.models:
            belief = model.belief(pending, at=at)
            total += log_ndtr((belief.mean - threshold) / belief.sd)
        return total

    def probability(self, at: Rows) -> Floats:
        """Probability that each candidate keeps every guard, (m,), with nothing pending."""
        return np.asarray(np.exp(self.log_probability([], at)))

    def keeps(self, rows: Rows) -> Mask:
        """Which of these rows were tried and kept every guard, (m,)."""
        return np.isin(rows, self.keeping)


def _transformed(slack: Floats) -> tuple[Floats, float]:
    """Slack with mean 0 and variance 1, and where its zero has come to.

    A model that has forgotten everything is thousands of tolerances away; on the scale of an inverse
    hyperbolic sine, linear near zero and logarithmic far from it, it does not flatten what lies around the
    border.
    """
    warped = np.arcsinh(slack)
    spread = float(warped.std(ddof=1)) if len(warped) > 1 else 0.0
    spread = spread if spread > 1e-9 else 1.0
    return (warped - warped.mean()) / spread, float(-warped.mean() / spread)
