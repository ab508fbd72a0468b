"""A trial on a part of the data says less of a training on all of it than of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loracle.config.settings import RunConfig
from loracle.records.contents import PART, PRIOR, file_hash
from loracle.records.sizes import Sizes
from loracle.records.space import default_space
from loracle.records.trial import History, Outcome, Trial
from loracle.run.search import prior_contents, run_preset
from loracle.search.ensemble import fit_ensemble
from loracle.search.presets import PRESETS, EnsembleSettings, with_data
from loracle.search.prior import EARLIER, SHIPPED, describe
from loracle.search.propose import propose, ranking

SPACE = default_space()
NUMBERS = describe(SPACE)
WHOLE = EnsembleSettings(parameters=1e8)
PART_OF_IT = replace(WHOLE, decades=1.0)
CONFIG = RunConfig.model_validate({"model": "m", "data": {"train": "t.jsonl"}})


def seen(n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(3).choice(len(NUMBERS), n, replace=False)
    y = np.random.default_rng(4).normal(size=n)
    return rows, (y - y.mean()) / y.std(ddof=1)


def test_what_was_seen_on_a_part_moves_the_belief_less_and_leaves_it_less_sure() -> None:
    rows, y = seen()
    whole, part = (fit_ensemble(settings, NUMBERS, rows, y) for settings in (WHOLE, PART_OF_IT))
    misses = [np.abs(fitted.belief(at=rows).mean - y).mean() for fitted in (whole, part)]
    assert misses[1] > 2 * misses[0]
    assert part.belief(at=rows).sd.mean() > 2 * whole.belief(at=rows).sd.mean()


@pytest.mark.parametrize("decades", [0.3, 1.5])
def test_what_is_fitted_is_the_best_of_all_parameters_nearby(decades: float) -> None:
    rows, y = seen()
    for member in fit_ensemble(replace(PART_OF_IT, decades=decades), NUMBERS, rows, y).members:
        fitted, best = member.theta, member.log_posterior(rows, y)
        for direction in np.random.default_rng(0).normal(size=(40, len(fitted))):
            member.theta = fitted + 0.05 * direction
            assert member.log_posterior(rows, y) < best + 1e-3


def test_beliefs_with_pending_trials_count_them_as_seen_on_a_part_too() -> None:
    rows, y = seen()
    fitted = fit_ensemble(PART_OF_IT, NUMBERS, rows, y)
    free = int(np.setdiff1d(np.arange(len(NUMBERS)), rows)[0])
    before, after = fitted.belief(at=[free]), fitted.belief([free], at=[free])
    assert after.mean == pytest.approx(before.mean, abs=1e-6)
    assert 0.5 * before.sd < after.sd < before.sd


def test_a_preset_with_all_data_or_without_a_prior_stays_as_it_is() -> None:
    default = PRESETS["default"]
    assert with_data(default, 500, 500) == default
    assert with_data(PRESETS["numeric"], 50, 500) == PRESETS["numeric"]
    assert with_data(PRESETS["paper"], 50, 500) == PRESETS["paper"]
    some = with_data(default, 50, 500)
    assert some.informed is not None
    assert some.informed.decades == pytest.approx(1)
    assert some.of_trials == default


def test_a_run_knows_how_much_of_the_data_its_trials_see_and_an_earlier_one_goes_on_without() -> None:
    sizes = Sizes(train=2000, proxy=200, validation=100, scored=100, test=100)
    new = prior_contents(PRESETS["default"], {}, 10**8, sizes)
    assert new[PART] == "200 of 2000"
    found = run_preset(CONFIG, new).informed
    assert found is not None
    assert found.decades == pytest.approx(1)
    assert prior_contents(PRESETS["default"], new, 10**8, sizes) == new
    without = {PRIOR: file_hash(SHIPPED)}
    assert PART not in prior_contents(PRESETS["default"], without, 10**8, sizes)
    assert run_preset(CONFIG, without).informed == PRESETS["default"].informed
    assert prior_contents(PRESETS["default"], {PRIOR: file_hash(EARLIER)}, None, sizes).keys() == {PRIOR}
    assert PART not in prior_contents(PRESETS["default"], {}, None, None)  # a trainer of the user's own


def test_on_a_part_the_luckiest_of_many_large_steps_is_not_taken_for_the_best() -> None:
    """On few examples large steps win, and not on all of them: what the prior expects has more of a say."""
    part = with_data(PRESETS["default"], 30, 1000)
    steps = NUMBERS[:, 3] + NUMBERS[:, 1]  # learning rate, and alpha over rank
    history, chosen = History(), {}
    for number in range(16):
        (index,) = propose(SPACE, history, part, seed=0)
        row = int(np.searchsorted(SPACE.candidates, index))
        history = History((*history.trials, Trial(number, index, Outcome(float(np.tanh(steps[row]))))))
    for name, preset in (("part", part), ("whole", part.of_trials)):
        leader = ranking(SPACE, history, preset, seed=0)[0]
        chosen[name] = steps[int(np.searchsorted(SPACE.candidates, leader))]
    assert chosen["part"] < chosen["whole"]
