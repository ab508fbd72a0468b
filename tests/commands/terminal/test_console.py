"""Nothing that is printed is markup, and nothing in it moves the cursor."""

from __future__ import annotations

import json
import re
import unicodedata
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import PACKAGE
from rich.console import Console

from loracle.commands.terminal.console import (
    console,
    error_line,
    say,
    say_json,
    say_notices,
    say_parts,
    say_table,
)
from loracle.errors import StudyError
from loracle.records.notices import Notice
from loracle.text import escape

HOSTILE = [
    "run [v1]",
    "[/x]",
    "[bold]a[/]",
    ":smile:",
    "a\\",
    "[link=file:///x]y",
    "\x1b[2J\x1b]0;t\x07",
    "\u202ea",
]


def written(text: str, *, terminal: bool = False, width: int | None = None) -> str:
    out = StringIO()
    to = console(file=out)
    if terminal:
        to = Console(file=out, force_terminal=True, width=width, markup=False, emoji=False, highlight=False)
    say(to, text)
    return out.getvalue()


@given(st.text())
def test_a_line_is_shown_as_it_is_and_nothing_else_happens(text: str) -> None:
    assert written(text.replace("\t", " ")) == escape.lines(text.replace("\t", " ")) + "\n"
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in written(text).replace("\n", ""))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_everywhere(text: str) -> None:
    shown = escape.printable(text)
    assert shown in written(text)
    assert shown in written(text, terminal=True, width=80)
    out = StringIO()
    to = console(file=out)
    say_parts(to, ("a ", "bold"), (text, "red"))
    say_notices(to, [Notice("data", "odd", text)])
    say_table(to, [[text, "b"], ["1", text]])
    assert out.getvalue().count(shown) == 4


def test_files_get_whole_lines_and_a_narrow_terminal_whole_words() -> None:
    names = [f"some_long_knob_{i}" for i in range(8)]
    out = StringIO()
    say_table(console(file=out), [names, ["1"] * 8])
    assert out.getvalue().splitlines()[0].split() == names
    narrow = StringIO()
    say_table(Console(file=narrow, width=80), [names, ["0.0001"] * 8])
    lines = narrow.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["0.0001"] * 8


def test_a_table_too_wide_for_the_terminal_comes_in_parts_with_whole_words() -> None:
    names = ["trial", "rank", "alpha", "dropout", "learning_rate", "batch_size", "weight_decay"]
    names += ["warmup_fraction", "max_gradient_norm", "epochs", "score", "seconds"]
    rows = [[str(i), *["0.0001"] * 9, "out_of_memory", "123.4"] for i in range(3)]
    out = StringIO()
    say_table(Console(file=out, width=80), [names, *rows])
    parts = [part.splitlines() for part in out.getvalue().rstrip().split("\n\n")]
    assert len(parts) == 2
    assert max(len(line) for part in parts for line in part) <= 80
    words = [word for part in parts for line in part for word in line.split()]
    assert {"trial", "dropout", "gradient_", "epochs", "seconds", "out_of_memory", "123.4"} <= set(words)
    for part in parts:  # the trial's number in each
        assert [line.split()[0] for line in part[-3:]] == ["0", "1", "2"]


def test_what_json_has_no_number_for_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    say_json({"a": float("nan"), "b": [float("inf"), 1e308], "path": "/NaN", "c": {"d": "\ud800"}})
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [None, 1e308],
        "path": "/NaN",
        "c": {"d": "\ud800"},
    }


def test_an_error_is_one_harmless_line() -> None:
    assert error_line(StudyError("a\x1b[31m\nb [/x]")) == "loracle: a\\x1b[31m b [/x]\n"


def test_a_terminal_gets_whole_words_and_a_file_one_line() -> None:
    text = "a difference of this size would need about a hundred test items, so more data are needed " * 3
    notice = Notice("result", "odd", text.strip())
    narrow, plain = StringIO(), StringIO()
    say_notices(Console(file=narrow, force_terminal=True, width=60, color_system=None), [notice])
    say_notices(console(file=plain), [notice])
    lines = narrow.getvalue().splitlines()
    assert plain.getvalue() == f"note result: {notice.text}\n"
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("     ") for line in lines[1:])
    assert " ".join(line.strip() for line in lines) == plain.getvalue().strip()


def test_everything_that_is_printed_goes_through_one_place() -> None:
    package = PACKAGE
    for path in package.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "rich.markup" not in text, path
        if path.name == "console.py":
            continue
        assert not re.search(r"(?<!\w)Console\(", text), path
        assert not re.search(r"(?<![\w.])print\(", text), path
        assert text.count("typer.echo(") == (path.name == "cli.py"), path  # the version
