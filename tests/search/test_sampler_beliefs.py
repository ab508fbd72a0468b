"""Beliefs of an Optuna user, in the words of the objective."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import optuna
import pytest

from loracle import LoracleSampler, UserBeliefs, paper_space
from loracle.errors import ConfigError, SpaceError

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
    rank = trial.suggest_categorical("lora_r", [4, 8, 16, 32, 64])
    name = trial.suggest_categorical("optim", ["sgd", "adamw", "lion"])
    alpha = trial.suggest_int("lora_alpha", 8, 128, log=True)
    return -((math.log10(rate) + 5) ** 2) + (name == "lion") - 0 * rank * alpha


def searched(trials: int, sampler: LoracleSampler | None = None, **settings: Any) -> list[dict[str, Any]]:
    sampler = sampler or LoracleSampler(seed=0, **settings)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'optim' is no hyperparameter")
        study.optimize(objective, n_trials=trials)
    return [trial.params for trial in study.trials]


def test_they_move_what_is_tried_after_the_usual_settings() -> None:
    plain, told = searched(5), searched(5, beliefs={"lr": "around 1e-5", "lora_r": "at least 64"})
    assert plain[0] == told[0]
    assert min(p["lr"] for p in told) < min(p["lr"] for p in plain)
    assert max(p["lora_r"] for p in told[1:3]) == 64 > max(p["lora_r"] for p in plain[1:3])
    names = [p["optim"] for p in searched(4, beliefs={"optim": "probably lion"})]
    assert "lion" in names[1:3]
    good = UserBeliefs.of({}, good=[{"lr": 1e-5, "lora_r": 8, "optim": "lion", "lora_alpha": 16}])
    assert min(p["lr"] for p in searched(5, beliefs=good)) < 1e-4


def test_what_is_said_of_nothing_is_warned_of_once() -> None:
    with pytest.warns(UserWarning, match="has not asked for dropuot, which is left out so far") as told:
        found = searched(5, beliefs={"dropuot": "around 0", "lr": "at most 1e-4"})
    assert len([one for one in told if "dropuot" in str(one.message)]) == 1
    assert found == searched(5, beliefs={"lr": "at most 1e-4"})


def test_what_makes_no_difference_is_warned_of_once_in_the_users_words() -> None:
    beliefs = UserBeliefs.of({"lr": "at most 1", "lora_r": "at least 16"}, good=[{"lr": 1e6}])
    with pytest.warns(UserWarning, match="no difference") as told:
        searched(4, beliefs=beliefs)
    said = [str(one.message) for one in told if "beliefs" in str(one.message)]
    assert said == [
        "beliefs.lr: at most 1 makes no difference, as it says the same of all candidates",
        "beliefs.good: lr 1e+06 makes no difference, as no candidate is near: the nearest has "
        "learning_rate 0.01",
    ]


@pytest.mark.parametrize(
    ("beliefs", "words"),
    [
        ({"lr": "arround 1e-4"}, "lr: arround 1e-4 is no belief"),
        ({"optim": "probably adam"}, "beliefs.optim: adam is none of its choices: sgd, adamw, lion"),
        ({"optim": True}, "beliefs.optim: True is none of its choices: sgd"),
        ({"lr": "probably low"}, "beliefs.lr: low is none of its choices, which are numbers"),
        ({"optim": "at least 3"}, "has names, which have no order"),
        ({"lr": "around 0"}, "cannot stand on a log"),
    ],
)
def test_what_is_no_belief_is_refused(beliefs: dict[str, str], words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        searched(3, beliefs=beliefs)


def test_a_preset_that_reads_none_is_refused_and_a_sampler_can_be_kept() -> None:
    with pytest.raises(ConfigError, match="beliefs: this preset reads none"):
        LoracleSampler(paper_space(), preset="paper", features=object(), beliefs={"rank": 64})  # type: ignore[arg-type]
    sampler = LoracleSampler(seed=0, beliefs={"lr": "around 1e-5"})
    kept = searched(4, sampler=pickle.loads(pickle.dumps(sampler)))
    assert kept == searched(4, beliefs={"lr": "around 1e-5"})


@pytest.mark.filterwarnings("ignore:'use_dora' is no hyperparameter", "ignore:'clip' is no hyperparameter")
@pytest.mark.parametrize("said", [True, "True", "probably True", "not False"])
def test_beliefs_about_choices_that_are_true_false_or_none(said: object) -> None:
    def asks(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        return float(
            trial.suggest_categorical("use_dora", [False, True])
            + (trial.suggest_categorical("clip", [1.0, None]) is None)
        )

    def second(**options: Any) -> dict[str, Any]:
        study = optuna.create_study(sampler=LoracleSampler(seed=0, **options))
        study.optimize(asks, n_trials=2)
        return dict(study.trials[1].params)

    assert second()["use_dora"] is False
    assert second(beliefs={"use_dora": said})["use_dora"] is True
    assert second(beliefs={"clip": None})["clip"] is None
    assert second(beliefs={"good": {"clip": None, "use_dora": True}})["clip"] is None


@pytest.mark.parametrize("name", ["alpha", "dropout"])
def test_what_the_objective_never_asks_for_steers_nothing(name: str) -> None:
    def asks(trial: optuna.Trial) -> float:
        return trial.suggest_float("lr", 1e-6, 1e-2, log=True) * trial.suggest_int("r", 4, 256, log=True)

    def params(**options: Any) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=LoracleSampler(seed=0, **options))
        study.optimize(asks, n_trials=5)
        return [trial.params for trial in study.trials]

    with pytest.warns(UserWarning, match=f"has not asked for {name}, which is left out") as told:
        found = params(beliefs={name: "at most 4"})
    assert len(told) == 1
    assert found == params()


@pytest.mark.filterwarnings("ignore:'optim/momentum' is no hyperparameter")
@pytest.mark.parametrize("said", ["lr", "learning_rate"])
def test_a_name_without_its_prefix_will_do(said: str) -> None:
    def asks(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("optim/lr", 1e-6, 1e-2, log=True)
        return rate + trial.suggest_float("optim/momentum", 0, 1)

    def params(**beliefs: Any) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=LoracleSampler(seed=0, beliefs=beliefs))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="beliefs")
            study.optimize(asks, n_trials=4)
        return [trial.params for trial in study.trials]

    belief = "at most 1e-5"
    whole = params(**{"optim/lr": belief, "optim/momentum": "probably 0.25"})
    assert params(**{said: belief, "momentum": "probably 0.25"}) == whole
    assert params(momentum="probably 0.25") != whole != params(**{said: belief})
    assert params(good={said: 1e-5, "momentum": 0.25}) == params(
        good={"optim/lr": 1e-5, "optim/momentum": 0.25}
    )
