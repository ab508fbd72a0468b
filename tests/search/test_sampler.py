"""The search as an Optuna sampler: Optuna's own cases, and what users of Optuna do with samplers."""

from __future__ import annotations

import math
import pickle
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import FrozenTrial, TrialState

from loracle import LoracleSampler, Optimizer
from loracle.errors import ConfigError, SpaceError
from loracle.language.features import FixedFeatures
from loracle.records.space import Config, Knob, SearchSpace
from loracle.records.trial import FAILURE_KEY, FailureKind, History
from loracle.search.observations import crashing, suspects
from loracle.search.optuna_sampler.history import history_of
from loracle.search.presets import PRESETS
from loracle.search.propose import propose

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = SearchSpace(
    (
        Knob("rank", (4, 8, 16, 32), "log2"),
        Knob("alpha_ratio", (1, 2, 4), "log2"),
        Knob("learning_rate", (1e-5, 1e-4, 1e-3), "log10"),
    )
)


def score(config: Config) -> float:
    return -abs(math.log10(config["learning_rate"]) + 4) - abs(math.log2(config["rank"]) - 3) / 10


def suggest(trial: optuna.Trial) -> Config:
    return {
        "rank": trial.suggest_int("rank", 1, 256, log=True),
        "alpha_ratio": trial.suggest_categorical("alpha_ratio", [1, 2, 4]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
    }


def objective(trial: optuna.Trial) -> float:
    return score(suggest(trial))


def make_study(seed: int = 0, direction: str = "maximize", **options: object) -> Study:
    return optuna.create_study(direction=direction, sampler=LoracleSampler(SPACE, seed=seed, **options))  # type: ignore[arg-type]


def tried(study: Study) -> list[tuple[object, ...]]:
    return [tuple(trial.params.values()) for trial in study.trials]


def chosen(study: Study) -> Config:
    """The config of the last trial."""
    return SPACE.config(history_of(study, SPACE).trials[-1].index)


# -- names ----------------------------------------------------------------------------------------------

NAMED = SearchSpace((Knob("schedule", ("cosine", "linear", "constant")), *SPACE.knobs[::2]))


def named(trial: optuna.Trial) -> float:
    schedule = trial.suggest_categorical("schedule", ["constant", "linear", "cosine"])
    rate = trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True)
    return {"cosine": 0.5, "linear": 0.9, "constant": 0.1}[schedule] - abs(math.log10(rate) + 4) / 5


@pytest.mark.parametrize("space", [None, NAMED])
@pytest.mark.filterwarnings("ignore:'schedule' is no hyperparameter:UserWarning")
def test_names_are_searched_and_found(space: SearchSpace | None) -> None:
    """The order in which an objective lists its names, or the space does, means nothing."""
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(space, seed=0))
    study.optimize(named, n_trials=8)
    assert study.best_params["schedule"] == "linear"
    assert study.sampler.recommend(study)["schedule"] == "linear"  # type: ignore[attr-defined]
    assert {type(trial.params["schedule"]) for trial in study.trials} == {str}
    assert len(set(tried(study))) == 8


@pytest.mark.filterwarnings("ignore:'style' is no hyperparameter:UserWarning")
def test_hundreds_of_choices_are_searched_too() -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    choices = [f"n{i}" for i in range(300)]
    study.optimize(lambda trial: float(len(trial.suggest_categorical("style", choices))), n_trials=4)
    assert len(set(tried(study))) == 4


def test_some_of_a_space_s_names_will_do_and_enqueued_ones_are_kept() -> None:
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(NAMED, seed=0))
    study.enqueue_trial({"schedule": "constant", "learning_rate": 1e-4})

    def some(trial: optuna.Trial) -> float:
        names = ["linear", "constant"]
        return float(trial.suggest_categorical("schedule", names) == "linear")

    with pytest.warns(
        UserWarning, match=r"all 2 configs .* So far it asked for schedule linear, constant, and"
    ):
        study.optimize(some, n_trials=3)
    assert [trial.params["schedule"] for trial in study.trials] == ["constant", "linear"]
    history = history_of(study, NAMED)
    assert [NAMED.config(trial.index)["schedule"] for trial in history.trials] == ["constant", "linear"]


def test_names_that_the_space_lacks_are_refused_with_those_it_has() -> None:
    study = optuna.create_study(sampler=LoracleSampler(NAMED, seed=0))
    with pytest.raises(SpaceError, match=r"space holds \(cosine, linear, constant\)"):
        study.optimize(lambda trial: len(trial.suggest_categorical("schedule", ["wave", "saw"])), 1)


# -- Optuna's own cases -------------------------------------------------------------------------------


class TestOptunasOwnCases(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """Parameters that are no knobs go to the independent sampler, whatever Optuna asks of it."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        strangers = optuna.samplers.RandomSampler(seed=0)
        return lambda: LoracleSampler(SPACE, seed=0, independent_sampler=strangers)

    # The one case of this group that does not ask `sample_relative` for values: this sampler, like
    # Optuna's random sampler, answers one parameter at a time.
    test_trial_relative_params = RelativeSamplerTestCase.test_trial_relative_params


@pytest.mark.filterwarnings("ignore:'(.|category)' is no hyperparameter")
class TestOptunasOwnCasesWithoutSpace:
    """Ranges are the space, whatever is asked for. Left out: a hundred running trials of one parameter
    (slow), and ten trials of two values (the search ends after two)."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: LoracleSampler(seed=0)

    test_conditional_sample_independent = BasicSamplerTestCase.test_conditional_sample_independent
    test_nan_objective_value = BasicSamplerTestCase.test_nan_objective_value
    test_partial_fixed_sampling = BasicSamplerTestCase.test_partial_fixed_sampling
    test_sample_single_distribution = BasicSamplerTestCase.test_sample_single_distribution
    test_conditional_parameter_objective = BasicSamplerTestCase.test_conditional_parameter_objective
    test_combination = BasicSamplerTestCase.test_combination_of_different_distributions_objective
    test_dynamic_range_objective = BasicSamplerTestCase.test_dynamic_range_objective


class TestOptunasOwnCasesWithKnobs:
    """Those in which every distribution of `x`, `y` and `z` contains the values of such knobs."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        x = (0.1, *(0.11 + 0.005 * i for i in range(18)), 0.2)
        space = SearchSpace((Knob("x", x), Knob("y", (0, 1)), Knob("z", (0, 0.5, 1))))
        return lambda: LoracleSampler(space, seed=0)

    test_nan_objective_value = BasicSamplerTestCase.test_nan_objective_value
    test_partial_fixed_sampling = BasicSamplerTestCase.test_partial_fixed_sampling


# -- an existing user's script ------------------------------------------------------------------------


def test_ten_lines_of_an_optuna_user() -> None:
    def train(trial: optuna.Trial) -> float:
        rank = trial.suggest_categorical("rank", [1, 2, 4, 8, 16, 32, 64, 128, 256])
        alpha = trial.suggest_float("alpha", 0.5, 32768, log=True)
        dropout = trial.suggest_float("dropout", 0.0, 0.3)
        batch = trial.suggest_int("batch_size", 2, 256)
        rate = trial.suggest_float("learning_rate", 1e-6, 5e-3, log=True)
        return -abs(math.log10(rate * alpha / rank) + 3.5) - dropout - abs(math.log2(batch) - 4) / 10

    from loracle import paper_space

    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(paper_space(), seed=0))
    study.optimize(train, n_trials=6)
    assert len(set(tried(study))) == 6
    assert study.best_params["rank"] in paper_space()["rank"].values
    assert isinstance(study.best_params["batch_size"], int)


def test_the_search_finds_the_best_config() -> None:
    study = make_study()
    study.optimize(objective, n_trials=12)
    assert study.best_params["rank"] == 8
    assert study.best_params["learning_rate"] == 1e-4
    assert len(set(tried(study))) == 12


def test_minimising_mirrors_maximising() -> None:
    up, down = make_study(), make_study(direction="minimize")
    up.optimize(objective, n_trials=5)
    down.optimize(lambda trial: -objective(trial), n_trials=5)
    assert tried(up) == tried(down)


@pytest.mark.filterwarnings("ignore:'rank' is never none, None")
@pytest.mark.parametrize(
    "suggest_rank",
    [
        lambda trial: trial.suggest_int("rank", 4, 32),
        lambda trial: trial.suggest_int("rank", 4, 32, step=4),
        lambda trial: trial.suggest_int("rank", 1, 64, log=True),
        lambda trial: trial.suggest_float("rank", 1, 64),
        lambda trial: trial.suggest_float("rank", 1, 64, log=True),
        lambda trial: trial.suggest_categorical("rank", ["none", None, 32, 16, 8, 4]),
    ],
)
def test_every_kind_of_suggestion_gives_the_configs_value(
    suggest_rank: Callable[[optuna.Trial], float],
) -> None:
    study = make_study()
    for _ in range(3):
        trial = study.ask()
        value = suggest_rank(trial)
        assert value == chosen(study)["rank"]
        study.tell(trial, float(value))


def test_alpha_may_be_asked_for_instead_of_its_ratio() -> None:
    study = make_study()
    trial = study.ask()
    config = {"alpha": trial.suggest_float("alpha", 1, 1024), "rank": trial.suggest_int("rank", 1, 256)}
    assert config == {name: chosen(study)[name] for name in ("alpha", "rank")}


def test_parameters_that_are_no_knobs_come_from_another_sampler() -> None:
    class Always(optuna.samplers.RandomSampler):
        def sample_independent(self, *arguments: object) -> float:  # type: ignore[override]
            return 0.25

    study = make_study(independent_sampler=Always())
    trial = study.ask()
    assert trial.suggest_float("warmup", 0, 1) == 0.25
    assert trial.suggest_int("rank", 1, 256) in SPACE["rank"].values


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: t.suggest_int("rank", 64, 256), r"asks for rank from IntDistribution.*holds \(4 to 32\)"),
        (lambda t: t.suggest_float("learning_rate", 0.1, 1), "contains no value that the search space holds"),
        (lambda t: t.suggest_categorical("rank", ["a", "b"]), "from CategoricalDistribution"),
        (lambda t: t.suggest_int("alpha_ratio", 8, 64), "change the range or the space"),
        (lambda t: t.suggest_int("rank", 1, 256, step=255), "contains no value"),
    ],
)
def test_a_range_without_a_value_of_the_space_is_refused(
    ask: Callable[[optuna.Trial], object], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        ask(make_study().ask())


def test_a_fraction_is_never_cut_to_a_whole_number() -> None:
    space = SearchSpace((Knob("x", (0.5,)),))
    study = optuna.create_study(sampler=LoracleSampler(space))
    with pytest.raises(SpaceError, match=r"holds \(0\.5 to 0\.5\)"):
        study.ask().suggest_int("x", 0, 1)


def test_a_space_of_lists_and_arrays_will_do() -> None:
    knobs = [Knob("rank", [4, 8], "log2"), Knob("learning_rate", np.geomspace(1e-5, 1e-3, 3), "log10")]  # type: ignore[arg-type]
    study = optuna.create_study(sampler=LoracleSampler(SearchSpace(knobs, ["rank <= 8"])))  # type: ignore[arg-type]
    study.optimize(
        lambda trial: trial.suggest_int("rank", 1, 64) * trial.suggest_float("lr", 1e-6, 1e-2, log=True),
        n_trials=4,
    )
    assert len(set(tried(study))) == 4


def test_an_exhausted_space_says_so() -> None:
    space = SearchSpace((Knob("x", (1, 2)),))
    study = optuna.create_study(sampler=LoracleSampler(space))
    with pytest.warns(UserWarning, match=r"all 2 configs .* \(x\) have been tried .*; the search ends here"):
        study.optimize(lambda trial: trial.suggest_int("x", 1, 2), n_trials=30)
    assert sorted(trial.params["x"] for trial in study.trials) == [1, 2]  # and what was paid for is kept
    with pytest.raises(SpaceError, match=r"all 2 configs .* have been tried or are running; stop here"):
        study.ask().suggest_int("x", 1, 2)


def test_a_preset_that_reads_prompts_needs_features() -> None:
    with pytest.raises(ConfigError, match="'paper' reads prompts"):
        LoracleSampler(SPACE, preset="paper")
    features = FixedFeatures(
        torch.randn(len(SPACE.candidates), 8, generator=torch.Generator().manual_seed(0))
    )
    for preset in ("paper", "default"):
        study = make_study(preset=preset, features=features)
        study.optimize(objective, n_trials=4)
        assert len(set(tried(study))) == 4


# -- failures -----------------------------------------------------------------------------------------


def kinds_of(study: Study) -> list[FailureKind | None]:
    failures = [trial.outcome.failure for trial in history_of(study, SPACE).trials if trial.outcome]
    return [failure.kind if failure else None for failure in failures]


@pytest.mark.parametrize("told", [math.nan, torch.tensor(math.nan), "nan", -math.inf])
def test_a_value_that_is_no_number_has_diverged(told: Any, tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.create_study(storage=storage, study_name="one", sampler=LoracleSampler(SPACE, seed=0))
    study.optimize(lambda trial: (suggest(trial), told)[1], n_trials=1)
    study.optimize(objective, n_trials=1)
    loaded = optuna.load_study(study_name="one", storage=storage)  # it is kept with the trial
    assert kinds_of(loaded) == [FailureKind.DIVERGED, None]


def test_a_value_that_is_no_number_may_be_told() -> None:
    study = make_study()
    trial = study.ask()
    suggest(trial)
    with pytest.warns(UserWarning, match="nan is not acceptable"):
        study.tell(trial, math.nan)
    assert kinds_of(study) == [FailureKind.DIVERGED]


@pytest.mark.filterwarnings("ignore:.* trials with it failed:UserWarning")  # as it happens
def test_other_failures_say_nothing_about_a_config() -> None:
    def fragile(trial: optuna.Trial) -> float | None:
        config = suggest(trial)
        if trial.number % 4 == 1:
            raise FloatingPointError("of something else")
        if trial.number % 4 == 2:
            trial.report(0.5, 0)
            raise ValueError("after a report")
        if trial.number % 4 == 3:
            return None
        return score(config)

    study = make_study()
    study.optimize(fragile, n_trials=12, catch=(FloatingPointError, ValueError))
    assert len(set(tried(study))) == 12  # it is not tried again either
    crashed = [FailureKind.CRASHED] * 3
    assert kinds_of(study) == [None, *crashed] * 3


def test_an_objective_says_that_it_has_diverged() -> None:
    study = make_study()

    def diverging(trial: optuna.Trial) -> float:
        suggest(trial)
        if trial.number == 0:
            trial.set_user_attr(FAILURE_KEY, "diverged")
        else:
            trial.report(0.5, 0)
            trial.report(math.nan, 1)
        raise RuntimeError("the loss is not a number")

    study.optimize(diverging, n_trials=2, catch=(RuntimeError,))
    assert kinds_of(study) == [FailureKind.DIVERGED] * 2


def test_a_value_that_always_crashes_is_told_in_the_objective_s_words_and_left_alone() -> None:
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))

    def fragile(trial: optuna.Trial) -> float:
        rate, rank = trial.suggest_float("lr", 1e-5, 1e-2, log=True), trial.suggest_int("lora_r", 4, 64)
        if rank == 64:
            raise RuntimeError("no such kernel")
        return rank / 64 - abs(math.log10(rate) + 3)

    with pytest.warns(UserWarning, match="^lora_r 64: all 3 trials with it failed") as told:
        study.optimize(fragile, n_trials=20, catch=(RuntimeError,))
    assert len(told) == 1
    crashed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert [trial.params["lora_r"] for trial in crashed] == [64] * 3


@pytest.mark.parametrize("up", [True, False])
def test_a_side_of_a_range_that_always_crashes_is_left(up: bool) -> None:
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))

    def fragile(trial: optuna.Trial) -> float:
        rate, rank = trial.suggest_float("lr", 1e-5, 1e-2, log=True), trial.suggest_int("lora_r", 4, 64)
        if rate > 1e-3 if up else rate < 1e-4:
            raise FloatingPointError("the loss is not a number")
        return rank / 640 - abs(math.log10(rate) + (2.7 if up else 4.3))

    with pytest.warns(UserWarning, match=f"^lr .* or {'more' if up else 'less'}: all .* failed") as told:
        study.optimize(fragile, n_trials=20, catch=(FloatingPointError,))
    assert len(told) == 1
    assert sum(trial.state == TrialState.FAIL for trial in study.trials) <= 7
    assert study.best_params["lr"] == pytest.approx(1e-3 if up else 1e-4, rel=0.4)
    (said,) = map(str, [one.message for one in told])
    assert re.match(r"lr [1-9](\.[0-9])?e-[345] or (more|less)", said)  # as one writes it into a range
    assert "the last one with: FloatingPointError: the loss is not a number)" in said
    assert said.endswith("so it comes after all others. Mend the cause, or narrow the range")


@pytest.mark.parametrize("five", [False, True])
def test_after_two_crashes_in_a_row_the_search_goes_half_way_back(five: bool) -> None:
    """Of ten trials, with a learning rate that breaks above 1e-3, and not one grid point after the other."""

    def breaks(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        trial.suggest_categorical("r", [8, 16])
        if five:
            trial.suggest_categorical("alpha", [8, 16, 32])
            trial.suggest_float("dropout", 0, 0.2)
            trial.suggest_categorical("batch_size", [4, 8, 16])
        if rate > 1e-3:
            raise RuntimeError("loss exploded")
        return (math.log10(rate) + 3.4) ** 2

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        study.optimize(breaks, n_trials=30, catch=(RuntimeError,))
    failed = [trial.number for trial in study.trials if trial.state == TrialState.FAIL]
    assert sum(number < 10 for number in failed) <= 4
    assert len(failed) <= 5
    assert study.best_value < 0.01
    assert all(str(one.message).startswith("lr ") for one in told)  # no innocent value is blamed


def test_a_value_is_not_blamed_for_what_a_side_of_a_range_explains() -> None:
    space = SearchSpace((Knob("x", tuple(range(40))), Knob("kind", (1, 2, 3)), Knob("n", (1, 2))))
    study = optuna.create_study(sampler=LoracleSampler(space, seed=0))
    crash = [(30, 1, 1), (31, 1, 2), (32, 1, 1), (33, 2, 1), (34, 3, 2), (35, 2, 1)]
    fine = [(x, 2 + x % 2, 1 + x % 2) for x in range(6, 24, 2)]
    for x, kind, n in [*fine, *crash]:
        study.enqueue_trial({"x": x, "kind": kind, "n": n})

    def breaks(trial: optuna.Trial) -> float:
        x = trial.suggest_int("x", 0, 39)
        trial.suggest_int("kind", 1, 3), trial.suggest_int("n", 1, 2)
        return 1 / (x < 30)

    study.optimize(breaks, len(fine) + len(crash), catch=(ZeroDivisionError,))
    found = suspects(space, history_of(study, space))
    assert [(dict(suspect.values), suspect.side) for suspect in found] == [({"x": 30}, 1)]


@pytest.mark.parametrize("chance", range(3))
def test_crashes_by_chance_are_told_of_no_value(chance: int) -> None:
    """And cost no more than the trials that they take."""
    study = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))
    generator = np.random.default_rng(chance)

    def unlucky(trial: optuna.Trial) -> float:
        rate, rank = trial.suggest_float("lr", 1e-5, 1e-2, log=True), trial.suggest_int("lora_r", 4, 64)
        if generator.random() < 0.3:
            raise OSError("no space left on device")
        return rank / 640 - abs(math.log10(rate) + 3)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.optimize(unlucky, n_trials=20, catch=(OSError,))
    assert study.best_value > -0.1


def test_a_failure_that_is_told_without_a_cause_names_none() -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(20):
            trial = study.ask()
            rate = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
            if rate > 3e-4:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, (math.log10(rate) + 3) ** 2)
    (said,) = (str(one.message) for one in told)
    assert re.search(r"failed \([0-9]+ crashed\), and trials without ran", said)


def test_crashes_on_both_sides_of_what_ran_blame_no_side() -> None:
    space = SearchSpace((Knob("x", tuple(range(40))),))
    study = optuna.create_study(sampler=LoracleSampler(space, seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (18, 19, 20, 21, 2, 4, 6, 8, 30, 32, 34, 36):
            study.enqueue_trial({"x": x})
        study.optimize(lambda trial: 1 / (17 < trial.suggest_int("x", 0, 39) < 22), 12, catch=(Exception,))
    assert not crashing(space, history_of(study, space)).any()


@pytest.mark.parametrize("error", [FileNotFoundError("train.jsonl"), optuna.TrialPruned("no GPU")])
def test_an_objective_that_ends_before_it_asks_for_anything_is_its_own_affair(error: Exception) -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        if trial.number < 2:
            raise error
        return trial.suggest_float("lr", 1e-5, 1e-2, log=True)

    if isinstance(error, FileNotFoundError):
        with pytest.raises(FileNotFoundError, match=r"train\.jsonl"):
            study.optimize(objective, n_trials=1)
    else:
        study.optimize(objective, n_trials=1)
    study.optimize(objective, n_trials=4, catch=(FileNotFoundError,))
    states = [trial.state for trial in study.trials]
    assert states[2:] == [TrialState.COMPLETE] * 3
    assert study.trials[2].params == {"lr": pytest.approx(2e-4, rel=0.05)}  # the usual settings first
    optuna.create_study(sampler=LoracleSampler()).optimize(lambda trial: 1.0, n_trials=2)  # asks for nothing


@pytest.mark.parametrize("ranks", [None, [8], [8, 16]])
def test_memory_that_is_short_once_ends_no_study(ranks: list[int] | None) -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        rank = 8 if ranks is None else trial.suggest_categorical("r", ranks)
        if trial.number == 2:
            trial.set_user_attr(FAILURE_KEY, "out_of_memory")
            raise RuntimeError("CUDA out of memory")
        return abs(math.log10(rate) + 3) + 1 / rank

    study.optimize(objective, n_trials=8, catch=(RuntimeError,))
    assert len(study.trials) == 8
    assert len({trial.params["lr"] for trial in study.trials}) > 4


def test_a_study_of_which_nothing_fits_says_so() -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        trial.suggest_categorical("r", [8, 16, 32])
        trial.set_user_attr(FAILURE_KEY, "out_of_memory")
        raise RuntimeError("CUDA out of memory")

    with pytest.warns(
        UserWarning, match=r"configs that are left \(.*\) would take at least as much memory as"
    ):
        study.optimize(objective, n_trials=9, catch=(RuntimeError,))
    assert len(study.trials) < 9


def test_a_crash_changes_no_belief() -> None:
    """What is tried next is what would have been tried after the crashed config, had it not been there."""
    study = make_study()
    trial = study.ask()
    suggest(trial)
    study.tell(trial, state=TrialState.FAIL)
    (record,) = history_of(study, SPACE).trials
    allowed = SPACE.candidates != record.index
    expected = propose(SPACE, History(), PRESETS["default"], allowed=allowed)
    suggest(study.ask())
    assert [chosen(study)] == [SPACE.config(index) for index in expected]


def test_an_objective_may_say_why_it_failed() -> None:
    study = make_study()
    for kind in ("out_of_memory", "crashed"):
        trial = study.ask()
        suggest(trial)
        trial.set_user_attr(FAILURE_KEY, kind)
        study.tell(trial, state=TrialState.FAIL)
        outcome = history_of(study, SPACE).trials[-1].outcome
        assert outcome is not None
        assert outcome.failure is not None
        assert outcome.failure.kind == kind
    trial = study.ask()
    suggest(trial)
    trial.set_user_attr(FAILURE_KEY, "bad_luck")
    with pytest.warns(UserWarning, match="trial 2: loracle:failure='bad_luck' is not a failure kind, so"):
        study.tell(trial, state=TrialState.FAIL)
    suggest(study.ask())  # told once
    study.sampler = LoracleSampler(SPACE, seed=0)  # of a stored study that is loaded again
    with pytest.warns(UserWarning, match="counts as crashed; there are out_of_memory"):
        suggest(study.ask())
    outcome = history_of(study, SPACE).trials[2].outcome
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == FailureKind.CRASHED


@pytest.mark.parametrize(("reported", "value"), [(0.25, 0.25), (None, None)])
def test_pruned_trials_count_with_their_last_report(reported: float | None, value: float | None) -> None:
    study = make_study()
    trial = study.ask()
    suggest(trial)
    if reported is not None:
        trial.report(0.1, 0)
        trial.report(reported, 1)
    study.tell(trial, state=TrialState.PRUNED)
    outcome = history_of(study, SPACE).trials[0].outcome
    assert outcome is not None
    assert outcome.value == value
    suggest(study.ask())


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_values_count_as_diverged(value: float) -> None:
    study = make_study(direction="minimize")
    study.optimize(lambda trial: (suggest(trial), value)[1], n_trials=1)
    outcome = history_of(study, SPACE).trials[0].outcome
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind is FailureKind.DIVERGED
    study.optimize(objective, n_trials=2)


# -- several at once ----------------------------------------------------------------------------------


def test_four_jobs_never_train_a_config_twice() -> None:
    barrier = threading.Barrier(4, timeout=300)

    def meet(trial: optuna.Trial) -> float:
        config = suggest(trial)
        if trial.number < 4:
            barrier.wait()  # the first four are all pending at once
        return score(config)

    study = make_study()
    study.optimize(meet, n_trials=12, n_jobs=4)
    assert len(set(tried(study))) == 12


def test_pending_trials_are_avoided_with_ask_and_tell() -> None:
    study = make_study()
    trials = [study.ask() for _ in range(5)]
    configs = [tuple(suggest(trial).values()) for trial in trials]
    assert len(set(configs)) == 5
    assert [trial.outcome for trial in history_of(study, SPACE).trials] == [None] * 5


# -- seeds, saved studies, studies of others ----------------------------------------------------------


def test_a_seed_makes_the_search_repeatable() -> None:
    preset = replace(PRESETS["numeric"], seed_configs=())  # so that the start is random
    runs = []
    for _ in range(2):
        study = make_study(3, preset=preset)
        study.optimize(objective, n_trials=4)
        runs.append(tried(study))
    assert runs[0] == runs[1]
    for seeds in (range(8), [None] * 8):  # without a seed, each sampler draws its own
        studies = [optuna.create_study(sampler=LoracleSampler(SPACE, preset=preset, seed=s)) for s in seeds]
        assert len({tuple(suggest(study.ask()).values()) for study in studies}) > 1


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_study_that_is_loaded_again_goes_on_as_if_it_had_not_stopped(kind: str, tmp_path: Path) -> None:
    def storage(name: str) -> BaseStorage:
        path = tmp_path / name
        if kind == "journal":
            return JournalStorage(JournalFileBackend(str(path)))
        return RDBStorage(f"sqlite:///{path}")

    whole = optuna.create_study(
        storage=storage("whole"), direction="maximize", sampler=LoracleSampler(SPACE, seed=4)
    )
    whole.optimize(objective, n_trials=6)
    for _ in range(3):
        part = optuna.create_study(
            storage=storage("parts"),
            study_name="parts",
            load_if_exists=True,
            direction="maximize",
            sampler=LoracleSampler(SPACE, seed=4),
        )
        part.optimize(objective, n_trials=2)
    assert tried(part) == tried(whole)
    assert [trial.value for trial in part.trials] == [trial.value for trial in whole.trials]
    assert part.sampler.recommend(part) == whole.sampler.recommend(whole)  # type: ignore[attr-defined]


def test_a_sampler_can_be_pickled() -> None:
    study = make_study(seed=7)
    study.optimize(objective, n_trials=4)
    study.sampler = pickle.loads(pickle.dumps(study.sampler))
    study.optimize(objective, n_trials=2)
    whole = make_study(seed=7)
    whole.optimize(objective, n_trials=6)
    assert tried(study) == tried(whole)


def test_a_study_begun_by_another_sampler_is_learnt_from() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=8)
    study.add_trial(
        optuna.create_trial(
            value=1.0, params={"other": 3.0}, distributions={"other": FloatDistribution(0, 9)}
        )
    )
    study.add_trial(
        optuna.create_trial(value=1.0, params={"rank": 8.0}, distributions={"rank": FloatDistribution(0, 9)})
    )
    history = history_of(study, SPACE)
    assert [trial.number for trial in history.trials] == list(range(8))  # the others are no configs
    for trial, frozen in zip(history.trials, study.trials, strict=False):
        assert trial.index == SPACE.nearest(frozen.params)
    study.sampler = LoracleSampler(SPACE, seed=0)
    study.optimize(objective, n_trials=3)
    indices = [trial.index for trial in history_of(study, SPACE).trials]
    assert len(set(indices[-3:])) == 3
    assert not set(indices[-3:]) & set(indices[:-3])


def test_enqueued_trials_are_trained_and_learnt_from() -> None:
    study = make_study()
    config = {"rank": 32, "alpha_ratio": 4, "learning_rate": 1e-5}
    study.enqueue_trial(config)
    study.optimize(objective, n_trials=3)
    assert study.trials[0].params == config
    indices = [trial.index for trial in history_of(study, SPACE).trials]
    assert indices[0] == SPACE.index(config)
    assert len(set(indices)) == 3


def test_an_enqueued_part_of_a_config_is_what_counts() -> None:
    for fixed in ({"rank": 32}, {"learning_rate": 1e-5}, {"rank": 4, "alpha_ratio": 4}):
        study = make_study()
        study.enqueue_trial(fixed)
        study.optimize(objective, n_trials=2)
        first, second = study.trials
        assert fixed.items() <= first.params.items()
        assert history_of(study, SPACE).trials[0].index == SPACE.index(first.params)
        assert first.params != second.params


def test_a_fixed_alpha_is_what_counts() -> None:
    study = make_study()
    study.enqueue_trial({"alpha": 64.0})
    trial = study.ask()
    rank = trial.suggest_int("rank", 1, 256)
    alpha = trial.suggest_float("alpha", 1, 1024)
    study.tell(trial, 0.5)
    index = history_of(study, SPACE).trials[0].index
    assert index == SPACE.nearest(
        {"rank": rank, "alpha": alpha, "learning_rate": SPACE.config(index)["learning_rate"]}
    )


def test_fixing_parameters_with_optunas_own_sampler() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.PartialFixedSampler({"rank": 32}, LoracleSampler(SPACE, seed=0))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=4)
    assert {trial.params["rank"] for trial in study.trials} == {32}
    history = history_of(study, SPACE)
    assert [trial.index for trial in history.trials] == [SPACE.index(trial.params) for trial in study.trials]


def test_recommendation_follows_the_preset() -> None:
    study = make_study()
    sampler = study.sampler
    assert isinstance(sampler, LoracleSampler)
    for empty in (sampler, LoracleSampler()):
        with pytest.raises(SpaceError, match="no trial has succeeded"):
            empty.recommend(study)
    study.optimize(objective, n_trials=6)
    config = sampler.recommend(study)
    assert SPACE.index(config) in {trial.index for trial in history_of(study, SPACE).succeeded}


def test_optuna_and_the_optimizer_choose_the_same() -> None:
    study = make_study(seed=5)
    study.optimize(objective, n_trials=5)
    expected = propose(SPACE, history_of(study, SPACE), PRESETS["default"], seed=5)
    trial = study.ask()
    suggest(trial)
    assert chosen(study) == SPACE.config(expected[0])


def test_hooks_are_passed_on_to_the_independent_sampler() -> None:
    calls = []

    class Counting(optuna.samplers.RandomSampler):
        def reseed_rng(self) -> None:
            calls.append("reseed")

        def before_trial(self, study: Study, trial: FrozenTrial) -> None:
            calls.append("before")

        def after_trial(self, *arguments: object) -> None:  # type: ignore[override]
            calls.append("after")

    study = make_study(independent_sampler=Counting())
    study.optimize(objective, n_trials=1)
    study.sampler.reseed_rng()
    assert calls == ["before", "after", "reseed"]


def test_the_sampler_knows_how_large_a_model_is() -> None:
    """Without a space of its own: ranges and usual names are enough."""

    def step(parameters: float) -> float:
        study = optuna.create_study(
            direction="maximize", sampler=LoracleSampler(parameters=parameters, seed=0)
        )
        for _ in range(2):
            trial = study.ask()
            rate = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
            alpha = trial.suggest_int("lora_alpha", 4, 512, log=True)
            study.tell(trial, 0.5)
        return rate * alpha

    assert step(1e5) > 3 * step(7e10)
    with pytest.raises(ConfigError, match="parameters is how many"):
        LoracleSampler(parameters=0)


# -- what is told of names and choices ------------------------------------------------------------------


def test_other_names_in_a_space_are_told_to_lose_what_is_known() -> None:
    space = SearchSpace((Knob("lr", (1e-4, 1e-3), "log10"), Knob("lora_r", (8, 16), "log2")))
    with pytest.warns(UserWarning, match=r"not used for lr, lora_r: .* call them learning_rate, rank"):
        LoracleSampler(space)
    with pytest.warns(UserWarning, match="not used for lr, lora_r"):
        Optimizer(space)


def test_a_choice_that_the_space_lacks_is_told_once() -> None:
    study = make_study()
    with pytest.warns(UserWarning, match=r"'lr' is never 0.00025, as the search space holds no such") as told:
        study.ask().suggest_categorical("lr", [1e-4, 2.5e-4, 1e-3])
    study.ask().suggest_categorical("lr", [1e-4, 2.5e-4, 1e-3])
    assert len(told) == 1


def test_two_names_of_one_knob_are_told_of() -> None:
    def both(trial: optuna.Trial) -> float:
        return trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True) + trial.suggest_float("lr", 0, 1)

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with pytest.warns(
        UserWarning, match="'lr' is learning_rate, and so is 'learning_rate', which .* as well"
    ):
        study.optimize(both, n_trials=2)


def test_many_own_parameters_are_searched_and_not_said_to_be_drawn() -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        study.optimize(
            lambda t: (
                t.suggest_float("lr", 1e-5, 1e-2, log=True) + sum(t.suggest_float(n, 0, 1) for n in "abcd")
            ),
            n_trials=3,
        )
    assert sorted(str(one.message)[:3] for one in told) == [f"'{name}'" for name in "abcd"]
    assert not any("drawn by" in str(one.message) for one in told)


def test_the_first_trial_has_what_is_nearest_to_the_usual_values_where_steps_pass_them_by() -> None:
    def asks(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        trial.suggest_int("lora_alpha", 5, 100, step=5)
        trial.suggest_int("epochs", 1, 3)
        trial.suggest_float("warmup_ratio", 0, 0.2, step=0.05)
        return rate

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(asks, n_trials=2)
    first, second = (trial.params for trial in study.trials)
    assert (first["lr"], first["lora_alpha"], first["warmup_ratio"]) == (2e-4, 30, 0.05)
    assert (second["lr"], second["lora_alpha"]) != (2e-4, 30)  # no second trial of the same with more warm-up


def test_the_first_trial_has_the_usual_values_of_all_known_names() -> None:
    def asks(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
        trial.suggest_float("weight_decay", 0, 0.1)
        trial.suggest_float("warmup_ratio", 0, 0.2)
        trial.suggest_float("max_grad_norm", 0.1, 2)
        trial.suggest_int("num_train_epochs", 1, 5)
        return rate

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(asks, n_trials=1)
    assert study.trials[0].params == {
        "lr": 2e-4,
        "weight_decay": 0,
        "warmup_ratio": 0.03,
        "max_grad_norm": 1,
        "num_train_epochs": 1,
    }
