"""Quotation marks of CSV and TSV: cells that they enclose (RFC 4180), or text (IANA's TSV)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from loracle.config.settings import DataConfig
from loracle.errors import DataError
from loracle.records.notices import Notice
from loracle.training.dataset.files import read_examples

Pairs = Sequence[tuple[str, str]]

PLAIN = [(f"line {i}", "red") for i in range(20)]
# A sentence of a book begins with a quotation mark, and one of four lines later ends with one.
DIALOGUE = [*PLAIN[:10], ('"I will', "blue"), *PLAIN[10:13], ('not go."', "blue"), *PLAIN[13:]]


def written(path: Path, rows: Pairs, quoting: int = csv.QUOTE_NONE) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        separator = "\t" if path.suffix == ".tsv" else ","
        if quoting == csv.QUOTE_NONE:
            file.writelines(f"{separator.join(row)}\n" for row in [("prompt", "completion"), *rows])
        else:
            writer = csv.writer(file, quoting=quoting, delimiter=separator)  # type: ignore[arg-type]
            writer.writerows([("prompt", "completion"), *rows])
    return path


def read(path: Path, quoting: str = "auto") -> tuple[list[tuple[str, str]], dict[str, Notice]]:
    told: list[Notice] = []
    settings = DataConfig.model_validate({"train": path, "quoting": quoting})
    examples = read_examples(path, settings, told=told)
    return [(str(e.prompt), str(e.completion)) for e in examples], {notice.name: notice for notice in told}


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_mark_that_would_join_lines_is_refused_until_it_is_said_what_it_is(
    name: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, DIALOGUE)
    message = (
        f"{name}:12: a quotation mark would make one row of the lines 12 to 16, .*quoting: none .*rfc4180"
    )
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert read(path, "none") == (DIALOGUE, {})
    rows, told = read(path, "rfc4180")
    assert len(rows) == len(DIALOGUE) - 4
    assert (
        told["line_breaks_in_cells"].text
        == f"{name}: cells of 1 row hold line breaks, the first in lines 12 to 16"
    )


MARKS = [('He said "x" ok', '"q" red'), ('"Yes," she said.', "blue"), *PLAIN]


def test_marks_that_enclose_nothing_are_text_in_a_tsv(tmp_path: Path) -> None:
    """IANA's text/tab-separated-values has no quoting; GLUE's files are such."""
    rows, told = read(written(tmp_path / "a.tsv", MARKS))
    assert rows == MARKS
    assert told["quotation_marks"].text == (
        "a.tsv: quotation marks that begin cells, in 2 lines, the first line 2, are text; data.quoting: "
        "rfc4180 has them enclose cells"
    )
    assert told["quotation_marks"].count == 2
    whole = [('"Hello"', "blue"), *PLAIN]  # which no writer encloses where it leaves the others as they are
    assert read(written(tmp_path / "b.tsv", whole))[0] == whole
    open_end = [*PLAIN, ('"and so on', "blue")]  # to the end of the file, were it enclosed
    assert read(written(tmp_path / "c.tsv", open_end))[0] == open_end


def test_in_a_csv_they_are_refused_with_the_setting_that_reads_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [('"Yes" she said.', "blue"), *PLAIN])
    with pytest.raises(DataError, match=r"a.csv:2: not valid CSV: .*; .* say data.quoting: none") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert read(path, "none") == ([('"Yes" she said.', "blue"), *PLAIN], {})
    path.write_bytes(path.read_bytes().replace(b",", b";"))  # the separator is found so, too
    assert read(path, "none")[0][0] == ('"Yes" she said.', "blue")
    with pytest.raises(DataError, match=r"a.csv:2: not valid CSV: .*; .* say data.quoting: none"):
        read(path)


QUOTED = [('say "x"', "a, b"), ("two\nlines", "c"), ("a\ttab", "d"), ("plain", "1"), ("", "e")]
WRITTEN = [(prompt or "so", completion) for prompt, completion in QUOTED]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_what_a_writer_encloses_is_read_as_it_was(name: str, quoting: int, tmp_path: Path) -> None:
    rows, told = read(written(tmp_path / name, WRITTEN * 3, quoting))
    assert rows == WRITTEN * 3
    assert told["line_breaks_in_cells"].count == 3
    assert (
        "hold line breaks, the first in lines 3 to 4, 9 to 10, 15 to 16" in told["line_breaks_in_cells"].text
    )
    assert "quotation_marks" not in told  # read as lines, its rows would have other columns


def test_a_tsv_of_excel_encloses_cells_with_commas(tmp_path: Path) -> None:
    """And those with quotation marks, and no others."""
    path = tmp_path / "a.tsv"
    path.write_text('prompt\tcompletion\r\n"red, blue"\tx\r\n"5"" pipe"\ty\r\nplain\tz\r\n')
    rows, told = read(path)
    assert rows == [("red, blue", "x"), ('5" pipe', "y"), ("plain", "z")]
    assert told["quotation_marks"].text == (
        "a.tsv: quotation marks that begin cells, in 2 lines, the first line 2, enclose the cells and are no "
        "text; data.quoting: none reads them as text"
    )
    path.write_text('prompt\tcompletion\n"Red, blue"\tx\nRed, green\ty\n')  # another comma is not enclosed
    assert read(path)[0] == [('"Red, blue"', "x"), ("Red, green", "y")]


def test_a_column_of_enclosed_cells_may_hold_lines_that_look_like_rows(tmp_path: Path) -> None:
    """As of functions whose one line begins with a tab."""
    path = tmp_path / "a.tsv"
    path.write_text('prompt\tcompletion\ndo\t"def f():\n\treturn 1"\nso\t"def g():\n\treturn 2"\n')
    rows, told = read(path)
    assert rows == [("do", "def f():\n\treturn 1"), ("so", "def g():\n\treturn 2")]
    assert told["line_breaks_in_cells"].text.endswith("the first in lines 2 to 3, 4 to 5")


def test_what_is_neither_is_refused_with_both_reasons(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", [('"a" b', "x"), ("c", "d\te"), *PLAIN])
    with pytest.raises(
        DataError, match=r"a.tsv:2: not valid TSV: .*as text line 3 has 3 columns where the first has 2"
    ):
        read(path)
    with pytest.raises(DataError, match=r"a.tsv:3: a row needs 2 columns; this one has 3"):
        read(path, "none")


def test_rows_behind_empty_lines_have_their_own_places(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\n\n\na,b\n\nc\n")
    with pytest.raises(DataError, match=r"a.csv:6: a row needs 2 columns"):
        read(tmp_path / "a.csv")
