"""The benchmark of search methods runs, resumes and judges as it says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn: pip install 'loracle[bench]'")

import search
from landscape_data import synthetic
from search_methods import FACTORY, SAME_SEEDS


def test_regret_is_zero_at_the_best_and_one_at_the_median() -> None:
    landscape = synthetic("step")
    values = np.where(np.isnan(landscape.values), np.nanmin(landscape.values), landscape.values)
    best = int(landscape.candidates[int(np.argmax(values))])
    middle = int(landscape.candidates[int(np.argsort(values)[len(values) // 2])])
    assert search.regret(landscape, best) == 0
    assert search.regret(landscape, middle) == pytest.approx(1, abs=1e-3)


def test_noise_is_the_same_for_every_method_of_a_seed() -> None:
    landscape = synthetic("axis", "high")
    index = int(landscape.candidates[int(np.nanargmax(landscape.values))])
    assert search.observe(landscape, index, 1) == search.observe(landscape, index, 1)
    assert search.observe(landscape, index, 1) != search.observe(landscape, index, 2)


@pytest.mark.parametrize("method", ["random", "tpe", "numeric", "default"])
def test_methods_start_from_the_same_configs(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LARGE", (3, 5))
    landscape = synthetic("step", "low")
    rows = list(search.search(landscape, SAME_SEEDS, method, 0))
    assert [row["n"] for row in rows] == [3, 5]
    seeds_alone = next(search.search(landscape, SAME_SEEDS, "random", 0))
    if method not in ("numeric", "default"):  # which recommends by posterior mean
        assert rows[0]["regret"] == seeds_alone["regret"]
    assert list(search.search(landscape, FACTORY, method, 0))


def test_show_writes_rows_and_leaves_out_a_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "LOG", tmp_path / "search.jsonl")
    row = {
        "landscape": "a",
        "regime": SAME_SEEDS,
        "method": "tpe",
        "seed": 0,
        "n": 30,
        "regret": 0.25,
        "wasted": 0,
    }
    search.LOG.write_text(json.dumps(row) + '\n{"landscape": "a", "reg')
    search.show(argparse.Namespace(by_landscape=False, no_figures=True))
    assert "wasted" in capsys.readouterr().out
    assert json.loads((tmp_path / "search.json").read_text())["rows"] == [row]
