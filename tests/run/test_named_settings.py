"""Schedule, optimizer, variant and targets as knobs: what a trial is told is what is trained and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import AutoPeftModelForCausalLM

from loracle.config.loading import load_config
from loracle.export import dialects
from loracle.run.tune import tune
from loracle.training.objective import TrainingObjective

NAMES: dict[str, list[str]] = {
    "schedule": ["cosine", "linear"],
    "optimizer": ["adamw", "sgd", "lora_fa"],
    "variant": ["lora", "dora", "pissa"],
    "targets": ["all-linear", "attention", "q_proj,v_proj"],
}
TOGETHER = {"constraints": ["optimizer != 'lora_fa' or variant != 'dora'"]}
FEW: dict[str, Any] = {
    "rank": [4],
    "alpha_ratio": [2],
    "dropout": [0.0],
    "batch_size": [8],
    "learning_rate": [1e-3, 1e-2],
}


def named_run(run_config: Callable[..., Path], names: dict[str, Any] = NAMES, **changes: Any) -> Path:
    path = run_config(**changes)
    content = yaml.safe_load(path.read_text())
    content["space"] = {"base": "empty", **FEW, **names, **(TOGETHER if names is NAMES else {})}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def config_of(objective: TrainingObjective, **names: str) -> dict[str, Any]:
    standard = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}
    return (
        standard
        | {"schedule": "cosine", "optimizer": "adamw", "variant": "lora", "targets": "all-linear"}
        | names
    )


def test_each_name_is_what_is_trained(run_config: Callable[..., Path], tmp_path: Path) -> None:
    objective = TrainingObjective.from_config(load_config(named_run(run_config)))
    saved, rates = {}, {}
    for place, names in enumerate(
        [
            {},
            {"schedule": "linear"},
            {"optimizer": "lora_fa"},
            {"variant": "dora"},
            {"variant": "pissa", "targets": "attention"},
            {"targets": "attention"},
            {"targets": "q_proj,v_proj"},
        ]
    ):
        folder = tmp_path / str(place)
        config = config_of(objective, **names)
        outcome = objective.final(config, seed=0, folder=folder, adapter=folder / "adapter")
        assert outcome.failure is None, outcome.failure
        key = " ".join(names.values())
        saved[key] = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        rows = (
            line.split("\t") for line in (folder / "log.txt").read_text().splitlines() if line[:1].isdigit()
        )
        rates[key] = [row[2] for row in rows]
        settings = json.loads((folder / "provenance.json").read_text())["training"]
        assert all(settings[name] == value for name, value in names.items() if name != "targets")
    assert rates[""] != rates["linear"]
    assert rates[""] == rates["attention"]
    assert saved["dora"]["use_dora"]
    assert not saved["attention"]["use_dora"]
    assert sorted(saved["q_proj,v_proj"]["target_modules"]) == ["q_proj", "v_proj"]
    assert sorted(saved["attention"]["target_modules"]) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert len(saved[""]["target_modules"]) == 14  # of two layers
    assert saved["pissa attention"]["r"] == 8  # it fits the pristine base: twice the rank


def test_memory_is_planned_for_each(run_config: Callable[..., Path]) -> None:
    config = load_config(named_run(run_config))
    objective = TrainingObjective.from_config(config)
    memory = objective.memory
    assert type(memory).from_json(json.loads(json.dumps(memory.as_json()))).as_json() == memory.as_json()

    def bytes_of(**names: str) -> float:
        return memory.predict(config_of(objective, **names), 4)

    assert bytes_of(targets="q_proj,v_proj") < bytes_of(targets="attention") < bytes_of()
    assert bytes_of(optimizer="sgd") < bytes_of()
    assert bytes_of(variant="pissa") > bytes_of()


def test_a_run_over_names_hands_the_winner_on(
    run_config: Callable[..., Path], said: Callable[..., str]
) -> None:
    path = named_run(run_config, search={"trials": 6}, execution={"workers": 1})
    result = tune(load_config(path))
    run = load_config(path).output
    first = result.history.trials[0]
    space = result.comparison.winner.keys()
    assert set(NAMES) <= set(space)
    shown = json.loads(said("show", run, "--json"))["trials"]
    assert {name: shown[first.number]["config"][name] for name in NAMES} == {
        "schedule": "cosine",
        "optimizer": "adamw",
        "variant": "lora",
        "targets": "all-linear",
    }
    best = result.comparison.sides[result.comparison.best][0]
    recipe = yaml.safe_load((run / "best" / "recipe.yaml").read_text())
    assert recipe["training"]["lr_scheduler_type"] == best["schedule"]
    assert recipe["lora"]["use_dora"] == (best["variant"] == "dora")
    told = recipe["training"].get("optim", recipe["trained"].get("optimizer", {}).get("function", ""))
    assert {"adamw": "adamw_torch_fused", "sgd": "sgd", "lora_fa": "peft.optimizers.create_lorafa_optimizer"}[
        str(best["optimizer"])
    ] == told
    card = (run / "best" / "README.md").read_text()
    assert f"- `targets`: {best['targets']}" in card
    assert AutoPeftModelForCausalLM.from_pretrained(run / "best").peft_config["default"].r in (4, 8)
    for name in dialects():
        if name not in ("gguf", "ollama", "merged", "torchtune"):  # the last refuses some of these names
            said("export", run, run.parent / name, "--to", name)


def test_a_schedule_that_falls_over_steps_is_searched_beside_the_usual_space(
    run_config: Callable[..., Path], said: Callable[..., str]
) -> None:
    path = named_run(
        run_config, {"schedule": {"linear": "falls evenly", "cosine": None}}, search={"trials": 3}
    )
    said("tune", path)
    said("doctor", path)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ({"schedule": ["cosine", "wave"]}, {}, "space: knob schedule: input should be 'cosine', 'linear'"),
        ({"schedule": ["cosine", "greedy"]}, {}, "greedy goes by what is measured on the way"),
        ({"schedule": [1, 2]}, {}, "space: knob schedule: values are names; got 1"),
        ({"epochs": ["few", "many"]}, {}, "space: knob epochs: values are a number; got few"),
        (
            {"targets": ["attention", "atention"]},
            {},
            "targets atention: training.targets: the model has no module",
        ),
        (
            {"optimizer": ["adamw", "lora_fa"]},
            {"training": {"lora_plus_ratio": 4}},
            "exclude it by a constraint",
        ),
        ({"optimizer": ["adamw", "lora_fa"], "variant": ["lora", "dora"]}, {}, "exclude it by a constraint"),
        (
            {"variant": ["lora", "pissa"]},
            {"quantization": "4bit"},
            "variant pissa begins with a part of the base model's weights",
        ),
        (
            {"schedule": ["cosine", "linear"]},
            {"training": {"schedule": "cosine_with_min_lr", "schedule_arguments": {"min_lr_rate": 0.1}}},
            "training.schedule_arguments with schedule cosine: cosine has no argument 'min_lr_rate' here",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    run_config: Callable[..., Path],
    said: Callable[..., str],
    names: dict[str, Any],
    changes: dict[str, Any],
    message: str,
) -> None:
    shown = said("tune", named_run(run_config, names, **changes), refused=True)
    assert message in shown
    assert len([line for line in shown.splitlines() if line.startswith("loracle: ")]) == 1


def test_a_constraint_leaves_out_what_does_not_go_together(
    run_config: Callable[..., Path], said: Callable[..., str]
) -> None:
    names = {
        "optimizer": ["adamw", "lora_fa"],
        "lora_plus_ratio": [1, 4],
        "constraints": ["optimizer != 'lora_fa' or lora_plus_ratio < 2"],
    }
    said("tune", named_run(run_config, names, search={"trials": 2}))
