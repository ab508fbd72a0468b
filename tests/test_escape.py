from __future__ import annotations

import unicodedata
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loracle import escape


def test_what_moves_the_cursor_or_reverses_text_is_spelt_out() -> None:
    assert escape.printable("a\x1b[2Jb\r\x07\u202ec\ud800") == "a\\x1b[2Jb\\r\\x07\\u202ec\\ud800"


def test_letters_of_all_scripts_stay() -> None:
    text = "naïve 数学 कक्षा‍ العربية 👩‍🔬"
    assert escape.printable(text) == text


def test_a_limit_is_kept_and_shown() -> None:
    assert escape.printable("x" * 100, 10) == "xxxxxxx..."


def test_lines_keep_line_breaks_and_tabs_only() -> None:
    assert escape.lines("a\tb\r\nc\x1b[1m") == "a\tb\nc\\x1b[1m"


@given(st.text())
def test_a_terminal_shows_foreign_text_as_it_is_and_nothing_else_happens(text: str) -> None:
    written = StringIO()
    Console(file=written, width=100_000, force_terminal=False).print(
        escape.terminal(text), end="", emoji=False
    )
    assert written.getvalue() == escape.printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in written.getvalue())


def test_markdown_and_html_are_text() -> None:
    hostile = "<script>|*a*[x](y)`"
    assert escape.html(hostile) == "&lt;script&gt;|*a*[x](y)`"
    assert escape.markdown(hostile) == "\\<script\\>\\|\\*a\\*\\[x\\]\\(y\\)\\`"
