"""Files of settings: what they mean is kept exactly, and what means too much is refused with its line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loracle.config.loading import dump_config, load_config, parse_config
from loracle.config.yaml_file import Writer, YamlError, dump, parse, read_text
from loracle.errors import ConfigError, PromptError
from loracle.language.prompt import load_prompt
from loracle.records.space import default_space

MINIMAL = "model: some/model\ndata: {train: train.jsonl}\n"


def bomb(kind: str, levels: int = 40, width: int = 9) -> str:
    """A text of a few lines that stands for width ** levels values."""
    lines = ["a0: &a0 {k: 1}"]
    for i in range(levels):
        names = ", ".join([f"*a{i}"] * width)
        lines.append(f"a{i + 1}: &a{i + 1} " + (f"{{<<: [{names}]}}" if kind == "merge" else f"[{names}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (bomb("merge"), "stands for more than 20,000 values", 5),
        (bomb("alias"), "stands for more than 20,000 values", 5),
        (bomb("merge", width=1, levels=300), "stands for more than 20,000 values", 115),
        ("\na: " + "[" * 100_000 + "]" * 100_000, "nested deeper than 50 levels", 2),
        ("\n" + "- " * 100_000, "nested deeper than 50 levels", 2),
        ("[" * 45 + "\n[\n" * 100_000, "nested deeper than 50 levels", 12),
        ("a: {" * 100_000, "nested deeper than 50 levels", 1),
        ("a: &a {b: [1, *a]}", "*a stands within itself", 1),
        ("a: &a {<<: *a}", "*a stands within itself", 1),
        ("a: &a 1\nb: &a 2", "second occurrence", 2),
        (
            "a:\n  - 1\n  - " + "9" * 400,
            "the number 9999999999999999999999999999999999999... is too large",
            3,
        ),
        ("a: " + "9" * 100_000, "is too large", 1),
        ("a: 9223372036854775808", "the number 9223372036854775808 is too large", 1),
        ("a: " + "1:" * 190 + "1", "is too large", 1),
        ("a: !!int x", "'x' is no int", 1),
        ("a: !!int ''", "'' is no int", 1),
        ("a: !!bool 5", "'5' is no bool", 1),
        ("a:\n- !!binary aGk=", "the tag !!binary has no meaning here", 2),
        ("a: !!set {x}", "the tag !!set has no meaning here", 1),
        ("a: !!python/name:os.system ''", "the tag !!python/name:os.system has no meaning here", 1),
        ("a: !mine\n  b: c", "the tag !mine has no meaning here", 1),
        ("!!seq {a: b}", "the tag !!seq has no meaning here", 1),
        ('a: "x\\0y"', "the character '\\x00' in a text", 1),
        ('a:\n  "\\e[31m": 1', "the character '\\x1b' in a text", 2),
        ('a: "\\ud800"', "the character '\\ud800' in a text", 1),
        ('a: "\\x85"', "the character '\\x85' in a text", 1),
        ('a: "\\U99999999"', "not valid YAML", 1),
        ("a: 1\nb: \x00", "the character '\\x00'", 2),
        ("a: 1\nb: \x1b[2J", "the character '\\x1b'", 2),
        ("a:\n\tb: 1", "found character '\\t' that cannot start any token", 2),
        ("a: 1\n3: 1", "the key 3 is no word; put it in quotes", 2),
        ("NO: 1", "the key NO is no word; put it in quotes", 1),
        ("? [a]\n: 1", "the key a list or mapping is no word", 1),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice", 3),
        ("a: {<<: {x: 1}, <<: {y: 1}}", "key '<<' is given twice", 1),
        ("a: {<<: 5}", "<< takes a mapping, or a list of them", 1),
        ("a: 1\n---\nb: 2", "but found another document", 2),
        ("a: [" + "1, " * 30_000 + "]", "stands for more than 20,000 values", 1),
    ],
)
def test_what_is_no_data_or_too_much_is_refused_with_its_line(text: str, message: str, line: int) -> None:
    with pytest.raises(YamlError) as error:
        parse(text)
    assert message in str(error.value)
    assert error.value.line == line
    with pytest.raises(ConfigError) as refused:
        parse_config(text, "a.yaml")
    assert str(refused.value) == f"a.yaml:{line}: {error.value}"
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe" + "a: b".encode("utf-16-le"), "x.yaml: is UTF-16, not UTF-8 text; save it as UTF-8"),
        ("a: b".encode("utf-16"), "x.yaml: is UTF-16, not UTF-8 text; save it as UTF-8"),
        (b"a: 1\nb: caf\xe9", "x.yaml:2: is not UTF-8 text"),
        (b"a: " + b"b" * 1_000_001, "x.yaml: has more than 1,000,000 bytes; that is no file of settings"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    for read, kind in (
        (load_config, ConfigError),
        (lambda path: load_prompt(path, default_space()), PromptError),
    ):
        with pytest.raises(kind) as error:
            read(tmp_path / "x.yaml")
        assert str(error.value) == f"{tmp_path}/{message}"


def test_endless_files_and_impossible_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="has more than 1,000,000 bytes"):
        load_config("/dev/zero")
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        load_config("x" * 5000)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_config("a\0b")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(tmp_path / "x.yaml").model == "some/model"
    assert read_text(tmp_path / "x.yaml") == MINIMAL


def test_dates_and_versions_are_text() -> None:
    content, _ = parse("a: 2024-01-01\nb: 2024-01-01 10:00:00\nc: =\nd: '1e-4'\ne: 1e-4\nf: 1_000\ng: yes")
    assert content == {
        "a": "2024-01-01",
        "b": "2024-01-01 10:00:00",
        "c": "=",
        "d": "1e-4",
        "e": 1e-4,
        "f": 1000,
        "g": True,
    }
    assert parse_config(f"{MINIMAL}output: 2024-01-01").output == Path("2024-01-01")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3, z: 4}\nc: {z: 0, <<: *a}",
        "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], w: 5}\nd: {<<: [*b, *a]}",
        "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b]}\nd: *b",
        "- &a [1, 2]\n- *a\n- {<<: {}, k: *a}\n- {<<: []}",
        "{'<<': {x: 1}, y: '<<'}",
        "a: ''\nb:\nc: ~\nd: 'null'\ne: null\nf: \"\\u00e9\\t\\n\"\ng: |\n  two\n  lines\nh: 0x1f\ni: .5",
    ],
)
def test_merges_and_aliases_mean_what_they_mean_elsewhere(text: str) -> None:
    """The order of keys counts, too: it is the order of knobs."""
    content, _ = parse(text)
    expected = yaml.safe_load(text)
    assert content == expected
    assert repr(content) == repr(expected)


# No control characters, and no surrogates: YAML text has none.
WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from("\t\n"), max_size=12) | (
    st.sampled_from(
        ["1e-4", "1e5", "yes", "NO", "null", "~", "2024-01-01", "=", "<<", "0x1f", "1:30", ".inf", "# a"]
    )
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | WORDS
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b) and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@settings(deadline=None, max_examples=200)
@given(DATA)
def test_what_is_written_is_read_as_the_same(content: Any) -> None:
    """Words stay words, numbers stay exact, and keys keep their order."""
    assert same(parse(dump(content))[0], content)


@settings(deadline=None, max_examples=100)
@given(DATA, st.sampled_from([None, True, False]), st.integers(2, 6), st.sampled_from([10, 80, 10_000]))
def test_the_way_of_writing_changes_nothing(content: Any, flow: bool | None, indent: int, width: int) -> None:
    """Blocks or braces, long lines or short, comments, line ends of Windows."""
    options = {"default_flow_style": flow, "indent": indent, "width": width, "sort_keys": False}
    text = yaml.dump(content, Dumper=Writer, allow_unicode=True, explicit_start=True, **options)
    assert same(parse(f"# a comment\n{text}# another\n")[0], content)
    assert same(parse(text.replace("\n", "\r\n"))[0], content)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=3), WORDS)
def test_words_of_a_config_survive_its_round_trip(choices: list[str], prompt: str) -> None:
    config = parse_config(MINIMAL).model_copy()
    changed = config.model_copy(
        update={
            "scoring": config.scoring.model_copy(update={"choices": choices}),
            "language": config.language.model_copy(update={"prompt": prompt}),
        }
    )
    assert parse_config(dump_config(changed)) == changed
