from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import copy_rows

from loracle.config.loading import load_config
from loracle.errors import StudyError
from loracle.records.events import Event, Expected, TrialFinished, TrialStarted
from loracle.run.checks import Check, examine
from loracle.run.search import search_space
from loracle.run.search_notices import search_notices
from loracle.run.tune import tune
from loracle.training import objective
from loracle.training.memory.plan import MemoryModel


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_good_config_has_nothing_bad(run_config: Callable[..., Path]) -> None:
    path = run_config(language={"model": "same", "prompt": "plain-v1"}, search={"preset": "language"})
    checks = list(examine(load_config(path)))
    assert "bad" not in states(checks).values()
    text = {check.name: check.text for check in checks if check.notice is None}
    assert "48 training, 6 validation, 6 test" in text["data"]
    assert "72 candidates" in text["space"]
    assert "of 128 tokens" in text["prompts"]


def test_how_long_a_run_takes_is_told(run_config: Callable[..., Path]) -> None:
    path = run_config(search={"trials": 4})
    config = load_config(path)
    (told,) = [check for check in examine(config) if check.name == "time"]
    assert told.expected is not None
    assert (told.expected.trials, told.expected.finals, told.expected.at_a_time) == (4, 2, 1)
    assert re.match("4 trials of (about|under a second)", told.text)
    assert re.search(", then 2 final trainings of (about|under a second)", told.text)
    assert not config.output.exists()
    tune(config)
    assert "time" not in states(list(examine(config)))  # nothing is to come
    (more,) = [check for check in examine(load_config(run_config(search={"trials": 6}))) if check.expected]
    assert re.match("2 of 6 trials of (about|under a second)", more.text)


def test_after_a_search_that_a_budget_has_ended_nothing_is_to_come(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 8, "budget": 1.5}))
    result = tune(config)
    assert "(search.budget)" in result.stopped
    assert "time" not in states(list(examine(config)))
    (config.output / "verdict.json").unlink()  # as when it was killed in the final trainings
    (left,) = [check for check in examine(config) if check.expected]
    assert re.match("2 final trainings of (about|under a second)", left.text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"scoring": {"metric": "exact_match", "max_new_tokens": 8, "choices": ["a", "b"]}},
            "scoring.choices is not used: it belongs to choice_accuracy and choice_macro_f1",
        ),
        (
            {"scoring": {"code": {"tests": "none.jsonl"}}},
            "scoring.code is not used: it belongs to the metric",
        ),
        ({"scoring": {"answer_pattern": "a"}}, "scoring.answer_pattern is not used"),
        (
            {"scoring": {"max_new_tokens": 9}},
            "scoring.max_new_tokens is not used: it belongs to a metric for",
        ),
        (
            {"language": {"model": "minilm"}},
            "language.model is not used: the preset default reads no prompts",
        ),
        (
            {"scoring": {"metric": ["exact_match", "loss"]}, "search": {"replicates": 2}},
            "search.replicates is not used: of several objectives",
        ),
        ({"scoring": {"answer_at": "first"}}, "scoring.answer_at is not used"),
        ({"scoring": {"judge": {"url": "http://x", "model": "m"}}}, "scoring.judge is not used"),
        ({"scoring": {"lm_eval": {"limit": 3}}}, "scoring.lm_eval is not used"),
        ({"scoring": {"allow_code_execution": True}}, "scoring.allow_code_execution is not used"),
        (
            {"training": {"weight_decay": 0.1}, "space": {"base": "default", "weight_decay": [0, 0.01]}},
            "training.weight_decay: 0.1 is not used, as the space has weight_decay (0 to 0.01)",
        ),
        (
            {"training": {"epochs": 3}, "space": {"base": "default", "epochs": [1, 2]}},
            "training.epochs: 3 is not used, as the space has epochs (1 to 2)",
        ),
    ],
)
def test_settings_without_effect_are_told(
    changes: dict[str, Any], said: str, run_config: Callable[..., Path]
) -> None:
    config = load_config(run_config(**changes))
    told = [notice.text for notice in search_notices(config, search_space(config, 24), None)]
    assert [text for text in told if "not used" in text and text.startswith(said)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scoring": {"metric": "choice_accuracy", "choices": ["a", "b"]}},
        {"training": {"epochs": 2}, "space": {"base": "default", "epochs": 2}},
        {"training": {"epochs": 2}},
        {"scoring": {"metric": "exact_match", "answer_pattern": "a", "answer_at": "first"}},
    ],
)
def test_settings_that_have_an_effect_are_not(
    changes: dict[str, Any], run_config: Callable[..., Path]
) -> None:
    config = load_config(run_config(**changes))
    told = search_notices(config, search_space(config, 24), None)
    assert "unused_setting" not in [notice.name for notice in told]


@pytest.mark.parametrize("known", [False, True])
def test_knobs_of_which_the_prior_knows_none_are_told(known: bool, tmp_path: Path) -> None:
    name = "learning_rate" if known else "lr"
    text = f"objective: {{command: 'train {{{name}}} {{width}}', direction: maximize}}\noutput: run\n"
    text += f"space: {{base: empty, knobs: {{{name}: [1e-4, 1e-3], width: [1, 2]}}}}\nstandard: null\n"
    (tmp_path / "own.yaml").write_text(text)
    config = load_config(tmp_path / "own.yaml")
    told = [n for n in search_notices(config, search_space(config, 24), None) if n.name == "unknown_to_prior"]
    assert bool(told) is not known
    if told:
        assert "says nothing of lr and width, so the search learns from trials alone" in told[0].text


def test_fewer_candidates_than_trials_are_told_and_counted(run_config: Callable[..., Path]) -> None:
    few = {"rank": [2, 4], "alpha_ratio": 1, "dropout": 0, "batch_size": 4, "learning_rate": [1e-4, 1e-3]}
    content = yaml.safe_load(run_config(search={"trials": 6}).read_text())
    path = run_config()
    path.write_text(yaml.safe_dump(content | {"space": few}))
    checks = list(examine(load_config(path)))
    (told,) = [check for check in checks if check.expected]
    assert told.expected is not None
    assert (told.expected.trials, told.expected.budget) == (4, 4)
    said = [check.text for check in checks if check.notice and check.notice.name == "fewer_candidates"]
    assert said == [
        "the space has 4 candidates, so there are 4 trials and not the 6 of search.trials; each candidate is "
        "tried once"
    ]
    events: list[Event] = []
    result = tune(load_config(path), events.append)
    assert {
        event.budget for event in events if isinstance(event, TrialStarted | TrialFinished | Expected)
    } == {4}
    assert result.stopped == "all 4 candidates are tried"


def test_further_seeds_that_no_trainer_of_ones_own_has_are_told(run_config: Callable[..., Path]) -> None:
    own = {"function": "math:fsum", "direction": "maximize"}
    for replicates, told in (("auto", False), (0, False), (2, True)):
        path = run_config(objective=own, search={"replicates": replicates})
        config = load_config(path)
        found = search_notices(config, search_space(config, None), None)
        said = [notice.text for notice in found if notice.text.startswith("search.replicates is not used")]
        assert bool(said) == told


def test_values_that_the_constraints_leave_no_candidate_are_named(run_config: Callable[..., Path]) -> None:
    path = run_config()
    content = yaml.safe_load(path.read_text())
    content["space"] = {"rank": 64, "alpha_ratio": 2, "learning_rate": [1e-4, 1e-3, 1e-2], "dropout": 0}
    path.write_text(yaml.safe_dump(content))
    config = load_config(path)
    space = search_space(config, 24)
    (told,) = [n for n in search_notices(config, space, None) if n.name == "values_never_tried"]
    assert told.count == 1
    assert told.text == (
        "learning_rate 0.01: never tried, as no candidate with it satisfies the constraints "
        "(alpha * learning_rate <= 0.5); change space.constraints, or leave it out"
    )
    assert not any(space.config(int(i))["learning_rate"] == 0.01 for i in space.candidates)
    content["space"]["constraints"] = []
    path.write_text(yaml.safe_dump(content))
    config = load_config(path)
    told_now = search_notices(config, search_space(config, 24), None)
    assert "values_never_tried" not in [notice.name for notice in told_now]


def test_an_output_that_tune_refuses_is_bad(run_config: Callable[..., Path]) -> None:
    """A file, and a folder that holds somebody's files."""
    for output, said in (("train.jsonl", "cannot be used"), ("", "which Loracle did not make")):
        config = load_config(run_config(output=output))
        (check,) = [check for check in examine(config) if check.name == "output"]
        assert check.state == "bad"
        assert said in check.text
        with pytest.raises(StudyError, match=said):
            tune(config)


def test_what_a_trainer_of_your_own_takes_is_not_known(run_config: Callable[..., Path]) -> None:
    own = {
        "command": "true {rank} {alpha_ratio} {dropout} {batch_size} {learning_rate} {fraction}",
        "direction": "maximize",
    }
    (told,) = [check for check in examine(load_config(run_config(objective=own))) if check.name == "time"]
    assert told.text == ("5 trials, then 1 final training: how long they take is known after the first trial")


def test_few_steps_and_a_run_that_exists_are_noted(run_config: Callable[..., Path]) -> None:
    path = run_config()
    (path.parent / "run").mkdir()
    for name in ("journal.log", ".lock"):
        (path.parent / "run" / name).write_text("")
    checks = list(examine(load_config(path)))
    assert states(checks)["output"] == "note"
    (steps,) = [check.text for check in checks if check.notice and check.notice.name == "few_steps"]
    assert "fewer than 20 optimizer steps in a trial (3 at 8, 6 at 4)" in steps


def test_what_tune_would_refuse_of_a_run_that_exists_is_bad(run_config: Callable[..., Path]) -> None:
    tune(load_config(run_config(search={"trials": 1})))
    path = run_config(search={"trials": 1, "seed": 4})
    (found,) = [check for check in examine(load_config(path)) if check.name == "output"]
    assert found.state == "bad"
    assert "this run began with search.seed=3, now 4" in found.text


def test_left_out_examples_are_counted(run_config: Callable[..., Path]) -> None:
    path = run_config()  # rows of at most 32 tokens
    rows = [*copy_rows(40), *({"prompt": f"{i} " + "a" * 30, "completion": "b"} for i in range(9))]
    (path.parent / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checks = list(examine(load_config(path)))
    (found,) = [check for check in checks if check.notice and check.notice.name == "rows_too_long"]
    assert (found.name, found.state) == ("data", "note")
    assert found.notice is not None
    assert found.notice.count == 9
    assert "rows have more than 32 tokens and are left out; raise data.max_length" in found.text


def test_bad_input_ends_the_examination(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config())
    checks = list(examine(config.model_copy(update={"model": "/no/such/model"})))
    assert checks[-1] == Check("input", "bad", "model: the folder /no/such/model does not exist")


def test_long_prompts_are_bad(run_config: Callable[..., Path]) -> None:
    path = run_config(language={"model": "same", "prompt": "lora-v1"}, search={"preset": "paper"})
    found = list(examine(load_config(path)))
    assert next(check for check in found if check.name == "prompts").state == "bad"


# -- memory -----------------------------------------------------------------------------------------


def test_memory_is_said_in_a_line(run_config: Callable[..., Path]) -> None:
    checks = {check.name: check for check in examine(load_config(run_config()))}
    assert checks["memory"].state == "ok"
    for part in ("smallest config", "standard", "largest", "GiB to use", "micro-batches of"):
        assert part in checks["memory"].text
    assert "left out" not in checks["memory"].text


def with_room(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Lets the machine have this share of the memory that the largest trial needs at least."""
    build = objective.build_memory_model

    def smaller(*args: Any, **kwargs: Any) -> MemoryModel:
        model = build(*args, **kwargs)
        return replace(model, room=share * model.predict({"rank": 8, "dropout": 0.1}, 1))

    monkeypatch.setattr(objective, "build_memory_model", smaller)


def test_what_cannot_fit_is_counted_with_its_reason(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 0.999)
    found = list(examine(load_config(run_config())))
    checks = {check.name: check for check in found}
    (told,) = [check.notice for check in found if check.notice and check.notice.name == "too_large"]
    assert "12 of 72 candidates are left out: rank 8 and above" in told.text
    assert told.count == 12
    assert checks["memory"].state == "note"
    assert "the standard config does not fit" in checks["memory"].text


def test_a_machine_that_is_too_small_is_bad(
    run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_room(monkeypatch, 0.01)
    *_, last = examine(load_config(run_config()))
    assert (last.name, last.state) == ("input", "bad")
    assert last.text.startswith("no candidate fits into memory: 72 of 72")


@pytest.mark.parametrize(
    ("changes", "batch"),
    [
        ({}, 8),
        ({"training": {"epochs": 0.55}}, 8),
        ({"training": {"epochs": 2.3, "warmup_fraction": 0.5}}, 8),
        ({"space": {"knobs": {"batch_size": {"values": [5, 500]}}}}, 24),
        ({"space": {"knobs": {"batch_size": {"values": [7]}, "epochs": {"values": [0.3, 4.0]}}}}, 7),
    ],
)
def test_the_steps_that_are_announced_are_those_that_are_trained(
    run_config: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], batch: int
) -> None:
    if "space" in changes:
        knobs = {"rank": {"values": [2]}, "alpha": {"values": [2]}, "learning_rate": {"values": [1e-3]}}
        changes = {"space": {"base": "empty", "knobs": knobs | changes["space"]["knobs"]}}
    config = load_config(run_config(**changes))
    noticed = [check for check in examine(config) if check.notice and check.notice.name == "few_steps"]
    trainer = objective.TrainingObjective.from_config(config)
    space = search_space(config, trainer.n_proxy)
    fewest = min(
        (space.config(int(index)) for index in space.candidates),
        key=lambda one: (one.get("epochs", 1), -one["batch_size"]),
    )
    outcome = trainer.run(fewest, seed=0, folder=tmp_path / "trial")
    steps = outcome.metrics["steps"]
    assert len(noticed) == 1
    assert f"fewer than 20 optimizer steps in a trial ({steps:g} at {batch}, " in noticed[0].text


def test_a_single_batch_is_named_once(run_config: Callable[..., Path]) -> None:
    space = {
        "base": "empty",
        "knobs": {"rank": 2, "alpha": 2, "learning_rate": [1e-4, 1e-3], "batch_size": 8},
    }
    checks = list(examine(load_config(run_config(space=space))))
    (text,) = [check.text for check in checks if check.notice and check.notice.name == "few_steps"]
    assert "fewer than 20 optimizer steps in a trial (3 at 8), so" in text


def test_steps_that_are_the_same_for_all_batches_flatter_none(run_config: Callable[..., Path]) -> None:
    checks = list(examine(load_config(run_config(training={"max_steps": 20}))))
    (text,) = [check.text for check in checks if check.notice and check.notice.name == "few_steps"]
    assert text.startswith("a trial takes 10 optimizer steps, its share of training.max_steps")
