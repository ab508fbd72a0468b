"""`loracle verdict`: the sentence of a finished run, and its exit code for scripts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Loracle
from finished_runs import finish

from loracle.config.loading import load_config
from loracle.records.codec import to_plain
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.report.verdict import Comparison
from loracle.report.verdict.stored import FILE, Finished, read_finished, write_finished
from loracle.run.folder import open_run
from loracle.run.storage.opening import read_history
from loracle.run.tune import work


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run with other standard settings than the one config of its space."""
    standard = {"rank": 2, "alpha": 2, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-5}
    return finish(tmp_path_factory.mktemp("finished"), tiny_model, standard=standard)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def kept(run: Path) -> Finished:
    config, space = open_run(run)
    return read_finished(run, read_history(run, space, config.execution.storage))


def with_difference(run: Path, difference: float, low: float, high: float) -> None:
    """Writes another result into the folder, as if the two had scored so."""
    found = kept(run)
    changed = replace(found.comparison, difference=difference, low=low, high=high, items=50, differing=20)
    write_finished(run, replace(found, comparison=changed))


@pytest.mark.parametrize(
    ("ends", "code", "word"),
    [
        ((0.2, 0.1, 0.3), 0, "Better: "),
        ((0.2, -0.1, 0.3), 3, "No difference beyond noise: "),
        ((-0.2, -0.3, -0.1), 4, "Worse: "),
    ],
)
def test_the_exit_code_says_what_the_sentence_says(
    loracle: Loracle, run: Path, ends: tuple[float, float, float], code: int, word: str
) -> None:
    with_difference(run, *ends)
    got, out, err = loracle("verdict", run)
    assert (got, err) == (code, "")
    assert len(out.strip().splitlines()) == 1
    assert out.startswith(word)
    low, high = (-ends[2], -ends[1]) if ends[0] < 0 else (ends[1], ends[2])
    assert f"by 0.2 nats a token (95 % interval {low:g} to {high:g}) on the same 50 test items." in out
    got, out, _ = loracle("verdict", run, "--json")
    said = json.loads(out)
    assert (got, said["exit_code"], said["difference"]["mean"]) == (code, code, ends[0])
    assert said["headline"].startswith(word)


def test_tune_ends_with_the_sentence_and_0_and_verdict_repeats_all_of_it(
    loracle: Loracle, run_config: Callable[..., Path]
) -> None:
    path = run_config(search={"trials": 2})
    code, out, _ = loracle("tune", path)
    assert code == 0
    folder = load_config(path).output
    code, repeated, _ = loracle("verdict", folder)
    assert code == kept(folder).comparison.exit_code
    assert out.strip().splitlines()[-1] == f"verdict: {repeated.strip()}"
    _, again, _ = loracle("tune", path, "--json")
    _, same, _ = loracle("verdict", folder, "--json")
    assert json.loads(again) == json.loads(same)


def test_a_run_that_is_not_finished_is_one_line_and_code_2(loracle: Loracle, run: Path) -> None:
    found = kept(run)
    write_finished(run, replace(found, trials=found.trials + 1))  # as if trials had been taken back
    code, out, err = loracle("verdict", run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "1 trials are done and the verdict is of 2, so the run is not finished" in err
    (run / FILE).write_text("{")
    assert loracle("verdict", run)[0] == 2
    (run / FILE).unlink()
    assert "no verdict.json (deleted, or the run is of an earlier version" in loracle("verdict", run)[2]
    (run / "report.md").unlink()
    assert "the run is not finished; the same loracle tune goes on with it" in loracle("verdict", run)[2]
    assert loracle("verdict", run.parent / "none")[0] == 2


def test_a_winner_that_failed_where_the_standard_did_not_is_worse_and_nothing_compared_is_not_better() -> (
    None
):
    failed, fine = Outcome(None, failure=Failure(FailureKind.DIVERGED, "NaN")), Outcome(0.5)
    settings = {"rank": 2}
    assert Comparison(settings, settings, failed, fine).exit_code == 4
    assert Comparison(settings, settings, fine, failed).exit_code == 3
    assert Comparison(settings, None, fine, None).exit_code == 3
    assert Comparison(settings, settings, fine, fine, same=True).exit_code == 3


def test_what_is_kept_is_the_whole_record(run: Path) -> None:
    found = kept(run)
    write_finished(run, found)
    assert to_plain(kept(run)) == to_plain(found)
    assert found.comparison.items > 0


def test_a_run_in_a_database_has_its_verdict_where_it_ended(
    said: Callable[..., str], run_config: Callable[..., Path]
) -> None:
    config = run_config(execution={"workers": 0, "storage": "sqlite:///trials.db"}, search={"trials": 1})
    work(load_config(config))
    assert "its database has the trials, and the final trainings and the verdict are where" in said(
        "verdict", config, refused=True
    )


def test_a_verdict_that_is_no_text_is_made_again(loracle: Loracle, run: Path) -> None:
    kept_before = json.loads((run / FILE).read_text())
    (run / FILE).write_bytes(b"\xff\xfe\x00 cut off")
    code, _, errors = loracle("tune", run / "config.yaml")
    assert code in (0, 3, 4), errors
    assert json.loads((run / FILE).read_text()) == kept_before
