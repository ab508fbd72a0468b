"""The published table of landscapes, its loader, and the leaderboard that takes anybody's sampler."""

from __future__ import annotations

import csv
import gzip
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

import joint_table
import leaderboard
import loracle_landscapes as published

ROWS = published.load()


def test_the_table_is_what_the_files_beside_it_make() -> None:
    stored, made = published.TABLE.read_bytes(), joint_table.content()
    assert gzip.decompress(stored) == gzip.decompress(made), "run benchmarks/joint_table.py"
    assert len(stored) < 3_000_000


def test_the_loader_needs_its_file_and_numpy_alone(tmp_path: Path) -> None:
    shutil.copy(published.__file__, tmp_path)
    script = (
        "import sys; from pathlib import Path; import loracle_landscapes as one;"
        f"print(len(one.surfaces(one.load(Path({str(published.TABLE)!r})))));"
        "print({'loracle', 'torch', 'pandas', 'scipy', 'optuna'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(len(published.surfaces(ROWS))), "set()"]


def test_pandas_reads_it_with_every_column_said() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(published.TABLE, low_memory=False)
    assert list(table) == list(published.COLUMNS)
    assert len(table) == len(ROWS)
    for name in published.COLUMNS:
        if name not in published.TEXTS:
            assert table[name].dropna().map(np.isreal).all(), name


def test_every_training_says_what_it_was() -> None:
    known = ("landscape", "family", "base_model", "architecture", "metric", "part", "variant")
    known += ("parameters", "width", "depth", "examples", "epochs", "fidelity", "rank", "learning_rate")
    for row in ROWS:
        assert all(row[name] not in ("", None) for name in known)
        assert (row["score"] is None) == (row["failure"] == "diverged")
        assert row["alpha"] == pytest.approx(row["alpha_ratio"] * row["rank"])
        assert 0 < row["fidelity"] <= 1
    counts = Counter(row["part"] for row in ROWS)
    assert set(counts) == {"own", "fidelities", "real", "names", "contexts"}
    assert counts["own"] == 5581
    assert {row["fidelity"] for row in ROWS if row["part"] == "fidelities"} == {0.03, 0.1, 0.3, 1.0}
    curves = [row["curve"] for row in ROWS if row["curve"]]
    assert len(curves) > 5000
    assert all(float(point.split(":")[1]) > 0 for curve in curves[::50] for point in curve.split())


def test_surfaces_are_there_to_be_searched() -> None:
    found = {surface.name: surface for surface in published.surfaces(ROWS)}
    assert {"sorting", "code", "names", "real-hyphens at 0.3333"} <= set(found)
    for surface in found.values():
        assert len(surface.configs) == len(surface.scores)
        regrets = surface.regrets
        if surface.context["part"] == "contexts" and np.isnan(regrets).all():
            continue  # hardly any config learns anything there
        assert regrets.min() == 0
        assert np.median(regrets) == pytest.approx(1)
    assert len(found["sorting"].scores) == 800
    assert found["sorting"].noise > 0
    assert len({surface.family for surface in found.values()}) >= 7
    (tenth,) = published.surfaces([r for r in ROWS if r["landscape"] == "sorting"], fidelity=0.1)
    assert len(tenth.scores) > 500
    assert tenth.name == "sorting at 0.1"


def test_tables_of_others_are_read_in_place_and_stay_outside(tmp_path: Path) -> None:
    columns = "group,model,task,method,rank,alpha,dropout,batch_size,learning_rate,metric,maximize,value"
    with (tmp_path / "sweep.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*columns.split(","), "std", "diverged"])
        for rate in (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
            table.writerow(["g", "m-7b", "t", "LoRA", 8, 16, 0, 8, rate, "nll", 0, 1 + rate, "", 0])
        table.writerow(["g", "m-7b", "t", "LoRA", 8, 16, 0, 8, 1, "nll", 0, "", "", 1])
    (surface,) = published.surfaces(published.load(others=tmp_path)[len(ROWS) :])
    assert surface.knobs == {"learning_rate": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1]}
    assert surface.configs[int(np.nanargmax(surface.scores))]["learning_rate"] == 1e-5
    assert np.isnan(surface.scores).sum() == 1
    assert published.load(others=tmp_path / "nothing") == ROWS
    assert {row["part"] for row in ROWS} <= {"own", "fidelities", "real", "names", "contexts"}


def test_another_table_is_refused(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "old.csv.gz", "wt") as file:
        file.write("landscape,rank\n")
    with pytest.raises(ValueError, match="has other columns"):
        published.load(tmp_path / "old.csv.gz")


# -- the leaderboard --------------------------------------------------------------------------------

MODULE = """
import optuna

def make():
    return optuna.samplers.RandomSampler(seed=1)

class Mine(optuna.samplers.RandomSampler):
    def __init__(self, seed):
        assert seed in (0, 1)
        super().__init__(seed=seed)

class Broken(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        if trial.number == 4:
            raise ArithmeticError("no more ideas\\nfor you")
        return super().sample_independent(study, trial, name, distribution)

def number():
    return 3

word = "text"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's folder with a module, its name."""
    name = f"users_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_samplers_of_a_user_stand_beside_the_others(here: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--sampler", f"{here}:make", "--sampler", f"{here}:Mine", "--on", "sorting,real:sections"]
    leaderboard.main([*given, "--seeds", "2"])
    told = capsys.readouterr().out
    for name in (f"{here}:make", f"{here}:Mine", *leaderboard.PEERS):
        lines = [line for line in told.splitlines() if line.startswith(f"| {name} |")]
        assert len(lines) == 2  # two groups of landscapes
        for line in lines:
            assert len(line.split("|")) == 3 + 6
            assert " to " in line
    assert "own: 1 landscapes, 2 seeds" in told
    assert f"| {here}:Mine less Loracle |" in told
    for n in (3, 5, 8, 10, 20, 30):
        assert f"| {n} trials " in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "write module:name, such as optuna.samplers:TPESampler"),
        ("optuna.samplers:TPSampler", "optuna.samplers has no TPSampler"),
        ("no_such_module:make", "cannot import no_such_module"),
        ("HERE:number", "it makes a int, not an Optuna sampler"),
        ("HERE:word", "word is neither a class nor a function"),
        ("HERE:Broken", "failed on sorting:rows, seed 0, trial 5: ArithmeticError: no more ideas"),
    ],
)
def test_what_is_no_sampler_is_refused_in_a_line(
    name: str, told: str, here: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        leaderboard.main(["--sampler", name.replace("HERE", here), "--on", "sorting", "--seeds", "1"])
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1


def test_landscapes_that_are_not_there_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        leaderboard.main(["--on", "sortin9"])
    assert "there are own, real, table" in capsys.readouterr().err


def test_the_stored_searches_are_of_every_method_on_every_seed() -> None:
    rows = [row for row in leaderboard.stored() if row["group"] != "table"]
    assert {row["method"] for row in rows} == set(leaderboard.PEERS)
    assert len(rows) == len(leaderboard.PEERS) * 7 * 20
