"""Past runs as tools leave them: understood, compared or refused, counted, and the best tried first."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import Loracle
from optuna.exceptions import ExperimentalWarning

from loracle.config.loading import load_config, parse_config
from loracle.config.settings import RunConfig, build_space
from loracle.errors import ConfigError, LoracleError
from loracle.run.past.candidates import PastRuns, PastTrials, read_past
from loracle.run.tune import tune

RATES = (1e-5, 1e-4, 1e-3)
SPACE = {
    "base": "empty",
    "rank": [4, 8, 16],
    "alpha_ratio": [1, 2],
    "dropout": 0,
    "batch_size": [8, 16],
    "learning_rate": list(RATES),
}


def settings(*past: object, metric: str = "loss", **changes: Any) -> RunConfig:
    content = {"model": "m", "data": {"train": "t.jsonl"}, "space": SPACE, "scoring": {"metric": metric}}
    return parse_config(yaml.safe_dump({**content, "search": {"past": list(past)}, **changes}))


def read(*past: object, metric: str = "loss", **changes: Any) -> PastRuns:
    config = settings(*past, metric=metric, **changes)
    return read_past(config, build_space(config.space))


def refusal(*past: object, metric: str = "loss", **changes: Any) -> str:
    with pytest.raises(LoracleError) as error:
        read(*past, metric=metric, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def configs(past: PastRuns) -> list[tuple[float, ...]]:
    """Rank, alpha, batch and rate of each config of the first source, the best one first."""
    space = build_space(settings().space)
    found = [space.config(index) for index in past.trials[0].best_first]
    return [tuple(one[name] for name in ("rank", "alpha", "batch_size", "learning_rate")) for one in found]


def table(path: Path, rows: Sequence[Mapping[str, object]], separator: str = ",") -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def wandb_rows(**changes: object) -> list[dict[str, object]]:
    """As W&B's table of runs is exported: config, what was logged last, and the state."""
    return [
        {
            "Name": f"run-{i}",
            "State": "finished",
            "config.lr": rate,
            "config.peft_config.default.r": 8,
            "config.peft_config.default.lora_alpha": 16,
            "config.attention_dropout": 0.5,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "train/learning_rate": 1e-12,
            "train/loss": 0.1,
            "eval/loss": 1.0 + i,
            "eval/accuracy": 0.5 + 0.1 * i,
        }
        | changes
        for i, rate in enumerate(RATES)
    ]


# -- what tools leave -------------------------------------------------------------------------------


def test_a_table_of_wandb_is_understood(tmp_path: Path) -> None:
    past = read(table(tmp_path / "runs.csv", wandb_rows()))
    assert configs(past) == [(8, 16, 8, rate) for rate in RATES]
    assert past.trials[0].values == (-1.0, -2.0, -3.0)  # larger is better; not the loss of training
    (notice,) = past.notices
    assert (notice.about, notice.count) == ("search", 3)
    assert "3 of 3 results of" in notice.text
    assert "by eval/loss; the best are, in order, alpha 16, batch_size 8" in notice.text


def test_what_wandb_s_api_writes_is_understood(tmp_path: Path) -> None:
    rows = [
        {"summary": {"eval/loss": i, "_runtime": 3}, "config": {"lr": rate, "r": 8, "lora_alpha": 8, "bs": 8}}
        for i, rate in enumerate(RATES)
    ]
    past = read(table(tmp_path / "project.csv", rows))  # cells as Python shows them
    as_json = [{name: json.dumps(cell) for name, cell in row.items()} for row in rows]
    assert read(table(tmp_path / "json.csv", as_json)).trials == past.trials
    assert configs(past) == [(8, 8, 8, rate) for rate in RATES]


def test_a_table_of_mlflow_is_understood_and_unfinished_runs_are_left_out(tmp_path: Path) -> None:
    rows = [
        {
            "run_id": f"a{i}",
            "status": "FINISHED" if i < 4 else "FAILED",
            "params.learning_rate": rate,
            "params.lora_r": 4,
            "params.lora_alpha": 4,
            "params.total_train_batch_size": 16,
            "metrics.eval_loss": "NaN" if i == 3 else i,
        }
        for i, rate in enumerate((*RATES, 1e-4, 1e-4))
    ]
    past = read(table(tmp_path / "runs.tsv", rows, "\t"))
    assert configs(past) == [(4, 4, 16, rate) for rate in (1e-5, 1e-3)]  # the other one diverged once
    assert "left out: 1 without a score" in past.notices[0].text


def trainer_run(folder: Path, rate: float, loss: float, beside: str = "training_args.json") -> Path:
    """A run of transformers' Trainer with two checkpoints."""
    for step in (9, 10):
        place = folder / f"checkpoint-{step}"
        place.mkdir(parents=True)
        log = [
            {"step": 5, "learning_rate": rate, "loss": 3.0},
            {"step": step, "learning_rate": rate / 100, "loss": 2.0},
            {"step": step, "eval_loss": loss if step == 10 else 99.0, "eval_runtime": 1.0},
        ]
        state = {"global_step": step, "log_history": log, "train_batch_size": 4, "best_metric": None}
        (place / "trainer_state.json").write_text(json.dumps(state))
        adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
        (place / "adapter_config.json").write_text(json.dumps(adapter))
    arguments = {"learning_rate": rate, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    if beside == "training_args.json":
        (folder / beside).write_text(json.dumps(arguments))
    elif beside == "README.md":
        lines = [f"- learning_rate: {rate}", "- train_batch_size: 4", "- total_train_batch_size: 16"]
        (folder / beside).write_text("### Training hyperparameters\n\n" + "\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("beside", ["training_args.json", "README.md"])
def test_states_of_a_trainer_are_one_sweep_with_the_last_checkpoint_of_each(
    tmp_path: Path, beside: str
) -> None:
    for i, rate in enumerate(RATES):
        trainer_run(tmp_path / f"run{i}", rate, 1.0 + i, beside)
    for place in (tmp_path, tmp_path / "*" / "checkpoint-10" / "trainer_state.json"):
        past = read(str(place))
        assert configs(past) == [(8, 16, 16, rate) for rate in RATES]


def test_what_is_not_stated_beside_a_state_comes_from_its_log_or_from_the_user(tmp_path: Path) -> None:
    for i, rate in enumerate(RATES):
        trainer_run(tmp_path / f"run{i}", rate, 1.0 + i, "nothing")
    with pytest.raises(ConfigError, match=r"0 of 3 results can be used.*3 outside of the space.*`fixed`"):
        read(str(tmp_path))  # a batch of 4, as far as the state says
    past = read({"path": str(tmp_path), "fixed": {"batch_size": 16}})
    assert configs(past) == [(8, 16, 16, rate) for rate in RATES]  # the rate is the peak of the log


def study(storage: str | optuna.storages.BaseStorage, name: str = "lora", **options: Any) -> optuna.Study:
    found = optuna.create_study(storage=storage, study_name=name, **options)

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-5, 1e-3, log=True)
        trial.suggest_int("lora_r", 4, 16)
        trial.suggest_categorical("lora_alpha", [16])
        trial.suggest_categorical("batch_size", [8])
        return math.log10(rate)

    for rate in RATES:
        found.enqueue_trial({"lr": rate, "lora_r": 8, "lora_alpha": 16, "batch_size": 8})
    found.optimize(objective, n_trials=3)
    return found


def test_an_optuna_study_in_a_journal_or_a_database(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal.log")
    backend = optuna.storages.journal.JournalFileBackend(journal)
    study(optuna.storages.JournalStorage(backend))
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study(url, "one")
    study(url, "two", direction="maximize")
    for entry in ({"path": journal, "metric": "loss"}, {"path": url, "study": "one", "metric": "loss"}):
        past = read(entry)
        assert configs(past) == [(8, 16, 8, rate) for rate in RATES]
    assert "one, two" in refusal({"path": url, "metric": "loss"})
    assert "both minimized and maximized" in refusal({"path": url, "study": "two", "metric": "loss"})
    assert "is maximized and the run's metric loss is minimized" in refusal(
        {"path": url, "study": "two", "metric": "score"}
    )
    assert "name the one that measures the same" in refusal(journal)  # of what it is the value, nobody says
    assert "there is no file" in refusal(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    named = study(f"sqlite:///{tmp_path / 'named.db'}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        named.set_metric_names(["loss"])
    assert configs(read(f"sqlite:///{tmp_path / 'named.db'}")) == [(8, 16, 8, rate) for rate in RATES]


# -- what compares ----------------------------------------------------------------------------------


def test_a_loss_is_no_accuracy(tmp_path: Path) -> None:
    runs = table(tmp_path / "runs.csv", wandb_rows())
    assert "eval/accuracy of" in refusal({"path": runs, "metric": "eval/accuracy"})
    assert "is maximized and the run's metric loss is minimized" in refusal(
        {"path": runs, "metric": "eval/accuracy"}
    )
    said = refusal(runs, metric="exact_match")
    assert "no score that is surely the run's metric exact_match" in said
    assert "eval/accuracy" in said
    past = read({"path": runs, "metric": "eval/accuracy"}, metric="exact_match")
    assert configs(past) == [(8, 16, 8, rate) for rate in reversed(RATES)]
    wrong = {"path": runs, "metric": "eval/loss", "direction": "maximize"}
    assert "both minimized and maximized" in refusal(wrong, metric="exact_match")
    assert "has no score 'eval/los'; it has" in refusal({"path": runs, "metric": "eval/los"})
    unknown = table(tmp_path / "unknown.csv", wandb_rows(quality=3))
    assert "nothing says whether more or less of quality" in refusal({"path": unknown, "metric": "quality"})
    assert read({"path": unknown, "metric": "quality", "direction": "minimize"}).trials


def test_a_training_loss_is_no_validation_loss(tmp_path: Path) -> None:
    rows = [{name: cell for name, cell in row.items() if name != "eval/loss"} for row in wandb_rows()]
    assert "no score that is surely the run's metric loss" in refusal(table(tmp_path / "runs.csv", rows))


# -- which candidate --------------------------------------------------------------------------------


def test_rows_outside_are_counted_near_ones_moved_and_incomplete_ones_left_out(tmp_path: Path) -> None:
    rows = [
        *wandb_rows(),
        *wandb_rows(**{"config.lr": 1.4e-4, "eval/loss": 0.5})[:1],  # close to 1e-4
        *wandb_rows(**{"config.lr": 0.1, "eval/loss": 0})[:1],
        *wandb_rows(**{"config.peft_config.default.r": 128, "config.peft_config.default.lora_alpha": 128})[
            :1
        ],
        *wandb_rows(**{"config.lr": ""})[:1],
        *wandb_rows(**{"eval/loss": ""})[:1],
    ]
    past = read(table(tmp_path / "runs.csv", rows))
    assert configs(past) == [(8, 16, 8, rate) for rate in RATES]  # 1e-4 by the mean of 2 and 0.5
    text = past.notices[0].text
    assert text.startswith("4 of 8 results of")
    assert "1 count for the nearest candidate" in text
    assert "left out: 2 outside of the space, 1 without learning_rate, 1 without a score" in text


def test_one_result_is_enough_and_none_is_refused(tmp_path: Path) -> None:
    assert configs(read(table(tmp_path / "one.csv", wandb_rows()[2:]))) == [(8, 16, 8, 1e-3)]
    bare = [{k: v for k, v in row.items() if "alpha" not in k} for row in wandb_rows()]
    runs = table(tmp_path / "bare.csv", bare)
    assert "0 of 3 results can be used, none of them with a score (3 without alpha_ratio)" in refusal(runs)
    assert configs(read({"path": runs, "fixed": {"alpha": 16}})) == [(8, 16, 8, rate) for rate in RATES]
    diverged = table(tmp_path / "nan.csv", wandb_rows(**{"eval/loss": "NaN"}))
    assert "all that can be used diverged" in refusal(diverged)


def test_places_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    assert "there is no" in refusal(str(tmp_path / "none.csv"))
    assert "there is no" in refusal(str(tmp_path / "*.csv"))
    assert "holds no run and no trainer_state.json" in refusal(str(tmp_path))
    for name, content, said in (
        ("a.txt", "text", "of no kind that is read"),
        ("trainer_state.json", "[]", "no log_history"),
        ("b.csv", "lr,loss\n", "has no rows"),
        ("c.csv", "\xff\xfe", "no table of text"),
    ):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        assert said in refusal(str(tmp_path / name))
    (tmp_path / "journal.log").write_text('{"op_code": 77}\n')
    assert "cannot be read as an Optuna study" in refusal({"path": str(tmp_path / "journal.log")})


# -- in a run ---------------------------------------------------------------------------------------

TRAINER = "def train(config, **_):\n    return abs(config['learning_rate'] - 1e-4) + config['rank'] * 1e-6\n"


@pytest.fixture
def own_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """A run with a function as its trainer, in a folder of its own."""

    def make(name: str, *past: object, trials: int = 5) -> RunConfig:
        (tmp_path / "trainer.py").write_text(TRAINER)
        content = {
            "output": name,
            "objective": {"function": "trainer.py:train", "direction": "minimize"},
            "space": SPACE,
            "search": {"trials": trials, "past": list(past)},
            "execution": {"workers": 0},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return load_config(tmp_path / f"{name}.yaml")

    return make


def test_an_earlier_run_is_told_of_and_changes_nothing(own_run: Callable[..., RunConfig]) -> None:
    first = tune(own_run("first"))
    second = tune(own_run("second", "first"))
    trained = [trial.index for trial in second.history.trials]
    assert trained == [trial.index for trial in first.history.trials]
    (text,) = [notice.text for notice in second.notices if notice.name == "past_results"]
    assert text.startswith("5 of 5 results of")
    assert "past_results" in (second.folder / "notices.json").read_text()
    again = tune(own_run("second", trials=6))  # it may be left out again
    assert again.history.trials[:5] == second.history.trials
    with pytest.raises(ConfigError, match="is this run itself"):
        tune(own_run("first", "first", trials=9))


def test_a_bad_place_ends_the_command_with_one_line_and_code_2(
    own_run: Callable[..., RunConfig], loracle: Loracle, tmp_path: Path
) -> None:
    own_run("run", "none.csv")
    for command in ("tune", "doctor"):
        code, out, err = loracle(command, tmp_path / "run.yaml")
        assert code == 2
        said = [line for line in (out + err).splitlines() if "search.past" in line]
        assert len(said) == 1
        assert "there is no" in said[0]
    table(tmp_path / "none.csv", [{"lr": 1e-4, "r": 8, "alpha": 8, "bs": 8, "score": 1.0}])
    own_run("run", {"path": "none.csv", "metric": "score", "direction": "minimize"})
    code, out, _ = loracle("doctor", tmp_path / "run.yaml")
    assert code == 0
    assert "1 of 1 results of" in out.replace("\n", " ")


def test_a_config_counts_by_its_mean_and_not_where_it_diverged_once() -> None:
    assert PastTrials((1, 2, 2, 3, 3, 4), (0.1, 0.9, 0.5, math.nan, 5.0, 0.6)).best_first == [2, 4, 1]
