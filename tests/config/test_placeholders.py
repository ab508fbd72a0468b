from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loracle.config.placeholders import check_placeholders, fill, placeholders, spell, split_command
from loracle.errors import ConfigError

KNOBS = ("rank", "alpha_ratio", "learning_rate")


def test_text_is_split_once_and_values_stay_whole() -> None:
    parts = split_command("python 'my train.py' --lr={learning_rate} --out {folder}/x '{{\"a\": 1}}'")
    values = {"learning_rate": 1e-5, "folder": "/tmp/a b; $(touch c)"}
    assert [fill(part, values) for part in parts] == [
        "python",
        "my train.py",
        "--lr=0.00001",
        "--out",
        "/tmp/a b; $(touch c)/x",
        '{"a": 1}',
    ]


def test_a_list_is_not_split() -> None:
    assert split_command(["sh", "-c", "echo 'a b' > c"]) == ("sh", "-c", "echo 'a b' > c")


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_every_reader_takes_a_value_for_the_same_number(value: float) -> None:
    text = spell(value)
    assert float(text) == float(value)
    assert float(yaml.safe_load(text)) == float(value)  # YAML 1.1 takes 1e-05 for a word


@given(st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        parts = split_command(text)
        names = {name for part in parts for name in placeholders(part)}
    except ConfigError:
        return
    assert parts[0]
    assert all(name.isidentifier() and f"{{{name}}}" in "".join(parts) for name in names)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "names no program"),
        ("''", "names no program"),
        ("python 'train.py", "no closing quotation"),
        ("python a\0b", "no argument can hold"),
    ],
)
def test_commands_that_cannot_be_run_are_refused(command: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_command(command)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["{rank}", "{alpha}", "{lr}"], r"unknown placeholder \{lr\}; there are alpha, alpha_ratio, folder"),
        (["{rank}", "{alpha}", "{learning_rat}"], r"did you mean \{learning_rate\}\?"),
        (
            ["{rank}", "{alpha}"],
            r"learning_rate is never used; add \{learning_rate\}, or .* \[learning_rate\]",
        ),
        (["{rank:d}"], "a placeholder is a name in braces"),
        (["{rank!r}"], "a placeholder is a name in braces"),
        (["{}"], "a placeholder is a name in braces"),
        (["{rank.real}"], "a placeholder is a name in braces"),
        (["{rank"], "write {{ and }} for braces"),
        (["}"], "write {{ and }} for braces"),
    ],
)
def test_placeholders_and_knobs_have_to_fit(parts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_placeholders(parts, KNOBS)


def test_alpha_and_its_ratio_stand_for_each_other() -> None:
    check_placeholders(["{rank}", "{alpha}", "{learning_rate}", "{seed}", "{number}", "{fraction}"], KNOBS)
    check_placeholders(["{rank}", "{alpha_ratio}", "{learning_rate}", "{folder}", "{phase}"], KNOBS)
    check_placeholders(["{learning_rate}"], ("learning_rate",))  # full fine-tuning has no rank
    with pytest.raises(ConfigError, match=r"unknown placeholder \{alpha\}"):
        check_placeholders(["{learning_rate}", "{alpha}"], ("learning_rate",))
