"""Values of settings that no training can use: refused in one line with file, line and key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from loracle.config.loading import parse_config
from loracle.config.settings import KnobConfig, RunConfig, build_space
from loracle.config.yaml_file import dump
from loracle.errors import ConfigError, SpaceError
from loracle.records.space import Knob

MINIMAL = "model: some/model\ndata: {train: train.jsonl}\n"
COMMAND = "model: ''\nobjective: {direction: maximize, command: x %s}\n"


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "a.yaml")
    line = str(error.value)
    assert re.match(r"a\.yaml:\d+: ", line)
    assert line.isprintable()
    assert len(line) < 2000
    return line


def kinds_of(annotation: Any) -> set[Any]:
    """An annotation and everything inside it."""
    return {annotation}.union(*map(kinds_of, get_args(annotation))) if get_args(annotation) else {annotation}


def numbers(section: type[BaseModel] = RunConfig, above: str = "") -> Iterator[str]:
    """Dotted names of all settings that are numbers."""
    for name, field in section.model_fields.items():
        kinds = kinds_of(field.annotation)
        if {int, float} & kinds:
            yield above + name
        for kind in kinds - {KnobConfig}:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from numbers(kind, f"{above}{name}.{'' if name != 'guard' else 'own.'}")  # of any name


def with_value(name: str, value: str) -> str:
    """A config with a value, as it is written, at a dotted name."""
    content: dict[str, Any] = {"model": "m", "data": {"train": "t.jsonl"}}
    inner = content
    *path, last = name.split(".")
    for part in path:
        inner = inner.setdefault(part, {})
    inner[last] = "VALUE"
    if name == "search.past.fixed":
        content["search"]["past"] = [{"path": "runs.csv", "fixed": {"rank": "VALUE"}}]
    if name.startswith("objective"):
        content["objective"] |= {"function": "a:b", "direction": "maximize"}
    if path[:1] == ["guard"]:
        content["guard"]["own"] |= {"data": "g.jsonl"}
    if name == "guard.own.base":  # of a trainer of one's own, whose guards have a key in the place of rows
        content |= {"objective": {"function": "a:b", "direction": "maximize"}}
        content["guard"]["own"] = {"key": "k", "direction": "minimize", "base": "VALUE"}
    if path[:1] in (["scoring"], ["guard"]):
        inner |= {"code": {"tests": "t.jsonl"}, "judge": {"url": "http://h", "model": "m"}}.get(path[-1], {})
    return dump(content).replace("VALUE", value)


def test_all_numbers_are_found() -> None:
    found = set(numbers())
    assert len(found) >= 28
    assert {
        "training.epochs",
        "objective.fraction",
        "execution.workers",
        "search.seed_configs",
        "standard",
    } <= (found)


@pytest.mark.parametrize("name", sorted(numbers()))
def test_no_number_is_infinite_a_truth_or_beyond_all_bounds(name: str) -> None:
    name = name.replace("beliefs.knobs", "beliefs.rank")
    key = name.replace("past.", "past.0.").replace(".", r"\.")
    for value in (".inf", "-.inf", ".nan", "true", "1e999"):
        if name in ("standard", "search.seed_configs", "beliefs.good", "beliefs.bad"):
            config = "rank: 8, alpha: 16, dropout: 0.1, batch_size: 8"
            value = f"{{{config}, learning_rate: {value}}}"
            value = f"[{value}]" if name != "standard" else value
        assert re.match(rf"a\.yaml:\d+: {key}[.:]", refused(with_value(name, value))), value
    assert "too large" in refused(with_value(name, "9" * 400))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: .inf}", "a.yaml:3: training.epochs: input should be a finite number; got inf"),
        ("training: {epochs: 1e300}", "input should be less than or equal to 1000000"),
        ("execution: {workers: 100000}", "execution.workers: input should be less than or equal to 1000"),
        ("search: {trials: 99999999999}", "search.trials: input should be less than 2147483648"),
        ("threads: 5000", "threads: input should be less than or equal to 1000"),
        ("training: {epochs: yes}", "training.epochs: input should be a number, not true or false; got True"),
        (
            "space: {knobs: {rank: {values: [true]}}}",
            "a.yaml:3: space.knobs.rank.values.0: input should be a number",
        ),
        (
            "space: {knobs: {rank: {values: [.inf]}}}",
            "space.knobs.rank.values.0: input should be a finite number",
        ),
        ("output: 2024-01-01\nsearch: {trials: 2024-01-01}", "a.yaml:4: search.trials: "),
        ("scoring: {answer_pattern: '('}", "a.yaml:3: scoring.answer_pattern: not a regular expression: '('"),
        ("output: 5", "a.yaml:3: output: "),
        (f"? {'k' * 5000}\n: 5", "a.yaml:3: unknown key 'kkk"),
        (f"output: [{'k' * 5000}]", "a.yaml:3: output: "),
        (f"language: {{kind: {'k' * 5000}}}", "got 'kkkkk"),
        ('standard: {"a\\nb": 1}', "a.yaml:3: standard: "),
        ('space: {knobs: {"a\\tb": {values: [1]}}}', "a.yaml:3: space: "),
    ],
)
def test_what_cannot_be_used_is_one_line(text: str, message: str) -> None:
    assert message in refused(MINIMAL + text)


@pytest.mark.parametrize("name", ["seed", "fraction", "number", "phase", "folder"])
@pytest.mark.parametrize("trainer", ["command: 'x {seed} {NAME}'", "function: a:b"])
def test_knobs_with_the_name_of_a_place_are_refused(name: str, trainer: str) -> None:
    """A command would never see them: the name stands for something else."""
    text = (
        f"objective: {{direction: maximize, {trainer.replace('NAME', name)}}}\n"
        f"space: {{base: empty, knobs: {{{name}: {{values: [1, 2]}}}}}}\n"
    )
    assert f"a knob cannot be called {name}: folder, seed, number, fraction, phase are what" in refused(text)
    mine = parse_config(text.replace(f"{name}:", f"my_{name}:").replace(f"{{{name}}}", f"{{my_{name}}}"))
    assert list(mine.space.knobs) == [f"my_{name}"]


def test_the_built_in_trainer_says_itself_which_knobs_it_knows() -> None:
    text = MINIMAL + "space: {base: empty, knobs: {alpha_ratio: {values: [1, 2]}, seed: {values: [1, 2]}}}"
    assert "seed" in parse_config(text).space.knobs  # refused when the run begins: `check_knobs`


@pytest.mark.parametrize(
    "environment",
    [
        "{KEY: 'hunter2{'}",
        "{KEY: '{hunter2 }'}",
        "{KEY: '{hunter2}'}",
        "{KEY: 99hunter2: x}",
        "{KEY: [hunter2]}",
        "{KEY: 123456}",
        "{KEY: 'hunter2', 'A=B': hunter2}",
    ],
)
def test_no_error_shows_a_variable_which_may_be_a_secret(environment: str) -> None:
    text = (
        "space: {base: empty, knobs: {rank: {values: [1, 2]}}}\n"
        f"objective:\n  direction: maximize\n  command: 'x {{rank}}'\n  environment: {environment}\n"
    )
    line = refused(text)
    assert "environment" in line or "not valid YAML" in line
    assert "hunter2" not in line
    assert "123456" not in line


def test_values_may_name_knobs() -> None:
    text = (
        "space: {base: empty, knobs: {rank: {values: [1, 2]}}}\n"
        "objective: {direction: maximize, command: x, environment: {RANK: '{rank}'}}\n"
    )
    assert parse_config(text).objective is not None
    assert "the knob rank is never used" in refused(text.replace("{rank}", "{seed}"))


def test_more_knobs_than_can_be_counted_are_refused() -> None:
    knobs = {f"k{i}": {"values": [i]} for i in range(64)}
    config = parse_config(MINIMAL + dump({"space": {"base": "empty", "knobs": knobs}}))
    assert build_space(config.space).config(0) == {f"k{i}": i for i in range(64)}
    knobs["k64"] = {"values": [1, 2]}
    text = MINIMAL + dump({"space": {"base": "empty", "knobs": knobs}})
    assert "space: a search space has at most 64 knobs; this one has 65" in refused(text)


def test_numbers_beyond_floats_are_no_values_of_a_knob() -> None:
    for value in (10**400, -(10**5000), math.inf, math.nan):
        with pytest.raises(SpaceError, match="knob 'x': values must be finite numbers"):
            Knob("x", (value,))
