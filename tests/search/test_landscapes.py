"""The committed landscapes load and hold what they promise; the program that makes them works in small."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from places import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

pytest.importorskip("sklearn", reason="the benchmarks need scikit-learn")

import landscape_data as data
import landscape_tasks as made
import landscapes as program

from loracle.records.standard_settings import STANDARD

PROVENANCE = json.loads((BENCHMARKS / "landscapes" / "provenance.json").read_text(encoding="utf-8"))
TASKS = list(PROVENANCE["tasks"])


# -- the committed files ----------------------------------------------------------------------------


def test_there_are_enough_tasks_of_enough_families() -> None:
    assert len(TASKS) >= 4
    assert len({about["family"] for about in PROVENANCE["tasks"].values()}) >= 3
    assert set(TASKS) <= set(made.TASKS)
    files = list((BENCHMARKS / "landscapes").iterdir())
    assert sum(file.stat().st_size for file in files) < 5_000_000


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_as_promised(task: str) -> None:
    rows = data.read_rows(task)
    about = PROVENANCE["tasks"][task]
    assert tuple(rows[0]) == program.COLUMNS
    assert len(rows) == about["rows"]
    assert {row["task"] for row in rows} == {task}
    assert {row["family"] for row in rows} == {about["family"]}
    assert {row["metric"] for row in rows} == {about["metric"]}
    for row in rows:
        assert (row["value"] == "") == (row["failure"] != "")
        assert row["failure"] in ("", "diverged")
        assert float(row["alpha"]) == float(row["alpha_ratio"]) * float(row["rank"])
        seen = round(about["epochs"] * round(about["n_train"] * float(row["fraction"])))
        batch = min(int(row["batch_size"]), round(about["n_train"] * float(row["fraction"])))
        assert int(float(row["steps"])) == -(-seen // batch)
        assert float(row["seconds"]) > 0


@pytest.mark.parametrize("task", TASKS)
def test_rows_lie_on_the_grid_and_are_distinct(task: str) -> None:
    space = data.measured_space(PROVENANCE["knobs"])
    assert space.knobs == program.landscape_space().knobs
    keys = [
        (space.index({name: float(row[name]) for name in space.names}), row["fraction"], row["seed"])
        for row in data.read_rows(task)
    ]
    assert len(set(keys)) == len(keys)
    planned = program.design(space)
    full = {index for index, fraction, seed in keys if fraction == "1.0" and seed == "0"}
    assert full >= set(planned)  # the first of them is the standard config; more are near the best
    assert {index for index, fraction, _ in keys if fraction != "1.0"} >= set(planned[: program.N_PROXY])
    assert PROVENANCE["design"]["indices"] == ",".join(map(str, planned))
    for knob in space:  # full ranges
        values = {float(row[knob.name]) for row in data.read_rows(task)}
        assert values == set(map(float, knob.values))


@pytest.mark.parametrize("task", TASKS)
def test_there_are_enough_configs_with_both_sides_of_failure(task: str) -> None:
    rows = [row for row in data.read_rows(task) if float(row["fraction"]) == 1.0 and row["seed"] == "0"]
    assert len(rows) >= 600
    counts = PROVENANCE["tasks"][task]["rows_by_kind"]
    assert counts["proxy"] >= 150
    assert counts["repeated"] >= 2 * 2 * round(0.05 * 600)
    low = PROVENANCE["tasks"][task]["baseline_value"]
    values = np.array([float(row["value"]) if row["value"] else np.nan for row in rows])
    wasted = np.isnan(values) | (values < low + 0.05 * (np.nanmax(values) - low))
    step = np.array([float(row["learning_rate"]) * float(row["alpha_ratio"]) for row in rows])
    order = np.argsort(step)
    assert wasted[order[:60]].mean() > 0.8  # nothing learnt
    assert wasted[order[-60:]].mean() > 0.5  # wrecked
    assert 0.1 < wasted.mean() < 0.9


# -- landscapes to search on ------------------------------------------------------------------------


def test_own_landscapes_stand_for_the_whole_grid() -> None:
    landscapes = list(data.own_landscapes())
    assert [landscape.name for landscape in landscapes] == TASKS
    for landscape in landscapes:
        assert len(landscape.candidates) == landscape.space.size
        assert landscape.may_train
        assert landscape.noise_sd > 0
        assert "values" not in vars(landscape)  # no forest before it is needed


def test_an_emulator_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "TREES", 30)
    landscape = next(data.own_landscapes())
    assert landscape.values.shape == landscape.candidates.shape
    assert landscape.values is landscape.values  # computed once
    assert landscape.fit["r2"] > 0.5
    assert landscape.fit["spearman"] > 0.6
    rows = data.read_rows(landscape.name)
    full = [row for row in rows if float(row["fraction"]) == 1.0 and row["seed"] == "0" and row["value"]]
    index = [landscape.space.index({k: float(row[k]) for k in landscape.space.names}) for row in full]
    told = np.array([landscape.value(i) for i in index])
    measured = np.array([float(row["value"]) for row in full])
    known = ~np.isnan(told)
    assert np.corrcoef(told[known], measured[known])[0, 1] > 0.8
    assert 0.1 < landscape.wasted.mean() < 0.9
    best = max(float(row["value"]) for row in rows if row["value"])
    assert np.nanmax(landscape.values) <= best


def test_an_unknown_index_has_no_value() -> None:
    landscape = data.synthetic("step")
    with pytest.raises(KeyError):
        landscape.value(landscape.space.size)


@pytest.mark.parametrize("structure", ["step", "axis", "wrong"])
def test_synthetic_landscapes(structure: data.Structure) -> None:
    quiet, noisy = data.synthetic(structure), data.synthetic(structure, "high")
    assert np.array_equal(quiet.values, noisy.values, equal_nan=True)
    assert quiet.noise_sd == 0 < noisy.noise_sd
    assert not np.array_equal(quiet.values, data.synthetic(structure, seed=1).values, equal_nan=True)
    assert np.array_equal(quiet.values, data.synthetic(structure).values, equal_nan=True)
    for seed in range(5):
        landscape = data.synthetic(structure, seed=seed)
        assert 0.02 < np.isnan(landscape.values).mean() < 0.6
        assert 0.5 < np.nanmax(landscape.values) < 1.1
        assert np.nanmin(landscape.values) >= 0.05


def test_only_the_right_structure_follows_the_step_size() -> None:
    def explained(structure: data.Structure) -> float:
        """How much of the value a step size of usual exponents orders: variance between its 20 bins."""
        landscape = data.synthetic(structure, seed=3)
        knobs = landscape.space.values(landscape.candidates)
        u = np.log10(knobs["learning_rate"] * knobs["alpha_ratio"] ** 0.8 * knobs["rank"] ** 0.4)
        u -= 0.7 * np.log10(knobs["batch_size"])
        good = ~np.isnan(landscape.values)
        value, bins = (
            landscape.values[good],
            np.digitize(u[good], np.quantile(u[good], np.arange(0.05, 1, 0.05))),
        )
        means = (np.bincount(bins, value) / np.bincount(bins))[bins]
        return float(means.var() / value.var())

    assert explained("step") > 0.6
    assert explained("step") > explained("axis") + 0.2
    assert explained("step") > explained("wrong") + 0.2


def write_table(path: Path, rows: Iterator[dict[str, object]]) -> None:
    columns = "group,model,task,method,rank,alpha,dropout,batch_size,learning_rate,metric,maximize,value"
    columns += ",std,diverged"
    lines = [columns]
    for row in rows:
        full = {"group": "g", "model": "m", "task": "t", "method": "LoRA", "alpha": 32.0, "dropout": 0.0}
        full |= {"batch_size": 8.0, "metric": "nll", "maximize": 0, "std": "", "diverged": 0} | row
        lines.append(",".join(str(full[name]) for name in columns.split(",")))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_tables_are_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[dict[str, object]]:
        for rank in (4.0, 16.0):
            for rate in (1e-5, 1e-4, 3e-4, 1e-3):
                yield {"rank": rank, "learning_rate": rate, "value": 1 + rank / 100 + rate}
        yield {"rank": 4.0, "learning_rate": 1e-5, "value": 1.2}  # a replicate
        yield {"rank": 64.0, "learning_rate": 1e-3, "value": "", "diverged": 1}

    write_table(tmp_path / "some.csv", rows())
    monkeypatch.setenv("LORACLE_LANDSCAPES", str(tmp_path))
    (landscape,) = data.load_landscapes(["table"])
    assert len(landscape.candidates) == 9
    assert landscape.space.names == ("rank", "alpha", "dropout", "batch_size", "learning_rate")
    first = landscape.space.index(
        {"rank": 4, "alpha": 32, "dropout": 0, "batch_size": 8, "learning_rate": 1e-5}
    )
    assert landscape.value(first) == pytest.approx(-(1.04001 + 1.2) / 2)
    assert landscape.noise_sd == pytest.approx(np.std([1.04001, 1.2], ddof=1))
    assert np.isnan(landscape.values).sum() == landscape.wasted.sum() == 1
    assert not landscape.may_train


def test_absent_tables_are_left_out(tmp_path: Path) -> None:
    assert list(data.table_landscapes(tmp_path / "nothing")) == []


def test_tables_of_others() -> None:
    if not data.table_folder().is_dir():
        pytest.skip(f"no tables in {data.table_folder()}")
    landscapes = list(data.table_landscapes())
    assert len(landscapes) >= 20
    assert len({landscape.name for landscape in landscapes}) == len(landscapes)
    for landscape in landscapes:
        assert len(landscape.values) == len(landscape.candidates) >= data.MIN_TABLE
        assert landscape.may_train == landscape.family.startswith("tinker:")


# -- the program ------------------------------------------------------------------------------------


def test_the_design_is_distinct_and_fills_every_level() -> None:
    space = program.landscape_space()
    indices = program.design(space)
    assert len(set(indices)) == len(indices) == program.N_CONFIGS
    assert indices[0] == space.index(STANDARD)
    assert program.design(space, 1000)[: program.N_CONFIGS] == indices  # a longer plan goes on
    values = space.values(indices)
    for knob in space:
        counts = [int((values[knob.name] == value).sum()) for value in knob.values]
        assert min(counts) > 0.8 * program.N_CONFIGS / len(knob.values)


def test_the_best_are_repeated_and_as_many_others() -> None:
    values: list[float | None] = [None, *range(99)]
    chosen = program.repeated(range(100), values)
    assert chosen[:5] == [99, 98, 97, 96, 95]
    assert len(set(chosen)) == 10
    assert chosen == program.repeated(range(100), values)


def test_jobs_come_in_turns_and_are_done_once() -> None:
    jobs = program.open_jobs(["sorting", "code"], {})
    assert [job.task for job in jobs[:4]] == ["sorting", "code", "sorting", "code"]
    assert len(jobs) == 2 * (program.N_CONFIGS + program.N_PROXY)
    done = {job: {"value": "0.5"} for job in jobs}
    more = program.open_jobs(["sorting", "code"], done)
    kinds = [(job.fraction, job.seed > 0) for job in more]
    assert kinds.count((1.0, True)) == 2 * 2 * 2 * 30
    assert kinds.count((1.0, False)) == 2 * program.N_NEAR
    assert set(more).isdisjoint(done)
    assert program.open_jobs(["sorting", "code"], done | {job: {"value": "0.5"} for job in more}) == []


@pytest.mark.parametrize("task", list(made.TASKS.values()), ids=list(made.TASKS))
def test_data_are_distinct_and_the_same_every_time(task: made.LandscapeTask, tmp_path: Path) -> None:
    made.write_data(task, tmp_path)
    splits = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in tmp_path.iterdir()}
    assert (len(splits["train"]), len(splits["validation"])) == (task.n_train, task.n_validation)
    everything = [row for rows in splits.values() for row in rows]
    assert len(set(everything)) == len(everything)
    made.write_data(task, tmp_path / "again")
    assert (tmp_path / "again" / "train.jsonl").read_text(encoding="utf-8").splitlines() == splits["train"]


def test_answers_are_right() -> None:
    rng = random.Random(0)
    for _ in range(50):
        row = made.sorting_row(rng)
        assert row["completion"] == "".join(sorted(row["prompt"][2:-1]))
        row = made.carrying_row(rng)
        a, b = (int(number[::-1]) for number in row["prompt"][:-1].split("#"))
        assert int(row["completion"][::-1]) == a + b + 1
        asked, stated = made.strangers_question(rng), made.strangers_row(rng)
        assert asked["completion"] in made.ANSWERS
        assert stated["completion"] in made.ANSWERS


def test_a_base_is_pretrained_and_an_adapter_trained_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(program, "WORK", tmp_path)
    monkeypatch.setattr(program, "_objectives", {})
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results")
    task = replace(made.TASKS["verdict"], n_train=20, n_validation=10)
    monkeypatch.setitem(made.TASKS, "verdict", task)
    made.make_base(replace(made.BASES[task.base], steps=2, batch=4), tmp_path / "bases" / task.base)
    made.write_data(task, tmp_path / "data" / "verdict")
    monkeypatch.setattr(program, "objective", _with_work(program.objective, tmp_path))
    job = program.Job("verdict", program.design(program.landscape_space())[0], 0.5)
    program.append_row(program.train(job))
    rows = program.read_rows(["verdict"])
    assert list(rows) == [job]
    assert float(rows[job]["value"]) == float(rows[job]["choice_accuracy"])
    assert job not in program.open_jobs(["verdict"], rows)
    program.pack(["verdict"])
    assert len(data.read_rows("verdict", tmp_path / "results")) == 1
    program.check_same(task)
    path = tmp_path / "results" / "provenance.json"
    path.write_text(path.read_text().replace('"model_fingerprint": "', '"model_fingerprint": "x'))
    with pytest.raises(SystemExit, match="verdict: model_fingerprint is"):
        program.check_same(task)


def _with_work(objective, work: Path):  # type: ignore[no-untyped-def]
    return lambda task: objective(task, work)
