"""Ten scripts as different users of Optuna would write them, who read no documentation: `LoracleSampler()`.

Each stands in for a training by a formula with LoRA's step-size valley, and behaves as its author expects.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from loracle import LoracleSampler
from loracle.errors import SpaceError
from loracle.search.optuna_sampler.ranges import MOST, space_on, values_on

optuna.logging.set_verbosity(optuna.logging.ERROR)


def loss_of(
    lr: float, rank: float = 16, alpha: float = 32, batch: float = 16, dropout: float = 0.05
) -> float:
    """A validation loss: 1 at best, where alpha x lr / sqrt(batch) is some 2e-3."""
    step = math.log10(alpha * lr / math.sqrt(batch / 16)) + 2.2
    return 1 + step**2 + 0.3 / math.sqrt(rank) + dropout / 5


def distinct(study: Study) -> int:
    return len({tuple(sorted(trial.params.items())) for trial in study.trials})


def test_own_names() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        r = trial.suggest_categorical("lora_r", [4, 8, 16, 32, 64])
        alpha = trial.suggest_categorical("lora_alpha", [8, 16, 32, 64, 128])
        dropout = trial.suggest_float("lora_dropout", 0.0, 0.3)
        batch = trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32])
        return loss_of(lr, r, alpha, batch, dropout)

    study = optuna.create_study(direction="minimize", sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=15)
    assert distinct(study) == 15
    assert study.trials[0].params == {
        "lr": 2e-4,  # the usual settings first
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "per_device_train_batch_size": 16,
    }
    assert study.best_value < 1.15
    recommended = study.sampler.recommend(study)  # type: ignore[attr-defined]
    assert recommended.keys() == study.best_params.keys()
    assert recommended in [trial.params for trial in study.trials]


def test_float_ranges_are_searched_more_finely_than_a_grid() -> None:
    def objective(trial: optuna.Trial) -> float:
        return abs(math.log10(trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)) + 3.217)

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=20)
    assert distinct(study) == 20
    assert study.best_value < 0.02  # 5 % of the rate; the values of the default space are 40 % off
    assert {type(trial.params["learning_rate"]) for trial in study.trials} == {float}


def test_two_knobs_give_thirty_different_trials() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-3, log=True)
        return loss_of(lr, trial.suggest_int("r", 4, 64))

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=30)
    assert distinct(study) == len(study.trials) == 30
    assert study.best_value < 1.06


def test_ranges_beyond_any_grid() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 0.02, 0.5)  # no log: it is a learning rate all the same
        rank = trial.suggest_int("rank", 384, 1536, step=128)
        return loss_of(lr, rank, alpha=trial.suggest_float("lora_alpha", 0.01, 0.2), batch=16)

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=15)
    assert distinct(study) == 15
    for trial in study.trials:
        assert 0.02 <= trial.params["lr"] <= 0.5
        assert trial.params["rank"] in range(384, 1537, 128)
    assert study.best_value < 1.1


def test_pruning() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        loss = loss_of(lr, trial.suggest_categorical("r", [8, 16, 32]))
        for epoch in range(4):
            trial.report(loss + 1 / (epoch + 1), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    study = optuna.create_study(sampler=LoracleSampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=20)
    states = [trial.state for trial in study.trials]
    assert distinct(study) == 20
    assert states.count(TrialState.PRUNED) >= 3
    assert study.best_value < 1.12


def test_several_jobs() -> None:
    barrier = threading.Barrier(4, timeout=300)

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        rank = trial.suggest_int("r", 1, 256, log=True)
        if trial.number < 4:
            barrier.wait()  # the first four run at once, and nothing is known of what they will ask for
        return loss_of(lr, rank, trial.suggest_int("alpha", 8, 128))

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=16, n_jobs=4)
    assert distinct(study) == 16
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert len({trial.params["lr"] for trial in study.trials[:4]}) == 4


def test_several_jobs_end_quietly_where_nothing_is_left() -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with pytest.warns(UserWarning, match=r"all 6 configs that the objective asks for \(r\) have been tried"):
        study.optimize(
            lambda trial: loss_of(1e-4, trial.suggest_categorical("r", [2, 4, 8, 16, 32, 64])),
            n_trials=30,
            n_jobs=4,
        )
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert sorted(trial.params["r"] for trial in done) == [2, 4, 8, 16, 32, 64]


def test_several_objectives_give_a_pareto_front() -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        rank = trial.suggest_categorical("r", [2, 4, 8, 16, 32, 64, 128])
        return loss_of(lr, rank), float(rank)  # the loss, and the size

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=25)
    assert distinct(study) == 25
    front = sorted(trial.values for trial in study.best_trials)
    assert front[0][0] < 1.06  # the best loss
    assert any(loss < 1.2 for loss, size in front if size <= 4)  # and small ones that are nearly as good
    with pytest.raises(SpaceError, match=r"several objectives .* study\.best_trials"):
        study.sampler.recommend(study)  # type: ignore[attr-defined]


def test_constraints_are_kept_to() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        rank = trial.suggest_categorical("r", [4, 8, 16, 32, 64])
        trial.set_user_attr("memory", rank)
        return loss_of(lr, rank)

    sampler = LoracleSampler(seed=0, constraints_func=lambda trial: [trial.user_attrs["memory"] - 16])
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=20)
    assert study.best_params["r"] == 16  # Optuna counts infeasible trials out, too
    assert sum(trial.params["r"] > 16 for trial in study.trials) <= 6
    assert sampler.recommend(study)["r"] <= 16


def test_storage_and_a_resumed_study(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        alpha = trial.suggest_int("lora_alpha", 1, 512, log=True)
        return loss_of(lr, trial.suggest_int("lora_rank", 4, 128), alpha)

    def begin(place: str) -> Study:
        return optuna.create_study(
            storage=f"sqlite:///{tmp_path}/{place}.db",
            study_name="lora",
            load_if_exists=True,
            sampler=LoracleSampler(seed=0),
        )

    whole = begin("whole")
    whole.optimize(objective, n_trials=8)
    for _ in range(2):
        part = begin("part")
        part.optimize(objective, n_trials=4)
    assert [trial.params for trial in part.trials] == [trial.params for trial in whole.trials]
    part.enqueue_trial(
        {"lr": 3.3e-4, "lora_rank": 10, "lora_alpha": 20}
    )  # and what the user wants tried is tried
    part.optimize(objective, n_trials=3)
    assert part.trials[8].params == {"lr": 3.3e-4, "lora_rank": 10, "lora_alpha": 20}
    assert distinct(part) == 11


def test_minimising_mirrors_maximising() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        return loss_of(lr, trial.suggest_int("r", 4, 64, log=True))

    down = optuna.create_study(direction="minimize", sampler=LoracleSampler(seed=0))
    up = optuna.create_study(direction="maximize", sampler=LoracleSampler(seed=0))
    down.optimize(objective, n_trials=8)
    up.optimize(lambda trial: -objective(trial), n_trials=8)
    assert [trial.params for trial in down.trials] == [trial.params for trial in up.trials]


def test_other_parameters_and_branches_are_searched_too() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True)
        decay = trial.suggest_float("weight_decay", 0.0, 0.1)  # a knob that the trainer knows: no word
        optimizer = trial.suggest_categorical("optim", ["adamw_torch", "sgd", "adafactor"])
        momentum = trial.suggest_float("momentum", 0, 0.99) if optimizer == "sgd" else 0.9
        return loss_of(lr) + decay + {"adamw_torch": 0.1, "sgd": 0.5}.get(optimizer, 0) + abs(momentum - 0.9)

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with pytest.warns(UserWarning, match="'(optim|momentum)' is no hyperparameter") as said:
        study.optimize(objective, n_trials=30)
    assert len(said) == 2
    assert distinct(study) >= 29  # what ran before momentum was first asked for may have had one
    assert study.best_params["optim"] == "adafactor"
    assert study.best_value < 1.2


def test_an_exponent_under_a_knobs_name_is_searched_as_the_number_that_it_is() -> None:
    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with pytest.warns(UserWarning, match="'lr' is no learning_rate, as Float.* other values than that"):
        study.optimize(lambda trial: loss_of(10 ** trial.suggest_float("lr", -6, -2)), n_trials=12)
    assert distinct(study) == 12
    assert study.best_value < 1.2


def warned(objective: Callable[[optuna.Trial], float], trials: int) -> tuple[Study, list[str]]:
    """A study, and what it warned of."""
    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        study.optimize(objective, n_trials=trials)
    return study, [str(one.message) for one in said]


@pytest.mark.parametrize("choices", [None, [0.1, 0.3, 0.5, 0.7, 0.9]])
@pytest.mark.parametrize("ranks", [[16], [8, 16], None])
def test_an_alpha_of_distillation_is_none_of_lora(
    choices: list[float] | None, ranks: list[int] | None
) -> None:
    def distills(trial: optuna.Trial) -> float:
        loss = loss_of(trial.suggest_float("lr", 1e-5, 1e-2, log=True))
        if ranks:
            trial.suggest_categorical("r", ranks)
        alpha = (
            trial.suggest_categorical("alpha", choices) if choices else trial.suggest_float("alpha", 0.1, 0.9)
        )
        return loss + 10 * (alpha - 0.7) ** 2

    study, (said,) = warned(distills, 20)
    assert study.best_params["alpha"] == pytest.approx(0.7, abs=0.15)
    assert re.match(r"'alpha' is no alpha of LoRA, as .* has other values than that: it is searched by", said)
    assert said.endswith("if LoRA's is meant, call it 'lora_alpha'")


def test_an_alpha_without_a_rank_is_told_of_and_searched_by_numbers() -> None:
    def asks(trial: optuna.Trial, name: str, ranks: Sequence[int]) -> float:
        for one in ranks:
            trial.suggest_categorical("r", [one])
        loss = loss_of(trial.suggest_float("lr", 1e-5, 1e-2, log=True))
        return loss + abs(trial.suggest_int(name, 2, 60) - 23) / 10

    study, (said,) = warned(partial(asks, name="alpha", ranks=()), 20)
    assert said.startswith("'alpha' is no alpha of LoRA, as no rank is asked for: it is searched by numbers")
    assert study.best_params["alpha"] in range(20, 27)  # and not at a power of two
    for name, ranks in (("alpha", (16,)), ("lora_alpha", ()), ("lora.alpha", ())):
        study, told = warned(partial(asks, name=name, ranks=ranks), 4)
        assert not told
        assert {trial.params[name] for trial in study.trials} <= {2, 4, 8, 16, 32}


def test_an_alpha_beside_a_rank_of_a_branch_is_the_one_of_lora() -> None:
    """The first trials may not ask for either."""

    def branches(trial: optuna.Trial) -> float:
        loss = loss_of(trial.suggest_float("lr", 1e-5, 1e-2, log=True))
        if trial.suggest_categorical("method", ["full", "lora"]) == "full":
            return loss + 1
        return loss + abs(trial.suggest_int("alpha", 8, 128) - 64) / 64 + 1 / trial.suggest_int("r", 8, 64)

    study, told = warned(branches, 30)
    assert [one[:8] for one in told] == ["'method'"]
    alphas = [trial.params["alpha"] for trial in study.trials if "alpha" in trial.params]
    assert len(alphas) > 5
    assert set(alphas[1:]) <= {8, 16, 32, 64, 128}


def test_an_enqueued_alpha_of_another_kind_is_kept() -> None:
    def asks(trial: optuna.Trial) -> float:
        loss = loss_of(trial.suggest_float("lr", 1e-5, 1e-2, log=True))
        return loss + abs(trial.suggest_float("alpha", 0.1, 0.9) - 0.3)

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.enqueue_trial({"alpha": 0.35})
    with pytest.warns(UserWarning, match="'alpha' is no alpha of LoRA"):
        study.optimize(asks, n_trials=2)
    assert study.trials[0].params["alpha"] == 0.35
    assert study.trials[0].params["lr"] == 2e-4


@pytest.mark.filterwarnings("ignore:'x[0-9]+' is no hyperparameter.*searched by numbers")
def test_many_parameters_leave_the_search_within_bounds() -> None:
    def objective(trial: optuna.Trial) -> float:
        others = [trial.suggest_float(f"x{i}", -1, 1) for i in range(14)]
        return loss_of(trial.suggest_float("lr", 1e-6, 1e-2, log=True)) + sum(x * x for x in others) / 14

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    with pytest.warns(UserWarning, match="drawn by TPESampler in every trial"):
        study.optimize(objective, n_trials=4)
    assert distinct(study) == 4


def test_a_preset_or_a_space_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(SpaceError, match=r"space is a SearchSpace or left out; got {'lr': 1}"):
        LoracleSampler({"lr": 1})  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="name the space, too"):
        LoracleSampler(features=object())  # type: ignore[arg-type]


# -- the grid of a range --------------------------------------------------------------------------------


def test_the_resolution_is_as_stated() -> None:
    whole = optuna.distributions.IntDistribution
    real = optuna.distributions.FloatDistribution
    assert values_on("rank", whole(4, 64)) == [4, 8, 16, 32, 64]
    assert values_on("rank", whole(8, 16)) == list(range(8, 17))
    assert values_on("dropout", real(0, 0.2)) == [0, 0.05, 0.1, 0.15, 0.2]
    assert len(values_on("learning_rate", real(1e-5, 1e-2))) == 17
    rates = values_on("learning_rate", real(1e-5, 1e-2), level=1)
    assert (len(rates), rates[0], rates[-1]) == (33, 1e-5, 1e-2)
    assert set(values_on("learning_rate", real(1e-5, 1e-2))) <= set(rates)
    assert values_on("learning_rate", real(0, 1e-2))[0] == 1e-6
    assert values_on("own_x", real(0, 1, step=0.25)) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("name", ["r", "alpha", "batch_size", "lora_dropout", "own"])
@pytest.mark.filterwarnings("ignore:'own' is no hyperparameter:UserWarning")
def test_a_step_is_taken_as_it_is_written(name: str) -> None:
    """Also beside other parameters, and where powers of two or multiples of 0.05 lie in the range."""

    def objective(trial: optuna.Trial) -> float:
        loss = loss_of(trial.suggest_float("lr", 1e-5, 1e-2, log=True))
        if name == "lora_dropout":
            return loss + abs(trial.suggest_float(name, 0, 0.2, step=0.02) - 0.08) * 100
        if name != "r":
            loss += 1 / trial.suggest_categorical("lora_r", [8, 16])
        return loss + abs(trial.suggest_int(name, 8, 64, step=8) - 40)

    study = optuna.create_study(sampler=LoracleSampler(seed=0))
    study.optimize(objective, n_trials=25)
    assert study.best_params[name] == pytest.approx(0.08 if name == "lora_dropout" else 40)


def test_a_short_range_without_a_step_has_powers_of_two_and_a_long_one_with_a_step_too() -> None:
    whole = optuna.distributions.IntDistribution
    assert values_on("rank", whole(4, 16)) == [4, 8, 16]
    assert values_on("rank", whole(4, 16, step=4)) == [4, 8, 12, 16]
    assert values_on("rank", whole(8, 136, step=8)) == list(range(8, 137, 8))  # 17 values
    assert values_on("rank", whole(8, 144, step=8)) == [8, 16, 32, 64, 128]


def test_a_grid_has_no_more_candidates_than_can_be_searched() -> None:
    ranges = {f"own_{i}": (optuna.distributions.FloatDistribution(0, 1),) for i in range(20)}
    space = space_on(ranges, base=None, begun=True, trials=5)
    assert 1000 < len(space.candidates) <= MOST
    one = {"own_1": ranges["own_1"]}
    sizes = [len(space_on(one, base=None, begun=True, trials=n).candidates) for n in (1, 100, 1000)]
    assert sizes == [129, 513, 4097]
