"""How much work a proposal is, counted in numbers computed, which no machine and no other load changes.

The same in seconds, against a reference computation: `benchmarks/proposals.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from proposals import SPACE  # 6,300 candidates
from scipy.linalg import lapack
from torch.utils._python_dispatch import TorchDispatchMode

from loracle.language.features import FixedFeatures
from loracle.records.trial import History, Outcome, Trial
from loracle.search.presets import PRESETS, EnsembleSettings, Preset
from loracle.search.propose import propose, recommend


@dataclass
class Work:
    """What was computed.

    Attributes:
        exponentials: numbers whose exponential was taken: one for every kernel and pair of configs.
        factors: sizes of the matrices that were factored.
    """

    exponentials: int = 0
    factors: Sequence[int] = ()


class _TorchCounter(TorchDispatchMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("exp", "exp_"):
            self.work.exponentials += args[0].numel()
        elif name == "linalg_cholesky_ex":
            self.work.factors = (*self.work.factors, args[0].shape[-1])
        return result


@contextmanager
def counted() -> Iterator[Work]:
    """Counts what NumPy, LAPACK and torch compute."""
    work, exp, factor = Work(), np.exp, lapack.dpotrf

    def counting_exp(x: Any, *args: Any, **kwargs: Any) -> Any:
        work.exponentials += np.size(x)
        return exp(x, *args, **kwargs)

    def counting_factor(matrix: Any, **kwargs: Any) -> Any:
        work.factors = (*work.factors, len(matrix))
        return factor(matrix, **kwargs)

    with pytest.MonkeyPatch.context() as patch, _TorchCounter(work):
        patch.setattr(np, "exp", counting_exp)
        patch.setattr(lapack, "dpotrf", counting_factor)
        yield work


def anew() -> int:
    """A seed that was not used before, for the last fit is kept."""
    return next(_seeds)


_seeds = itertools.count(100)


def history(n: int) -> History:
    rows = np.random.default_rng(1).choice(SPACE.size, n, replace=False)

    def score(index: int) -> float:
        config = SPACE.config(index)
        step = math.log10(config["learning_rate"]) + 0.5 * math.log10(config["alpha"])
        return math.exp(-((step + 3.3) ** 2)) - config["dropout"]

    return History(tuple(Trial(i, int(row), Outcome(score(int(row)))) for i, row in enumerate(rows)))


def work_of(preset: Preset, n: int) -> Work:
    past = history(n)
    generator = torch.Generator().manual_seed(0)
    features = FixedFeatures(torch.randn(SPACE.size, 8, generator=generator)) if preset.reads else None
    with counted() as work:
        propose(SPACE, past, replace(preset, seed_configs=()), features=features, seed=anew())
    return work


@pytest.mark.parametrize(("name", "members", "kernels"), [("default", 2, 5), ("numeric", 1, 2)])
def test_a_thousand_trials_are_factored_twice_a_member(name: str, members: int, kernels: int) -> None:
    work = work_of(PRESETS[name], 1000)
    large = [size for size in work.factors if size > 150]
    assert set(large) <= {1000}
    assert len(large) <= 2 * members  # its evidence, and its belief
    assert 10 < len(work.factors) - len(large) < 80 * members  # the fit, to 150 of them
    # Once for every kernel, trial and candidate, and what the factors take.
    pairs = 1000 * 6300 * kernels + 1000**2 * kernels * 2 + 150**2 * kernels * 80
    assert work.exponentials < pairs


def test_few_trials_are_fitted_in_full() -> None:
    for n in (20, 60, 150):
        sizes = work_of(PRESETS["default"], n).factors
        assert set(sizes) == {n}
    exact = replace(PRESETS["default"], surrogate=EnsembleSettings(fitted_on=10**6))
    assert set(work_of(exact, 200).factors) == {200}


def test_candidates_that_cannot_be_chosen_cost_nothing() -> None:
    past, allowed = history(100), np.zeros(SPACE.size, dtype=bool)
    allowed[np.random.default_rng(2).choice(SPACE.size, 90)] = True
    with counted() as few:
        propose(SPACE, past, PRESETS["default"], allowed=allowed, seed=anew())
    assert few.exponentials < 0.5 * work_of(PRESETS["default"], 100).exponentials


def test_the_ranking_after_a_proposal_fits_nothing_anew() -> None:
    past, preset = history(60), replace(PRESETS["numeric"], seed_configs=())
    seed = anew()
    with counted() as whole:
        first = propose(SPACE, past, preset, seed=seed)
        best = recommend(SPACE, past, preset, seed=seed)
    other = anew()  # which changes nothing but that it is fitted anew
    assert recommend(SPACE, past, preset, seed=other) == best  # and what is kept changes nothing
    assert propose(SPACE, past, preset, seed=other) == first
    with counted() as alone:
        propose(SPACE, past, preset, seed=anew())
    assert len(whole.factors) <= len(alone.factors) + 2


def test_language_fits_to_some_and_paper_to_all() -> None:
    assert max(work_of(PRESETS["language"], 170).factors[:-1]) == 150
    assert set(work_of(PRESETS["paper"], 170).factors) == {170}
