"""`hf.search` around trainers that are a user's own; `examples/` has real ones of transformers and TRL."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.distributions import IntDistribution

from loracle import hf
from loracle.errors import ConfigError, SpaceError, StudyError
from loracle.own_trainer.direction import sign_of
from loracle.records.events import TrialFinished, TrialStarted
from loracle.records.space import Knob, SearchSpace
from loracle.records.trial import FailureKind

pytestmark = pytest.mark.filterwarnings("ignore:trial [0-9]+ gives no score:UserWarning")  # tested once

SPACE = {"lr": (1e-5, 1e-2), "lora_r": [4, 8, 16], "optim": ["sgd", "adamw"]}


class Stub:
    """A trainer whose loss is known; what it was made with is kept."""

    made: list[dict[str, Any]] = []  # noqa: RUF012
    fails: dict[int, BaseException] = {}  # noqa: RUF012

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        Stub.made.append(config)

    def train(self) -> None:
        if error := Stub.fails.get(len(Stub.made)):
            raise error

    def evaluate(self) -> dict[str, Any]:
        step = math.log10(self.config["lr"]) + 3
        loss = step**2 + 1 / self.config["lora_r"] + (self.config["optim"] == "sgd")
        return {"eval_loss": loss, "eval_accuracy": -loss, "eval_note": "text"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "made", [])
    monkeypatch.setattr(Stub, "fails", {})


def test_each_trial_is_a_trainer_of_the_users_own() -> None:
    events: list[object] = []
    found = hf.search(Stub, SPACE, trials=15, listen=events.append)
    assert len(Stub.made) == len({tuple(made.items()) for made in Stub.made}) == 15
    assert Stub.made[0] == {"lr": 2e-4, "lora_r": 16, "optim": "sgd"}  # the usual settings first
    assert found.params in Stub.made
    assert found.params["optim"] == "adamw"
    assert found.value < 0.3
    assert [type(event) for event in events] == [TrialStarted, TrialFinished] * 15
    told = [event.config for event in events if isinstance(event, TrialStarted | TrialFinished)]
    assert told == [made for made in Stub.made for _ in range(2)]  # by the names and values of the user
    assert [params for params, _ in found.trials] == Stub.made


def test_a_larger_metric_is_better_unless_it_is_a_loss() -> None:
    losses = hf.search(Stub, SPACE, trials=5)
    scores = hf.search(Stub, SPACE, trials=5, metric="eval_accuracy")
    assert losses.params == scores.params
    assert losses.value == -scores.value
    with pytest.raises(ConfigError, match="direction is minimize or maximize; got 'up'"):
        hf.search(Stub, SPACE, direction="up")


LESS = """
eval_loss loss eval_general_loss eval_ppl perplexity eval_nll eval_cross_entropy eval_mse eval_rmse evalLoss
eval_bits_per_byte eval_bpb wer eval_cer eval_err eval_kl eval_brier_score error_rate
"""
MORE = """
eval_accuracy acc eval_f1 macro_f1 rougeL eval_rouge1 bleu eval_lossless_match pass@1 eval_score exact_match
eval_roc_auc eval_reward
"""
UNSAID = """
eval_hallucination_rate eval_false_positive_rate eval_toxicity_score eval_mine loss_of_accuracy glossary
eval_steps_per_second closeness eval_entropy entropy
"""


def test_a_direction_is_taken_from_a_name_that_says_it_and_else_asked_for() -> None:
    class Named(Stub):
        def evaluate(self) -> dict[str, Any]:
            return dict.fromkeys(("eval_ppl", "acc", "eval_mine"), math.log10(self.config["lr"]))

    assert {sign_of(name, None) for name in LESS.split()} == {-1.0}
    assert {sign_of(name, None) for name in MORE.split()} == {1.0}
    space = {"lr": [1e-4, 1e-3]}
    for name in UNSAID.split():
        with pytest.raises(ConfigError, match=f"direction: the name '{name}' does not say whether more"):
            hf.search(Named, space, metric=name)
        with pytest.raises(ConfigError, match=f"guards: '{name}': direction: the name"):
            hf.search(Named, space, guards={name: {}})
    less, more = (hf.search(Named, space, trials=2, metric=name) for name in ("eval_ppl", "acc"))
    assert (less.direction, less.params) == ("minimize", {"lr": 1e-4})
    assert (more.direction, more.params) == ("maximize", {"lr": 1e-3})
    said = hf.search(Named, space, trials=2, metric="eval_mine", direction="minimize")
    assert said.params == less.params


def test_numbers_of_numpy_and_torch_are_numbers_and_what_is_no_mapping_is_told() -> None:
    class Others(Stub):
        def evaluate(self) -> Any:
            own = super().evaluate()
            return {"eval_loss": np.float32(own["eval_loss"]), "eval_f1": torch.tensor(own["eval_accuracy"])}

    class Nothing(Stub):
        def evaluate(self) -> Any:
            return None

    assert hf.search(Others, SPACE, trials=3).params == hf.search(Stub, SPACE, trials=3).params
    assert hf.search(Others, SPACE, trials=3, metric="eval_f1").value < 0
    with pytest.raises(ConfigError, match=r"evaluate\(\) gives no number 'eval_loss'; it gives nothing"):
        hf.search(Nothing, SPACE, trials=2)
    with pytest.raises(ConfigError, match=r"guards: a mapping of metrics to settings; got \['eval_loss'\]"):
        hf.search(Stub, SPACE, guards=["eval_loss"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="base is a number; got nan"):
        hf.search(Stub, SPACE, guards={"eval_loss": {"base": math.nan}})


def test_where_every_config_loses_a_guard_that_is_said(tmp_path: Path) -> None:
    class Forgets(Stub):
        trained = False

        def train(self) -> None:
            self.trained = True

        def evaluate(self) -> dict[str, Any]:
            return {**super().evaluate(), "eval_general_loss": 2.5 if self.trained else 2.0}

    with pytest.warns(UserWarning, match="every config that was tried loses what must not be lost") as told:
        found = hf.search(Forgets, SPACE, trials=4, guards={"eval_general_loss": {"tolerance": "2 %"}})
    assert "eval_general_loss, 2 before training, 2.5 after it, 0.04 may go" in str(told[0].message)
    assert found.lost == ("eval_general_loss",)
    kept = hf.search(Forgets, SPACE, trials=4, guards={"eval_general_loss": {"tolerance": "50 %"}})
    assert kept.lost == ()


def test_memory_that_is_short_for_a_while_is_no_end_of_the_search(tmp_path: Path) -> None:
    short = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    Stub.fails = {3: short}
    space = {"lr": (1e-5, 1e-2), "lora_r": [8], "optim": ["adamw"]}
    assert len(hf.search(Stub, space, trials=6).trials) == 6  # no config is smaller
    Stub.made, Stub.fails = [], {3: short}
    found = hf.search(Stub, SPACE, trials=8)
    assert len(found.trials) == 8
    large = Stub.made[2]["lora_r"]
    assert any(made["lora_r"] >= large for made in Stub.made[:2])  # one as large had been trained
    Stub.made, Stub.fails = [], dict.fromkeys((3, 4, 5), short)
    with pytest.raises(
        StudyError, match="ran out of memory 3 times in a row, and no config of the space needs"
    ):
        hf.search(Stub, space, trials=8, folder=tmp_path)
    found = hf.search(Stub, space, trials=8, folder=tmp_path)  # memory is there again
    assert sum(outcome.failure is None for _, outcome in found.trials) == 8


def test_a_search_that_ends_early_says_why() -> None:
    Stub.fails = {1: RuntimeError("CUDA out of memory"), 2: RuntimeError("CUDA out of memory")}
    space = {"lr": [1e-4], "lora_r": [8, 16], "optim": ["adamw", "sgd"]}
    early = "ends after 2 of 9 trials: 2 candidates are tried, and no other fits"
    with (
        pytest.warns(UserWarning, match=early),
        pytest.raises(SpaceError, match=r"recommend: 2 out of memory, the last one with: .*CUDA"),
    ):
        hf.search(Stub, space, trials=9)
    Stub.made, Stub.fails = [], {}
    with pytest.warns(UserWarning, match="ends after 2 of 9 trials: all 2 candidates are tried"):
        hf.search(Stub, {"lr": [1e-4, 1e-3], "lora_r": [8], "optim": ["adamw"]}, trials=9)


def test_a_side_of_a_range_that_always_crashes_is_left_and_told() -> None:
    class Brittle(Stub):
        def train(self) -> None:
            if self.config["lr"] > 1e-3:
                raise RuntimeError("loss is not finite")

    space = {"lr": (1e-5, 1e-2), "lora_r": (4, 64), "optim": ["adamw"]}
    with pytest.warns(UserWarning, match="^lr [0-9.]+e-3 or more: all .* failed") as told:
        found = hf.search(Brittle, space, trials=20)
    failed = [params for params, outcome in found.trials if outcome.failure]
    assert len(found.trials) == 20
    assert len(failed) <= 10
    assert found.params["lr"] <= 1e-3
    assert len([one for one in told if "or more" in str(one.message)]) == 1


def test_the_same_call_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    hf.search(Stub, SPACE, trials=6)
    whole, Stub.made = Stub.made, []
    Stub.fails = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        hf.search(Stub, SPACE, trials=6, folder=tmp_path)
    hf.search(Stub, SPACE, trials=6, folder=tmp_path)
    assert Stub.made == [*whole[:4], *whole[3:]]  # the one that was cut short is trained again
    hf.search(Stub, SPACE, trials=6, folder=tmp_path)
    assert len(Stub.made) == 7


def test_failures_are_typed_and_learnt_from() -> None:
    Stub.fails = {
        1: RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        2: FloatingPointError("loss is NaN"),
        3: ValueError("odd"),
    }
    found = hf.search(Stub, SPACE, trials=6)
    kinds = [outcome.failure.kind if outcome.failure else None for _, outcome in found.trials]
    assert kinds == [FailureKind.OUT_OF_MEMORY, FailureKind.DIVERGED, FailureKind.CRASHED, None, None, None]
    assert all(params["lora_r"] < 16 for params, _ in found.trials[1:])  # nothing as large again


def test_a_value_that_is_not_finite_is_diverged() -> None:
    class Wild(Stub):
        def evaluate(self) -> dict[str, Any]:
            return {"eval_loss": math.nan if len(Stub.made) == 2 else super().evaluate()["eval_loss"]}

    found = hf.search(Wild, SPACE, trials=4)
    assert [outcome.failure is not None for _, outcome in found.trials] == [False, True, False, False]


def test_a_crash_is_told_of_once_for_each_kind() -> None:
    Stub.fails = {
        2: RuntimeError("size 3 against 4"),
        5: RuntimeError("size 5 against 4"),
        8: ValueError("no such column"),
        11: FloatingPointError("loss is NaN"),
    }
    with pytest.warns(UserWarning, match="gives no score") as told:
        hf.search(Stub, SPACE, trials=14)
    assert [str(warning.message) for warning in told] == [
        "trial 1 gives no score (crashed): RuntimeError: size 3 against 4",
        "trial 7 gives no score (crashed): ValueError: no such column",
    ]
    assert {warning.filename for warning in told} == {__file__}


def test_a_trainer_that_always_crashes_ends_the_search(tmp_path: Path) -> None:
    Stub.fails = {number: TypeError("no such argument") for number in (1, 2, 3)}
    with pytest.raises(StudyError, match=r"crashed 3 times in a row.*TypeError: no such argument"):
        hf.search(Stub, SPACE, trials=9, folder=tmp_path)
    found = hf.search(Stub, SPACE, trials=4, folder=tmp_path)  # mended: those trials count for nothing
    assert sum(outcome.value is not None for _, outcome in found.trials) == 4


def test_a_value_that_always_crashes_is_no_end_of_the_search(tmp_path: Path) -> None:
    class Fragile(Stub):
        def train(self) -> None:
            if self.config["lora_r"] == 16:
                raise RuntimeError("no such kernel")

    with pytest.warns(UserWarning, match=r"^lora_r 16: all 3 trials with it failed .*no such kernel\), and"):
        found = hf.search(Fragile, SPACE, trials=12, folder=tmp_path)
    crashed = [params for params, outcome in found.trials if outcome.failure]
    assert [params["lora_r"] for params in crashed] == [16] * 3
    assert found.params["lora_r"] < 16
    assert len(found.trials) == 12


def test_what_cannot_be_searched_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"evaluate.. gives no number 'eval_f1'; it gives eval_accuracy, eval_l"
    ):
        hf.search(Stub, SPACE, metric="eval_f1", direction="maximize")
    for space, said in [({"lr": object()}, "lr: a list"), ({"lr": (2, 1)}, "lr: "), ([1], "maps names")]:
        with pytest.raises(SpaceError, match=said):
            hf.search(Stub, space)  # type: ignore[arg-type]
    hf.search(Stub, SPACE, trials=2, folder=tmp_path)
    with pytest.raises(StudyError, match="metric"):
        hf.search(Stub, SPACE, trials=2, folder=tmp_path, metric="eval_accuracy")
    with pytest.raises(StudyError, match="space"):
        hf.search(Stub, {**SPACE, "lora_r": [4, 8]}, trials=2, folder=tmp_path)


def test_beliefs_are_in_the_users_own_names() -> None:
    hf.search(Stub, SPACE, trials=2)
    for beliefs in ({"lora_r": "at most 4"}, {"optim": "not sgd"}, {"lr": 1e-3}):
        hf.search(Stub, SPACE, trials=2, beliefs=beliefs)
    plain, *told = Stub.made[1::2]
    with pytest.warns(UserWarning, match="beliefs.lr: at most 1 makes no difference") as warned:
        hf.search(Stub, SPACE, trials=2, beliefs={"lr": "at most 1"})
    assert (len(warned), warned[0].filename) == (1, __file__)
    assert (plain["lora_r"], told[0]["lora_r"]) == (16, 4)
    assert (plain["optim"], told[1]["optim"]) == ("sgd", "adamw")
    assert abs(math.log10(told[2]["lr"] / 1e-3)) < 0.05 < abs(math.log10(plain["lr"] / 1e-3))
    for name in ("learning_rates", "alpha", "dropout"):  # the last two are knobs, but not of this search
        with pytest.raises(SpaceError, match=f"beliefs: {name} is no parameter; there are lr, lora_r, optim"):
            hf.search(Stub, SPACE, trials=2, beliefs={name: "around 3e-5"})
    with pytest.raises(SpaceError, match=r"beliefs\.optim: lion is none of its choices"):
        hf.search(Stub, SPACE, trials=2, beliefs={"optim": "probably lion"})


def test_a_search_keeps_the_beliefs_that_it_began_with(tmp_path: Path) -> None:
    hf.search(Stub, SPACE, trials=2, folder=tmp_path, beliefs={"lr": "at least 3e-3"})
    for other in (None, {"lr": "at most 2e-5"}):
        with pytest.raises(StudyError, match=r"run began: beliefs, by which .* use another folder"):
            hf.search(Stub, SPACE, trials=3, folder=tmp_path, beliefs=other)
    assert (
        len(hf.search(Stub, SPACE, trials=3, folder=tmp_path, beliefs={"lr": "at least 0.003"}).trials) == 3
    )


def test_a_step_is_kept_and_a_folder_that_was_begun_without_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until December 2026 ranks with a step had powers of two alone, and any `alpha` was LoRA's."""

    class Steps(Stub):
        def __init__(self, config: dict[str, Any]) -> None:
            super().__init__({"optim": "adamw", "lora_r": config["r"], **config})

    space = {"lr": (1e-5, 1e-2), "r": IntDistribution(8, 40, step=8), "alpha": (0.1, 0.9)}
    with monkeypatch.context() as before:
        for name in ("knobs_of", "space_on"):
            rules = getattr(hf, name)
            before.setattr(
                hf, name, partial(lambda rules, *a, **k: rules(*a, **{**k, "as_before": True}), rules)
            )
        hf.search(Steps, space, trials=4, folder=tmp_path)
    hf.search(Steps, space, trials=12, folder=tmp_path)
    assert len(Stub.made) == 12
    assert {made["r"] for made in Stub.made} == {8, 16, 32}
    assert {made["alpha"] for made in Stub.made} <= {0.125, 0.25, 0.5}
    hf.search(Steps, space, trials=20)
    assert {made["r"] for made in Stub.made[12:]} & {24, 40}
    assert any(made["alpha"] > 0.5 for made in Stub.made[12:])


def test_a_pair_of_whole_numbers_is_continuous_where_the_name_is() -> None:
    made: list[dict[str, Any]] = []

    class Sees(Stub):
        def __init__(self, config: dict[str, Any]) -> None:
            made.append(config)
            super().__init__({"lora_r": 8, "optim": "adamw", **config})

    hf.search(Sees, {"lr": (1e-5, 1e-2), "weight_decay": (0, 1), "lora_dropout": (0, 1)}, trials=4)
    assert made[0]["weight_decay"] == 0
    assert made[0]["lora_dropout"] == 0.05
    assert all(config["lora_dropout"] < 1 for config in made)
    made.clear()
    hf.search(Sees, {"lr": (1e-5, 1e-2), "num_epochs": (1, 3)}, trials=4)
    assert {config["num_epochs"] for config in made} <= {1, 2, 3}


def test_texts_that_say_numbers_are_numbers_where_the_knob_is_one() -> None:
    space = {"lr": ["1e-4", "1e-3"], "lora_r": ["8"], "optim": ["adamw"], "version": ["1", "2"]}
    found = hf.search(Stub, space, trials=4)
    assert {config["lr"] for config in Stub.made} == {1e-4, 1e-3}
    assert {config["version"] for config in Stub.made} == {"1", "2"}  # a name of the user's own
    assert repr(found.params["lora_r"]) == "8"


def test_names_of_a_space_that_lose_what_is_known_are_told() -> None:
    space = SearchSpace((Knob("lr", (1e-4, 1e-3), "log10"), Knob("lora_r", (8, 16), "log2")))
    with pytest.warns(UserWarning, match=r"not used for lr, lora_r: .* call them learning_rate, rank"):
        hf.search(lambda config: Stub({"optim": "sgd", **config}), space, trials=2)


def test_a_space_that_is_smaller_than_the_trials_is_told_of() -> None:
    with pytest.warns(UserWarning, match="the search ends after 4 of 10 trials"):
        hf.search(
            lambda config: Stub({"optim": "sgd", **config}),
            {"lr": [1e-4, 1e-3], "lora_r": [8, 16]},
            trials=10,
        )
