"""What a search believes about the scores of candidates, and which observations it is fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Belief:
    """Mean and standard deviation of the latent score at m candidates, transformed units; (m,) each.

    Attributes:
        caution: factor on `sd` with which intervals hold as many new values as they say.
    """

    mean: Floats
    sd: Floats
    caution: float = 1.0


class Surrogate(Protocol):
    """A fitted model of the score."""

    def belief(self, pending: Sequence[int] = (), at: Rows | None = None) -> Belief:
        """Belief at all N candidates, or `at` the rows of m, where `pending` rows are being trained.

        A pending row counts as observed at its own posterior mean ("kriging believer", Ginsbourger et al.
        2010): the mean stays, the uncertainty around it shrinks.
        """
        ...


def representatives(n: int, most: int) -> Rows:
    """Positions of at most so many observations that stand for all n in a fit, increasing.

    Evenly spaced in time: early trials are spread, late ones near the best, as all n are. The latest, the
    first or the best alone fitted worse (benchmarks/README.md). A rule of the history alone, so that a run
    that goes on equals one that never stopped.
    """
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.int64))
