"""The search where numbers are at their limits: tiny and huge values, few candidates, many repetitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loracle.errors import SpaceError
from loracle.language.features import FixedFeatures
from loracle.records.space import Knob, SearchSpace, default_space, paper_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.search.acquisition import ACQUISITIONS
from loracle.search.optimizer import Optimizer
from loracle.search.presets import PRESETS
from loracle.search.prior import describe
from loracle.search.propose import propose, recommend

LAST = 1.7e308
SPACES = {
    "one candidate": SearchSpace((Knob("rank", (8,)),)),
    "one knob of LoRA": SearchSpace((Knob("learning_rate", (1e-5, 1e-4, 1e-3, 1e-2), "log10"),)),
    "one own knob": SearchSpace((Knob("x", (1, 2, 3)),)),
    "sixty-four knobs": SearchSpace(tuple(Knob(f"k{i}", (0, 1) if i < 3 else (1,)) for i in range(64))),
    "from end to end": SearchSpace((Knob("x", (-LAST, 0, LAST)), Knob("y", (1, 2)))),
    "rates to 1e300": SearchSpace((Knob("learning_rate", (1e-300, 1e-4, 1e300), "log10"), Knob("y", (1, 2)))),
    "rates from below 0": SearchSpace((Knob("learning_rate", (-1, 0, 1e-4, 1e-3)),)),
    "dropout to 1e308": SearchSpace((Knob("dropout", (-LAST, 0.1, LAST)), Knob("y", (1, 2)))),
    "no adapter": SearchSpace((Knob("rank", (8, 10**300)), Knob("alpha_ratio", (-1, 0, 1)))),
    "subnormal": SearchSpace((Knob("x", (0, 5e-324, 1e-323)), Knob("y", (5e-324, 1), "log10"))),
    "one bit apart": SearchSpace((Knob("x", (1.0, 1.0 + 2**-52)), Knob("y", (1, 2)))),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("preset", ["default", "numeric", "paper"])
@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_searched_to_its_end(name: str, preset: str) -> None:
    space = SPACES[name]
    generator = torch.Generator().manual_seed(0)
    features = FixedFeatures(torch.randn(len(space.candidates), 5, generator=generator))
    optimizer = Optimizer(space, PRESETS[preset], features)
    for number in range(min(5, len(space.candidates))):
        (index,) = optimizer.ask()
        optimizer.tell(index, 0.1 * number)
    assert len({trial.index for trial in optimizer.history.trials}) == min(5, len(space.candidates))
    assert space.index(optimizer.recommend()) in space.candidates
    if len(space.candidates) <= 5:
        with pytest.raises(SpaceError, match="1 configs are wanted, but only 0 of"):
            optimizer.ask()


def test_an_alpha_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(SpaceError, match="alpha, which is rank x alpha_ratio, is beyond"):
        SearchSpace((Knob("rank", (8, 10**10)), Knob("alpha_ratio", (1, 1e305))))


def test_constraints_that_leave_nothing_are_refused_in_one_line() -> None:
    space = SearchSpace((Knob("rank", (8, 16)),), constraints=("rank > 99",))
    with pytest.raises(SpaceError, match=r"no config satisfies the constraints \['rank > 99'\]"):
        propose(space, History(), PRESETS["default"])


def test_numbers_far_from_all_that_was_learnt_keep_their_order() -> None:
    rates = (1e-300, 1e-100, 1e-20, 1e-9, 1e-4, 1.0, 1e9, 1e100, 1e300)
    column = describe(SearchSpace((Knob("learning_rate", rates, "log10"),)))[:, 3]
    assert (np.diff(column) > 0.1).all()
    assert np.abs(column).max() < 20
    np.testing.assert_allclose(column[3:6], np.log10(rates[3:6]) + 3.5)  # as they are within reason


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_certainty_is_worth_what_it_improves(name: str) -> None:
    mean = np.array([-1.0, 0.0, 1.0, 3.0])
    for sd in (0.0, 5e-324, 1e-200, 1e-12):
        value = ACQUISITIONS[name](mean, np.full_like(mean, sd), 0.0)
        value = np.exp(value) if name.startswith("log") else value
        np.testing.assert_allclose(value, mean.clip(min=0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("preset", ["default", "numeric"])
def test_one_config_trained_hundreds_of_times_is_no_trouble(preset: str) -> None:
    space = default_space()
    rows = [5, 9] * 150
    trials = tuple(Trial(i, int(space.candidates[row]), Outcome(float(i % 2))) for i, row in enumerate(rows))
    chosen = propose(space, History(trials), PRESETS[preset], n=3)
    assert len({*chosen, *(trial.index for trial in trials)}) == 5
    assert recommend(space, History(trials), PRESETS[preset]) == space.candidates[9]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
    st.integers(0, 10**6),
)
def test_any_scores_of_any_configs_are_searched_with(values: list[float | None], seed: int) -> None:
    space = SPACES["from end to end"] if seed % 2 else default_space()
    drawn = np.random.default_rng(seed).choice(space.candidates, len(values))
    diverged = Failure(FailureKind.DIVERGED, "diverged")
    trials = tuple(
        Trial(i, int(index), Outcome(value, failure=diverged if value is None else None))
        for i, (index, value) in enumerate(zip(drawn, values, strict=True))
    )
    chosen = propose(space, History(trials), PRESETS["default"], n=2, strict=False)
    assert not {*chosen} & {trial.index for trial in trials}
    if any(value is not None for value in values):
        assert recommend(space, History(trials), PRESETS["default"]) in drawn


def test_the_published_space_is_what_it_was() -> None:
    numbers = describe(paper_space())
    assert np.abs(numbers).max() < 8  # nothing of it is drawn in
