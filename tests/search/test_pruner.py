"""`LoraclePruner` stops wrecks and nothing else, in a study with Optuna's own sampler."""

from __future__ import annotations

import json
import math
import runpy

import optuna
import pytest
from optuna.trial import TrialState
from places import BENCHMARKS, ROOT

from loracle import LoraclePruner

# Losses of five parts of a training, by its name.
CURVES = {
    "good": (3.0, 2.5, 2.0, 1.5, 1.0),
    "slow": (3.0, 2.8, 2.6, 2.3, 2.0),
    "dead": (3.1, 3.1, 3.1, 3.1, 3.1),
    "exploding": (3.0, 4.0, 8.0, 9.0, 9.0),
    "broken": (3.0, math.nan, 1.0, 1.0, 1.0),
}


def studied(order: list[str], *, minimize: bool = True) -> optuna.Study:
    study = optuna.create_study(
        direction="minimize" if minimize else "maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=LoraclePruner(),
    )
    sign = 1 if minimize else -1
    names = iter(order)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 0, 1)
        losses = CURVES[next(names)]
        for part, loss in enumerate(losses, start=1):
            trial.report(sign * loss, part)
            if trial.should_prune():
                raise optuna.TrialPruned
        return sign * losses[-1]

    study.optimize(objective, n_trials=len(order))
    return study


@pytest.mark.parametrize("minimize", [True, False])
def test_wrecks_are_stopped_and_no_other(minimize: bool) -> None:
    order = ["good", "slow", "dead", "exploding", "good"]
    trials = studied(order, minimize=minimize).trials
    states = [trial.state for trial in trials]
    stopped = TrialState.PRUNED
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, stopped, stopped, TrialState.COMPLETE]
    # An observation: it counts with its last report.
    assert trials[3].value == (4.0 if minimize else -4.0)
    assert trials[2].last_step == 2


def test_before_anything_has_finished_only_what_is_no_number_stops() -> None:
    states = [trial.state for trial in studied(["broken", "exploding", "good", "dead"]).trials]
    # Optuna keeps no value of a trial that reported NaN last.
    assert states[0] in (TrialState.PRUNED, TrialState.FAIL)
    assert states[1:] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]


def test_several_objectives_and_trials_without_reports_are_left_alone() -> None:
    assert not LoraclePruner().is_wreck({}, {1: 1.0, 2: 0.5}, minimize=True)
    assert not LoraclePruner().is_wreck({1: 9.0, 2: 9.0}, {}, minimize=True)
    assert not LoraclePruner().is_wreck({1: 9.0, 2: 9.0}, {1: 0.5, 2: 0.6}, minimize=True)


@pytest.mark.parametrize(("factor", "least"), [(0.0, 2), (math.inf, 2), (1.0, 0)])
def test_settings_that_mean_nothing_are_refused(factor: float, least: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        LoraclePruner(factor, least)


def test_the_example_stops_some_and_finds_the_good_rate() -> None:
    study = runpy.run_path(str(ROOT / "examples" / "optuna_pruner.py"))["study"]
    assert 1e-5 < study.best_params["lr"] < 1e-2
    assert 0 < len(study.get_trials(states=[TrialState.PRUNED])) < 30


def test_the_page_states_what_was_measured() -> None:
    rows = json.loads((BENCHMARKS / "results" / "pruning.json").read_text(encoding="utf-8"))["rows"]
    own = [row for row in rows if row["factor"] == 1.0]
    assert all(row["of_the_best"] == row["worse"] == 0 for row in own)
    page = (ROOT / "docs" / "inside-your-code.md").read_text(encoding="utf-8")
    stopped, saved = ([f"{100 * row[key]:.0f} %" for row in own] for key in ("stopped", "saved"))
    assert f"it stopped {' and '.join(stopped)} of them, saved {' and '.join(saved)} of the training" in page
    half = max(row["worse"] for row in rows if row["factor"] == 0.5)
    assert f"it cost the best config in {100 * half:.0f} % of the orders" in page
