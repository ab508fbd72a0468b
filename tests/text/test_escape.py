from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from loracle.text import escape


def test_what_moves_the_cursor_or_reverses_text_is_spelt_out() -> None:
    assert escape.printable("a\x1b[2Jb\r\x07\u202ec\ud800") == "a\\x1b[2Jb\\r\\x07\\u202ec\\ud800"


def test_letters_of_all_scripts_stay() -> None:
    text = "naïve 数学 कक्षा‍ العربية 👩‍🔬"
    assert escape.printable(text) == text


def test_a_limit_is_kept_and_shown() -> None:
    assert escape.printable("x" * 100, 10) == "xxxxxxx..."


def test_lines_keep_line_breaks_and_tabs_only() -> None:
    assert escape.lines("a\tb\r\nc\x1b[1m") == "a\tb\nc\\x1b[1m"


def test_markdown_and_html_are_text() -> None:
    hostile = "<script>|*a*[x](y)`"
    assert escape.html(hostile) == "&lt;script&gt;|*a*[x](y)`"
    assert escape.markdown(hostile) == "\\<script\\>\\|\\*a\\*\\[x\\](y)\\`"


@pytest.mark.parametrize(
    "text",
    [
        "- a",
        "+ a",
        "# a",
        "=a",
        "1. a",
        "12) a",
        "123456. a",
        "---",
        "-- -",
        "##",
        "===",
        "_a_",
        "__init__",
        "&amp;",
        "$x$",
    ],
)
def test_nothing_formats_in_markdown(text: str) -> None:
    read = MarkdownIt("gfm-like", {"linkify": False}).parse(escape.markdown(text))
    assert [token.type for token in read] == ["paragraph_open", "inline", "paragraph_close"]
    assert [child.content for child in read[1].children or [] if child.type != "text"] == []
    assert "".join(child.content for child in read[1].children or []) == text


@given(st.text())
def test_markdown_of_any_text_is_that_text(text: str) -> None:
    shown = escape.printable(text).strip()
    read = MarkdownIt("gfm-like", {"linkify": False}).parse(escape.markdown(text).strip())
    if shown:
        assert [token.type for token in read] == ["paragraph_open", "inline", "paragraph_close"]
        assert "".join(child.content for child in read[1].children or []) == shown
    else:
        assert read == []


def test_names_with_underscores_stay_readable() -> None:
    for text in ("data.max_length (of 3)", "0.05", "-1.5", "1e-4", "3.3272 (3.2 to 3.4)"):
        assert escape.markdown(text) == text
