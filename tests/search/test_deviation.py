"""A trial on a part of the data says less of a training on all of it than of itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loracle.config.settings import RunConfig
from loracle.errors import ConfigError
from loracle.own_trainer.objective import ExternalObjective
from loracle.records.contents import PART, PRIOR, file_hash
from loracle.records.objective import Report
from loracle.records.sizes import Sizes
from loracle.records.space import Config, default_space
from loracle.records.trial import History, Outcome, Trial
from loracle.run.prepare import prepare_search
from loracle.run.search import prior_contents, run_preset
from loracle.search.ensemble import fit_ensemble
from loracle.search.optimizer import Optimizer
from loracle.search.optuna_sampler.sampler import LoracleSampler
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
    assert with_data(default, 1.0) == default
    assert with_data(PRESETS["numeric"], 0.1) == PRESETS["numeric"]
    assert with_data(PRESETS["paper"], 0.1) == PRESETS["paper"]
    some = with_data(default, 0.1)
    assert some.informed is not None
    assert some.informed.decades == pytest.approx(1)
    assert some.of_trials == default


def test_a_run_knows_how_much_of_the_data_its_trials_see_and_an_earlier_one_goes_on_without() -> None:
    sizes = Report(sizes=Sizes(train=2000, proxy=200, validation=100, scored=100, test=100)).part
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
    assert PART not in prior_contents(PRESETS["default"], {}, None, Report().part)


def test_a_trainer_of_ones_own_may_say_how_much_of_the_data_it_has() -> None:
    """As a command or function that asks for `fraction` does, and in ask/tell, Optuna and loracle.hf."""
    own = prior_contents(PRESETS["default"], {}, None, Report(fraction=0.1).part)
    assert own[PART] == "0.1 of 1"
    known = run_preset(CONFIG, own)
    assert known.informed is not None
    assert known.informed.decades == pytest.approx(1)
    space = default_space()
    told = Optimizer(space, fraction=0.1)
    assert told.preset == with_data(PRESETS["default"], 0.1)
    for fraction in (0, 1.5, -1, float("nan")):
        makers: tuple[Callable[..., Any], ...] = (Optimizer, LoracleSampler)
        for make in makers:
            with pytest.raises(ConfigError, match=r"fraction is the share of the data .* in \(0, 1\]; got"):
                make(space, fraction=fraction)


def step_of(config: Config) -> float:
    return float(config["learning_rate"]) * float(config["alpha"])


def test_on_a_part_of_the_data_other_configs_are_proposed() -> None:
    """Scores on a tenth rise with the step, as they do on few examples: believed, they lead to the edge."""
    space = default_space()

    def recommended(fraction: float) -> float:
        optimizer = Optimizer(space, parameters=7e9, fraction=fraction)
        for _ in range(8):
            (index,) = optimizer.ask()
            optimizer.tell(index, math.log10(step_of(space.config(index))))
        return step_of(optimizer.recommend())

    assert recommended(0.1) < recommended(1.0)


def test_on_a_part_the_luckiest_of_many_large_steps_is_not_taken_for_the_best() -> None:
    """On few examples large steps win, and not on all of them: what the prior expects has more of a say."""
    part = with_data(PRESETS["default"], 0.03)
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


def test_a_run_of_ones_own_trainer_knows_what_it_asks_its_trials_to_use(tmp_path: Path) -> None:
    """The same trainer twice; one asks for `fraction`."""
    decades = []
    for name, takes in (("asks", ", *, fraction"), ("does_not", "")):
        (tmp_path / f"{name}.py").write_text(
            f"def train(config{takes}):\n    return -config['learning_rate']\n"
        )
        settings = {"function": f"{name}:train", "direction": "maximize", "working_folder": str(tmp_path)}
        settings |= {"fraction": 0.01}
        own = RunConfig.model_validate({"objective": settings, "output": str(tmp_path / name)})
        report = ExternalObjective.from_config(own).report()
        preset = prepare_search(own, report, lambda event: None).preset
        assert preset.informed is not None
        decades.append(preset.informed.decades)
    assert decades == [pytest.approx(2), 0.0]
