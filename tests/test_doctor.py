from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loracle.config import load_config
from loracle.doctor import Check, estimate_memory, examine
from loracle.objective import TrainingObjective
from loracle.tune import search_space


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_good_config_has_nothing_bad(run_config: Callable[..., Path]) -> None:
    path = run_config(language={"model": "same", "prompt": "plain-v1"}, search={"preset": "language"})
    checks = list(examine(load_config(path)))
    assert "bad" not in states(checks).values()
    text = {check.name: check.text for check in checks}
    assert "48 training, 6 validation, 6 test" in text["data"]
    assert "72 candidates" in text["space"]
    assert "of 128 tokens" in text["prompts"]


def test_few_steps_and_a_run_that_exists_are_noted(run_config: Callable[..., Path]) -> None:
    path = run_config()
    (path.parent / "run").mkdir()
    (path.parent / "run" / "journal.log").write_text("")
    found = states(list(examine(load_config(path))))
    assert (found["steps"], found["output"]) == ("note", "note")


def test_left_out_examples_are_counted(run_config: Callable[..., Path]) -> None:
    data = {"train": "train.jsonl", "max_length": 11, "proxy": 0.5, "proxy_minimum": 10}
    checks = {check.name: check for check in examine(load_config(run_config(data=data)))}
    assert checks.get("length", checks.get("input")).state in ("note", "bad")  # type: ignore[union-attr]


def test_bad_input_ends_the_examination(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    checks = list(examine(config.model_copy(update={"model": "/no/such/model"})))
    assert checks[-1] == Check("input", "bad", "model: the folder /no/such/model does not exist")


def test_long_prompts_are_bad(run_config: Callable[..., Path]) -> None:
    path = run_config(language={"model": "same", "prompt": "lora-v1"}, search={"preset": "paper"})
    found = list(examine(load_config(path)))
    assert next(check for check in found if check.name == "prompts").state == "bad"


def test_memory_grows_with_rank_batch_and_length(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    objective = TrainingObjective.from_config(config)
    space = search_space(config, objective.n_proxy)
    small = estimate_memory(config, objective.base, space)
    training = config.training.model_copy(update={"micro_batch": 64})
    assert estimate_memory(config.model_copy(update={"training": training}), objective.base, space) > small
    checkpointed = config.training.model_copy(update={"gradient_checkpointing": True})
    assert (
        estimate_memory(config.model_copy(update={"training": checkpointed}), objective.base, space) < small
    )
