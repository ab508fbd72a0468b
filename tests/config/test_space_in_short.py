"""A space in short is the same space as in full."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from loracle.config.loading import dump_config, parse_config
from loracle.config.settings import SpaceConfig, build_space
from loracle.errors import ConfigError

MINIMAL = "model: some/model\ndata: {train: train.jsonl}\n"


def knobs_of(text: str) -> dict[str, tuple[list[int | float | str], str]]:
    config = parse_config(MINIMAL + text)
    assert parse_config(dump_config(config)) == config
    return {knob.name: (list(knob.values), knob.scale) for knob in build_space(config.space)}


def test_names_are_a_list_or_a_mapping_to_a_sentence_each() -> None:
    listed = knobs_of("space: {schedule: [cosine, linear], targets: attention}")
    assert listed["schedule"] == (["cosine", "linear"], "names")
    assert listed["targets"] == (["attention"], "names")
    text = "space: {schedule: {cosine: falls along half a wave, linear:}}"
    config = parse_config(MINIMAL + text)
    assert parse_config(dump_config(config)) == config
    knob = build_space(config.space)["schedule"]
    assert (knob.values, knob.about) == (("cosine", "linear"), {"cosine": "falls along half a wave"})
    # As ever, YAML's words for numbers are numbers.
    assert knobs_of("space: {learning_rate: {values: ['1e-4', 2e-4]}}")["learning_rate"][0] == [1e-4, 2e-4]


def test_knobs_are_numbers_lists_and_ranges_with_or_without_the_level() -> None:
    short = "rank: 16, learning_rate: [1e-4, 3e-4], batch_size: {low: 8, high: 64}"
    found = knobs_of(f"space: {{{short}}}")
    assert found == knobs_of(f"space: {{knobs: {{{short}}}}}")
    assert found["rank"] == ([16], "linear")
    assert found["learning_rate"] == ([1e-4, 3e-4], "log10")
    assert found["batch_size"] == ([8, 16, 32, 64], "log2")
    assert set(found) == {"rank", "alpha_ratio", "dropout", "batch_size", "learning_rate"}


@pytest.mark.parametrize(
    ("knob", "values", "scale"),
    [
        ("learning_rate: {low: 1e-5, high: 1e-3, n: 5}", [1e-5, 3.16e-5, 1e-4, 3.16e-4, 1e-3], "log10"),
        ("dropout: {low: 0, high: 0.1, n: 3}", [0, 0.05, 0.1], "linear"),
        ("rank: {low: 4, high: 6, n: 9}", [4, 5, 6], "log2"),
        ("rank: {low: 3, high: 100, scale: linear, n: 4}", [3, 35, 68, 100], "linear"),
        ("dropout: [0.0, 0.1]", [0.0, 0.1], "linear"),
        ("rank: {values: [4, 8]}", [4, 8], "linear"),  # in full, as ever
    ],
)
def test_ranges_are_even_on_their_scale(knob: str, values: list[float], scale: str) -> None:
    name = knob.partition(":")[0]
    assert knobs_of(f"space: {{{knob}}}")[name] == (values, scale)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{rank: 8, knobs: {rank: 4}}", "knob 'rank' is given twice"),
        ("{remvoe: [1]}", "unknown key 'space.remvoe'; did you mean 'remove'?"),
        ("{rank: sixteen}", "knob 'rank': values are numbers in order; got 'sixteen'"),
        ("{schedule: [cosine, 2]}", "knob 'schedule': values are numbers or names, not both"),
        ("{variant: [on, off]}", "a number or a name, not true or false; put a name in quotes"),
        ("{schedule: [cosine, on]}", "a number or a name, not true or false; put a name in quotes"),
        ("{schedule: [cosine, cosine]}", "knob 'schedule': 'cosine' is given twice"),
        ("{schedule: [cosine, ' x']}", "a name is a text without spaces around it"),
        ("{schedule: ['" + 10_000 * "x" + "']}", "a name has at most 100 characters"),
        ("{schedule: {values: [a, b], scale: log2}}", "names have no scale but 'names'"),
        ("{schedule: {values: [a, b], about: {c: x}}}", "about: there is no name 'c'; it has a, b"),
        ("{schedule: [a, b], constraints: ['schedule < 2']}", "schedule has names, which have no order"),
        ("{schedule: [a, b], constraints: [\"schedule == 'c'\"]}", "schedule has no 'c'"),
        ("{rank: {low: 8, high: 4}}", "knob 'rank': low and high are numbers, low below high; got 8 and 4"),
        ("{rank: {low: 8, high: 64, step: 4}}", "a range has low, high, n and scale; got 'step'"),
        ("{rank: {low: 0, high: 64}}", "scale log2 needs values above 0; got 0"),
        ("{rank: {low: 1, high: 8, n: 1}}", "n is a whole number from 2 to 1,000; got 1"),
        ("{rank: [8, 4]}", "values must increase"),
        ("{knobs: {rank: true}}", "space.knobs.rank"),
    ],
)
def test_mistakes_are_one_line(space: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{MINIMAL}space: {space}", "a.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("a.yaml:3: ")


@pytest.mark.parametrize("base", ["default", "paper"])
def test_alpha_stands_in_the_place_of_the_ratio_of_the_base(base: str) -> None:
    space = build_space(SpaceConfig.model_validate({"base": base, "rank": 16, "alpha": 128}))
    assert "alpha_ratio" not in space.names
    assert space["alpha"].values == (128,)
    assert {space.config(int(i))["alpha"] for i in space.candidates} == {128}


def test_both_are_refused() -> None:
    with pytest.raises(ConfigError, match="search either alpha or alpha_ratio"):
        parse_config(f"{MINIMAL}space: {{alpha: 8, alpha_ratio: 2}}", "a.yaml")


def test_a_mistake_has_the_line_of_its_knob() -> None:
    with pytest.raises(ConfigError, match=r"^a.yaml:5: "):
        parse_config(f"{MINIMAL}space:\n  rank: 8\n  learning_rate: {{values: [true]}}", "a.yaml")


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ({"learning_rate": [-1e-4, 1e-3]}, "knob learning_rate: values are above 0; got -0.0001"),
        ({"dropout": [0.5, 1.0]}, "knob dropout: values are from 0 up to, but not including, 1; got 1.0"),
        ({"epochs": [-1, 1]}, "knob epochs: Input should be greater than 0; got -1"),
        ({"rnak": 8}, "training has no knob 'rnak'; did you mean 'rank'?"),
    ],
)
def test_values_that_no_training_takes_are_refused(
    run_config: Callable[..., Path], said: Callable[..., str], space: dict[str, object], line: str
) -> None:
    path = run_config()
    text = path.read_text().replace("space:\n", "space:\n  x: 0\n", 1)
    name, value = next(iter(space.items()))
    text = re.sub(rf"\n    {name}:\n(      .*\n)+", "\n", text).replace("  x: 0", f"  {name}: {value}")
    path.write_text(text)
    assert line in said("tune", path, refused=True)
