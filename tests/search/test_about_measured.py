"""Whether a description tells which past landscapes a new one resembles: what was measured, and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from places import ROOT

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")
pytest.importorskip("optuna", reason="the benchmarks need Optuna")

import about as program
from about_texts import Place
from landscape_data import load_landscapes

from loracle.search.prior import SHIPPED, load_prior

FOUND: dict[str, Any] = json.loads(program.RESULTS.read_text(encoding="utf-8"))
SECTION = (
    (ROOT / "docs" / "search-knowledge.md")
    .read_text(encoding="utf-8")
    .partition("## Does a description help to choose among past landscapes?")[2]
    .partition("\n## ")[0]
)


def test_the_page_states_what_a_description_is_worth() -> None:
    by_family = FOUND["table"].index("", FOUND["table"].index("") + 1)  # a table that the page leaves out
    for line in FOUND["table"][:by_family]:
        assert line in SECTION
    for other in ("equal", "numbers", "language, shuffled"):
        found = [line for line in FOUND["table"] if line.startswith(f"| language less {other} |")]
        intervals = [(float(a), float(b)) for a, b in re.findall(r"\((\S+) to (\S+)\)", " ".join(found))]
        assert len(intervals) == 8  # over landscapes and over families
        assert all(low <= 0 <= high for low, high in intervals)
    assert SECTION.strip().startswith("Not beyond noise")


def test_the_stored_means_are_those_of_the_rows() -> None:
    for way in ("equal", "numbers", "language", "as it ships"):
        rows = [row["regret"] for row in FOUND["rows"] if row["way"] == way and row["n"] == 0]
        assert len(rows) == 83
        (line,) = (line for line in FOUND["table"] if line.startswith(f"| {way} | "))
        assert line.startswith(f"| {way} | {np.mean(rows):.3f} (")


def test_a_search_that_is_told_what_its_prior_expects_is_the_default() -> None:
    own = replace(next(iter(load_landscapes(["rows"]))), may_train=False)  # the prior that ships
    place = Place(own.only(np.arange(0, len(own.candidates), 8)), "own", "", np.zeros(6))
    mean = load_prior(SHIPPED).inputs(place.described, own.parameters).mean
    assert program.searched(place, mean, 0) == program.searched(place, "as it ships", 0)
    assert program.searched(place, -mean, 0) != program.searched(place, "as it ships", 0)
