"""Scripts of Optuna's users: some of the knobs, other names, other ranges, conditions, several at once.

An objective counts how often it trains: what is refused is refused before anything is paid for.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState

from loracle import LoracleSampler, default_space, paper_space
from loracle.errors import SpaceError
from loracle.records.space import Knob, SearchSpace
from loracle.search.optuna_sampler.history import history_of
from loracle.search.optuna_sampler.suggestions import representatives

optuna.logging.set_verbosity(optuna.logging.ERROR)

SPACE = paper_space()
RATES = SPACE["learning_rate"].values


def study_of(space: SearchSpace = SPACE, direction: str = "maximize", **options: object) -> Study:
    return optuna.create_study(direction=direction, sampler=LoracleSampler(space, seed=0), **options)  # type: ignore[arg-type]


def distinct(study: Study) -> int:
    return len({tuple(sorted(trial.params.items())) for trial in study.trials})


def readme(trial: optuna.Trial) -> float:
    """The README's example: two of the five knobs."""
    rate = trial.suggest_categorical("learning_rate", RATES)
    rank = trial.suggest_int("rank", 1, 256)
    return float(rank / 256 - abs(rate - 1e-4))


def step_size(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("learning_rate", 1e-6, 5e-3, log=True)
    return -abs(math.log10(rate) + 4) + trial.suggest_int("rank", 1, 256) / 256


# -- some of the knobs --------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 4])
def test_two_of_five_knobs_are_searched_and_no_others(jobs: int) -> None:
    study = study_of()
    study.optimize(readme, n_trials=30, n_jobs=jobs)
    assert distinct(study) == 30
    assert study.best_params == {"learning_rate": 1e-4, "rank": 256}
    sampler = study.sampler
    assert isinstance(sampler, LoracleSampler)
    assert set(sampler.recommend(study)) == {"learning_rate", "rank"}


def test_minimising_two_of_five_knobs() -> None:
    study = study_of(direction="minimize")
    study.optimize(lambda trial: -readme(trial), n_trials=30)
    assert distinct(study) == 30
    assert study.best_params == {"learning_rate": 1e-4, "rank": 256}


def test_some_knobs_in_parts_are_searched_as_in_one_go(tmp_path: Path) -> None:
    whole = study_of()
    whole.optimize(readme, n_trials=12)
    for _ in range(3):
        part = study_of(storage=f"sqlite:///{tmp_path}/study.db", study_name="s", load_if_exists=True)
        part.optimize(readme, n_trials=4)
    assert [trial.params for trial in part.trials] == [trial.params for trial in whole.trials]


def test_some_knobs_with_ask_and_tell_in_batches() -> None:
    study = study_of()
    for _ in range(4):
        batch = [study.ask() for _ in range(5)]
        for trial, value in [(trial, readme(trial)) for trial in batch]:
            study.tell(trial, value)
    assert distinct(study) == 20


def test_alpha_alone_is_searched_by_its_own_values() -> None:
    study = study_of(default_space())
    study.optimize(lambda trial: -abs(trial.suggest_int("alpha", 8, 128) - 64), n_trials=4)
    alphas = [trial.params["alpha"] for trial in study.trials]
    assert len(set(alphas)) == 4
    assert set(alphas) <= {8, 16, 32, 64, 128}
    assert alphas[0] == 32  # the usual settings first
    assert history_of(study, default_space()).trials[0].index == default_space().nearest(
        {"rank": 16, "alpha": 32, "dropout": 0.05, "batch_size": 16, "learning_rate": 2e-4}
    )


def test_a_knob_that_is_asked_for_later_is_searched_from_then_on() -> None:
    study = study_of()
    study.optimize(readme, n_trials=5)
    study.optimize(lambda trial: readme(trial) - trial.suggest_float("dropout", 0, 0.3), n_trials=8)
    assert distinct(study) == 13
    assert len({trial.params["dropout"] for trial in study.trials[5:]}) > 1


def test_knobs_that_depend_on_others_train_nothing_twice() -> None:
    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_categorical("rank", [4, 8, 16, 32])
        rate = trial.suggest_float("learning_rate", 1e-6, 5e-3, log=True)
        dropout = trial.suggest_float("dropout", 0, 0.3) if rank > 8 else 0.0
        return -abs(math.log10(rate) + 4) - dropout + rank / 100

    study = study_of()
    study.optimize(objective, n_trials=40)
    assert distinct(study) == 40
    assert {"dropout" in trial.params for trial in study.trials} == {True, False}


@pytest.mark.parametrize("preset", ["default", "numeric"])
def test_a_branch_that_appears_late_trains_nothing_twice(preset: str) -> None:
    """Settings of the branch that is known have no value of what the other one asks for, before and after."""

    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_categorical("rank", [8, 16, 32])
        rate = trial.suggest_categorical("learning_rate", [1e-4, 3e-4, 1e-3])
        lion = trial.suggest_categorical("optimizer", ["adamw", "lion"]) == "lion"
        if lion:
            trial.suggest_categorical("beta2", [0.9, 0.99, 0.999])
        return -abs(math.log10(rate) + 3.3) - abs(math.log2(rank) - 4) / 10 - 0.5 * lion

    sampler = LoracleSampler(preset=preset, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        study.optimize(objective, n_trials=40)
    assert any("have been tried or are running; the search ends here" in str(one.message) for one in told)
    assert "beta2" not in study.trials[0].params
    assert distinct(study) == len(study.trials) == 36


def test_configs_from_before_a_parameter_was_added_may_be_trained_with_it() -> None:
    def objective(trial: optuna.Trial) -> float:
        return -float(trial.suggest_categorical("rank", [8, 16]))

    study = study_of(default_space())
    study.optimize(objective, n_trials=1)
    study.optimize(lambda trial: objective(trial) - trial.suggest_float("dropout", 0, 0.3), n_trials=4)
    (first, *later) = study.trials
    assert first.params["rank"] in {trial.params["rank"] for trial in later}
    assert distinct(study) == 5


def test_ranges_that_depend_on_others_are_learnt() -> None:
    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_categorical("rank", [4, 8, 16, 32, 64])
        return float(rank + trial.suggest_int("batch_size", 2, 256 // rank) / 100)

    study = study_of()
    with pytest.warns(UserWarning, match="all 20 configs .*batch_size, rank.* have been tried"):
        study.optimize(objective, n_trials=30)
    assert distinct(study) == len(study.trials) == 20  # 6 + 5 + 4 + 3 + 2: all that there are


def test_representatives_are_the_usual_settings_in_all_else() -> None:
    rows = representatives(SPACE, frozenset({"rank", "learning_rate"}))
    configs = [SPACE.config(int(SPACE.candidates[row])) for row in sorted(set(rows.tolist()))]
    assert len(configs) == 90
    assert {(c["alpha_ratio"], c["dropout"], c["batch_size"]) for c in configs} == {(2, 0.05, 16)}
    assert representatives(SPACE, frozenset(SPACE.names)).tolist() == list(range(len(SPACE.candidates)))


# -- other names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "learning_rate"),
        ("r", "rank"),
        ("lora_r", "rank"),
        ("lora_alpha", "alpha"),
        ("lora_dropout", "dropout"),
        ("per_device_train_batch_size", "batch_size"),
        ("learningRate", "learning_rate"),
    ],
)
def test_other_spellings_of_knobs_are_the_knobs(name: str, meant: str) -> None:
    tried = []
    for word in (name, meant):
        study = study_of()
        study.optimize(lambda trial, word=word: trial.suggest_float(word, 1e-6, 256), n_trials=4)  # type: ignore[misc]
        tried.append([trial.params[word] for trial in study.trials])
    assert tried[0] == tried[1]
    assert len(set(tried[0])) == 4


def test_other_parameters_are_searched_by_numbers_with_a_warning_each_once() -> None:
    def objective(trial: optuna.Trial) -> float:
        warmup = trial.suggest_float("warmup", 0, 1)
        depth = trial.suggest_categorical("depth", ["a", None, "c"])
        return step_size(trial) / 100 - abs(warmup - 0.3) - (depth is not None) / 10

    study = study_of()
    with pytest.warns(UserWarning, match="is no knob") as said:
        study.optimize(objective, n_trials=20)
    texts = [str(one.message) for one in said]
    assert len(texts) == 2
    assert re.match(r"'warmup' is no knob .*\(rank, alpha_ratio, .* searched by numbers alone", texts[0])
    assert all(one.filename == __file__ for one in said)  # where the user's own code is
    assert distinct(study) == 20
    assert abs(study.best_params["warmup"] - 0.3) < 0.1
    assert study.best_params["depth"] is None


def test_a_name_that_resembles_a_knob_is_hinted_at() -> None:
    study = study_of()
    with pytest.warns(UserWarning, match="if 'dropout' is meant, call it so"):
        study.optimize(lambda trial: step_size(trial) + trial.suggest_float("dropuot", 0, 1), n_trials=1)


def test_an_objective_without_a_knob_is_searched_all_the_same() -> None:
    study = study_of()
    with pytest.warns(UserWarning, match="'[ab]' is no knob"):
        study.optimize(
            lambda trial: -abs(trial.suggest_float("a", 0, 1) - 0.7) - trial.suggest_int("b", 0, 5),
            n_trials=20,
        )
    assert distinct(study) == 20
    assert study.best_value > -0.1


def test_who_names_an_independent_sampler_has_decided() -> None:
    random = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=LoracleSampler(SPACE, seed=0, independent_sampler=random))
    study.optimize(lambda trial: trial.suggest_float("a", 0, 1), n_trials=3)  # no word, no refusal
    study.optimize(lambda trial: trial.suggest_float("a", 0, 1) + step_size(trial), n_trials=2)


def test_a_knobs_other_spelling_may_stand_beside_the_knob() -> None:
    def objective(trial: optuna.Trial) -> float:
        return step_size(trial) + trial.suggest_float("lr", 0, 1)  # of something else

    study = study_of()
    with pytest.warns(UserWarning, match="'lr' is learning_rate, and so is 'learning_rate', which"):
        study.optimize(objective, n_trials=2)


# -- other ranges -------------------------------------------------------------------------------------


def test_ranges_beside_the_grid_are_met_in_every_trial() -> None:
    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 2e-4, 0.1, log=True)
        rank = trial.suggest_int("rank", 24, 512, log=True)
        batch = trial.suggest_int("batch_size", 24, 72, step=8)
        return -abs(math.log10(rate) + 3) - rank / 1000 + batch / 1000

    study = study_of()
    study.optimize(objective, n_trials=20)
    assert distinct(study) == 20
    assert study.trials[0].params == {"learning_rate": 3e-4, "rank": 32, "batch_size": 32}  # near the usual
    for name, values in {"learning_rate": (3e-4, 4e-4, 5e-4, 5e-3), "rank": (32, 64, 128, 256)}.items():
        assert {trial.params[name] for trial in study.trials} <= set(values)
    assert {trial.params["batch_size"] for trial in study.trials} == {32, 64}


@pytest.mark.parametrize(
    "ask",
    [
        lambda trial: trial.suggest_int("rank", 257, 512),
        lambda trial: trial.suggest_float("dropout", 0.4, 0.9),
        lambda trial: trial.suggest_categorical("batch_size", [3, 5]),
        lambda trial: trial.suggest_categorical("batch_size", ["a", None]),
    ],
)
def test_a_range_beyond_the_grid_is_refused_before_anything_is_trained(
    ask: Callable[[optuna.Trial], object],
) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("learning_rate", 1e-6, 5e-3, log=True)
        ask(trial)
        raise AssertionError("trained")

    study = study_of()
    with pytest.raises(SpaceError, match="which contains no value that the search space holds") as caught:
        study.optimize(objective, n_trials=5)
    assert len(study.trials) == 1
    assert "\n" not in str(caught.value)
    study.optimize(step_size, n_trials=3)  # the mended script goes on, and the refused trial says nothing
    assert len(history_of(study, SPACE).trials) == 3


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution", "ignore:'rank' is never None")
def test_choices_of_any_kind_are_met() -> None:
    def objective(trial: optuna.Trial) -> float:
        rank = trial.suggest_categorical("rank", [None, True, "16", ("a",), np.int64(16), np.float32(64)])
        assert isinstance(rank, np.int64 | np.float32)
        return float(rank)

    study = study_of()
    with pytest.warns(UserWarning, match="all 2 configs"):
        study.optimize(objective, n_trials=9)
    assert sorted(trial.params["rank"] for trial in study.trials) == [16, 64]


def test_ranges_that_the_constraints_forbid_together_are_refused() -> None:
    space = default_space()  # alpha * learning_rate <= 0.5

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("learning_rate", 2e-3, 1)
        trial.suggest_int("alpha", 1024, 9999)
        raise AssertionError("trained")

    study = study_of(space)
    with pytest.raises(SpaceError, match=r"no config .* has alpha in IntDistribution.* of learning_rate;"):
        study.optimize(objective, n_trials=3)


def test_a_narrower_range_in_a_later_run_is_kept_to() -> None:
    study = study_of()
    study.optimize(step_size, n_trials=6)

    def narrower(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 5e-4, log=True)
        return -abs(math.log10(rate) + 4) + trial.suggest_int("rank", 4, 16) / 256

    study.optimize(narrower, n_trials=10)
    assert distinct(study) == 16
    assert {trial.params["rank"] for trial in study.trials[6:]} <= {4, 8, 16}


def test_a_wider_range_in_a_later_run_is_searched() -> None:
    study = study_of()
    study.optimize(lambda trial: trial.suggest_int("rank", 4, 16) / 256 + 0, n_trials=2)
    study.optimize(lambda trial: trial.suggest_int("rank", 1, 256) / 256, n_trials=6)
    assert distinct(study) == 8
    assert study.best_params == {"rank": 256}


def test_the_end_of_a_range_that_the_space_exceeds_says_how_to_go_on() -> None:
    study = study_of()

    def widening(trial: optuna.Trial) -> float:
        return trial.suggest_int("rank", 4, 8 if trial.number < 2 else 256) / 256

    with pytest.warns(UserWarning, match=r"asked for rank from 4 to 8, and the space holds more: .* again"):
        study.optimize(widening, n_trials=5)
    assert distinct(study) == len(study.trials) == 2
    study.optimize(widening, n_trials=3)
    assert distinct(study) == 5


def test_a_knob_with_one_value_is_left_at_it() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_categorical("batch_size", [24])  # Optuna gives these itself
        trial.suggest_float("dropout", 0.07, 0.07)
        return step_size(trial)

    study = study_of()
    study.optimize(objective, n_trials=20)
    assert distinct(study) == 20
    for record in history_of(study, SPACE).trials:
        config = SPACE.config(record.index)
        assert (config["batch_size"], config["dropout"]) in {(16, 0.05), (32, 0.05)}


# -- what Optuna's users do besides -------------------------------------------------------------------


def test_enqueued_parts_are_completed_and_train_nothing_twice() -> None:
    study = study_of()
    for fixed in ({"rank": 7}, {"learning_rate": 1e-4}, {"rank": 9, "learning_rate": 1e-4}):
        study.enqueue_trial(fixed)
    study.optimize(step_size, n_trials=15)
    assert distinct(study) == 15
    assert study.trials[0].params["rank"] == 7
    assert study.trials[2].params == {"learning_rate": 1e-4, "rank": 9}


def test_an_enqueued_config_may_be_trained_again() -> None:
    space = SearchSpace((Knob("rank", (4, 8)), Knob("dropout", (0.0, 0.1))))

    def objective(trial: optuna.Trial) -> float:
        return float(trial.suggest_int("rank", 4, 8) + trial.suggest_float("dropout", 0, 0.1))

    study = study_of(space)
    study.optimize(objective, n_trials=3)
    study.enqueue_trial({"rank": 4})
    study.enqueue_trial({"rank": 4})
    with pytest.warns(UserWarning, match="all 4 configs"):
        study.optimize(objective, n_trials=3)
    assert [trial.params["rank"] for trial in study.trials[3:]] == [4, 4]


def test_a_knob_that_another_sampler_fixes_is_not_searched() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.PartialFixedSampler({"rank": 32}, LoracleSampler(SPACE, seed=0))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(step_size, n_trials=10)
    assert {trial.params["rank"] for trial in study.trials} == {32}
    assert distinct(study) == 10


@pytest.mark.parametrize(
    "pruner", [optuna.pruners.HyperbandPruner(1, 9), optuna.pruners.MedianPruner(n_startup_trials=2)]
)
def test_pruned_trials_are_not_trained_twice(pruner: optuna.pruners.BasePruner) -> None:
    def objective(trial: optuna.Trial) -> float:
        value = readme(trial)
        for epoch in range(9):
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study = study_of(pruner=pruner)
    study.optimize(objective, n_trials=30)
    assert TrialState.PRUNED in {trial.state for trial in study.trials}
    assert distinct(study) == 30


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_processes_that_choose_at_the_same_time_choose_different_configs(kind: str, tmp_path: Path) -> None:
    def begin() -> Study:  # as another process would: its own connection, its own sampler, its own lock
        if kind == "sqlite":
            storage: BaseStorage = RDBStorage(f"sqlite:///{tmp_path}/study.db")
        else:
            storage = JournalStorage(JournalFileBackend(f"{tmp_path}/study.log"))
        return study_of(storage=storage, study_name="s", load_if_exists=True)

    studies = [begin() for _ in range(3)]
    together = threading.Barrier(3, timeout=300)

    def objective(trial: optuna.Trial) -> float:
        together.wait()
        return readme(trial)

    threads = [threading.Thread(target=study.optimize, args=(objective, 3)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(studies[0].trials) == 9
    assert distinct(studies[0]) == 9


def test_failed_and_nan_trials_are_not_trained_twice() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = readme(trial)
        if trial.number % 3 == 1:
            raise RuntimeError("out of luck")
        return math.nan if trial.number % 3 == 2 else value

    study = study_of()
    study.optimize(objective, n_trials=18, catch=(RuntimeError,))
    assert distinct(study) == 18


def test_some_knobs_of_another_samplers_study_are_learnt_from() -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(step_size, n_trials=20)  # values beside the grid
    assert len(history_of(study, SPACE).trials) == 20
    usual = {"alpha_ratio": 2, "dropout": 0.05, "batch_size": 16}
    for record, trial in zip(history_of(study, SPACE).trials, study.trials, strict=True):
        assert record.index == SPACE.nearest(trial.params | usual)
    study.sampler = LoracleSampler(SPACE, seed=0)
    study.optimize(step_size, n_trials=20)
    assert distinct(study) == 40
    assert all(trial.params["rank"] in SPACE["rank"].values for trial in study.trials[20:])
    assert max(trial.value for trial in study.trials[20:]) > 0.5  # type: ignore[type-var]


def test_trials_of_other_scripts_and_spaces_do_not_stop_a_study() -> None:
    study = study_of()
    for params, distributions in [
        ({"rank": 0, "learning_rate": 1e-4}, {"rank": IntDistribution(0, 9), "learning_rate": RATE}),
        ({"rank": 4096, "learning_rate": 9.0}, {"rank": IntDistribution(0, 9999), "learning_rate": RATE}),
        ({"rank": "all", "learning_rate": 1e-4}, {"rank": ALL, "learning_rate": RATE}),
        ({}, {}),
    ]:
        study.add_trial(optuna.create_trial(value=0.1, params=params, distributions=distributions))
    study.optimize(step_size, n_trials=3)
    assert distinct(study) == 7


RATE, ALL = FloatDistribution(1e-5, 10, log=True), CategoricalDistribution(["all", "none"])
