"""Folders: what a user keeps is never touched, a run goes on in its own, what is lost is made again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Loracle
from places import TESTS

from loracle.commands.demo import make_demo
from loracle.config.loading import load_config
from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.export import export
from loracle.records.events import PhaseStarted
from loracle.records.trial import Failure, FailureKind, Outcome
from loracle.records.trial_files import write_outcome
from loracle.run.finals.results import set_aside, stored_result
from loracle.run.folder import require_own
from loracle.run.proxy import check_proxy
from loracle.run.tune import Result, tune, work


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: names with bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def loracle(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loracle", *arguments]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=600)


# -- folders of others ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["train.jsonl", "README.md", "base/model.safetensors", "config.yaml", ".git/HEAD"]
)
def test_a_demo_in_a_folder_with_files_is_refused_and_touches_nothing(name: str, tmp_path: Path) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = contents(tmp_path)
    done = loracle("demo", ".", where=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert name.partition("/")[0] in done.stderr
    assert "which loracle demo did not make; name a new or an empty folder" in done.stderr
    assert contents(tmp_path) == before


def test_a_demo_whose_start_was_cut_off_at_any_file_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    make_demo(whole)
    expected = contents(whole)
    names = [".loracle-demo", *(name for name, content in expected.items() if content and name[0] != ".")]
    for count in range(len(names) + 1):
        cut = tmp_path / str(count)
        for name in names[:count]:
            (cut / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / name, cut / name)
        make_demo(cut)
        assert contents(cut) == expected


def test_a_demo_keeps_what_was_changed_and_makes_what_is_missing(tmp_path: Path) -> None:
    config = make_demo(tmp_path / "demo")
    config.write_text("mine: true\n")
    (config.parent / "test.jsonl").unlink()
    make_demo(config.parent)
    assert config.read_text() == "mine: true\n"
    assert (config.parent / "test.jsonl").stat().st_size > 1000


def test_a_demo_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    config = make_demo(tmp_path / "demo")
    (config.parent / ".loracle-demo").unlink()  # earlier versions made none
    (config.parent / "run").mkdir()
    config.write_text("mine: true\n")
    make_demo(config.parent)
    assert config.read_text() == "mine: true\n"
    cut = make_demo(tmp_path / "cut").parent
    (cut / ".loracle-demo").unlink()
    shutil.rmtree(cut / "base")
    (cut / "train.jsonl").write_bytes((cut / "train.jsonl").read_bytes()[:5000])  # killed in the middle
    make_demo(cut)
    assert (cut / "train.jsonl").read_bytes() == (config.parent / "train.jsonl").read_bytes()
    assert (cut / "base" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["config.yaml", "notes.txt", "trials/0000/outcome.json", "report.md", ".lock"]
)
@pytest.mark.parametrize(
    "run", [tune, work, lambda config: check_proxy(config, 4, [0.5], lambda event: None)]
)
def test_a_run_in_a_folder_with_files_is_refused_and_touches_nothing(
    run: Callable[..., object], name: str, run_config: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    before = contents(folder)
    config = load_config(
        run_config(execution={"storage": f"sqlite:///{tmp_path}/x.db"} if run is work else {})
    )
    says = (
        rf"project holds {name.partition('/')[0]}, which Loracle did not make; name a new or an empty folder"
    )
    with pytest.raises(StudyError, match=says):
        run(config.model_copy(update={"output": folder}))
    assert contents(folder) == before
    assert not (tmp_path / "x.db").exists()


def test_a_run_into_the_folder_of_its_own_config_is_refused(run_config: Callable[..., Path]) -> None:
    path = run_config()
    before = contents(path.parent)
    done = loracle("tune", str(path), "--output", ".", where=path.parent)
    assert done.returncode == 2
    assert "which Loracle did not make" in done.stderr
    assert contents(path.parent) == before


def test_what_a_run_began_is_its_own_at_every_moment(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    own = [is_own(folder)]  # not there
    folder.mkdir()
    own.append(is_own(folder))  # made, and killed
    (folder / ".lock").touch()
    own.append(is_own(folder))
    (folder / ".lock").write_text("4711")
    (folder / "config.yaml.partial").write_text("mod")
    (folder / "my notes.txt").write_text("which I keep here")
    own.append(is_own(folder))
    shared = tmp_path / "shared"  # of an earlier version
    (shared / "machines" / "host-0").mkdir(parents=True)
    (shared / "machines" / "host-0" / ".lock").touch()
    own.append(is_own(shared))
    copied = tmp_path / "copied"  # with `cp run/*`
    copied.mkdir()
    shutil.copy(TESTS / "journals" / "version-0.1.0.log", copied / "journal.log")
    own.append(is_own(copied))
    assert own == [True] * 6
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "my notes.txt").write_text("which I keep here")
    assert not is_own(tmp_path / "theirs")


def is_own(folder: Path) -> bool:
    try:
        require_own(folder)
    except StudyError:
        return False
    return True


def test_an_export_that_was_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = tmp_path / "run" / "best"
    best.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (best / name).write_text("{}")
    os.mkfifo(best / "pipe")  # it cannot be copied
    with pytest.raises(StudyError, match=r"out cannot be made of .*pipe"):
        export(tmp_path / "run", tmp_path / "out", "peft")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    (best / "pipe").unlink()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    export(tmp_path / "run", Path.cwd(), "peft")  # into the folder that one is in
    assert contents(tmp_path / "out") == contents(best)


def test_an_export_says_whether_it_could_not_read_or_not_write(tmp_path: Path) -> None:
    best = tmp_path / "run" / "best"
    best.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (best / name).write_text("{}")
    with pytest.raises(StudyError, match="x cannot be written: File name too long"):
        export(tmp_path / "run", tmp_path / ("x" * 300), "peft")
    (best / "tokenizer.json").symlink_to("gone.json")
    with pytest.raises(StudyError, match=r"out cannot be made of .*/best/tokenizer.json: .*No such file"):
        export(tmp_path / "run", tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


# -- what is lost is made again -----------------------------------------------------------------------


@dataclass
class Finished:
    """A run that is finished once, by whoever asks first, and a copy of its folder."""

    copy: Path
    config: RunConfig | None = None
    result: Result | None = None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished") / "run")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def nonsense(path: Path) -> None:
    path.write_bytes(b"\x00\xff nonsense")


def away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


WEIGHTS = "adapter/adapter_model.safetensors"
BEST, FINAL = "best/adapter_model.safetensors", "final/winner/outcome.json"


@pytest.mark.parametrize(
    ("name", "damage", "again"),
    [
        *((BEST, damage, []) for damage in (flip, away)),
        *((name, away, []) for name in ("best", "best/adapter_config.json", "best/tokenizer.json")),
        *((f"final/winner/{WEIGHTS}", damage, ["winner"]) for damage in (truncate, flip, away)),
        (f"final/standard/{WEIGHTS}", flip, ["standard"]),
        *(("final/winner/adapter/adapter_config.json", damage, ["winner"]) for damage in (truncate, away)),
        ("final/winner/adapter/tokenizer.json", truncate, ["winner"]),
        *((FINAL, damage, ["winner"]) for damage in (truncate, away)),
        *(("final/winner/items.jsonl", damage, ["winner"]) for damage in (truncate, nonsense, away)),
        ("final/standard/items.jsonl", truncate, ["standard"]),
        ("final/standard", away, ["standard"]),
        ("final/standard/checksums.json", truncate, ["standard"]),
        ("final", away, ["winner", "standard"]),
        *(
            ("final/winner/checksums.json", damage, again)
            for damage, again in ((away, []), (truncate, ["winner"]))
        ),
        *((name, away, []) for name in ("report.md", "progress.png", "best/recipe.yaml", "notices.json")),
        *((name, away, []) for name in ("config.yaml", "trials", "final/winner/log.txt")),
        *(("config.yaml", damage, []) for damage in (truncate, nonsense)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(
    name: str,
    damage: Callable[[Path], None],
    again: list[str],
    finished: Finished,
    run_config: Callable[..., Path],
) -> None:
    if finished.config is None:
        finished.config = load_config(run_config(search={"trials": 2}))
        finished.result = tune(finished.config)
        shutil.copytree(finished.config.output, finished.copy)
    config, first = finished.config, finished.result
    assert first is not None
    shutil.rmtree(config.output)
    shutil.copytree(finished.copy, config.output)
    before = contents(config.output)
    damage(config.output / name)
    trained: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, PhaseStarted) and event.text.startswith("training the "):
            trained.append(event.text.split()[2])

    result = tune(config, listen)
    assert trained == again
    assert result.comparison.winner == first.comparison.winner
    assert result.comparison.difference == first.comparison.difference
    after = contents(config.output)
    assert after[BEST] == before[BEST]
    for file in ("final/winner/items.jsonl", "final/standard/items.jsonl", "best/recipe.yaml", "config.yaml"):
        assert after[file] == before[file]
    lost = {"trials", "final/winner/log.txt"} - set(after)
    assert not before.keys() - after.keys() - {n for n in before if any(n.startswith(part) for part in lost)}


def test_files_of_trials_that_are_gone_are_told(run_config: Callable[..., Path]) -> None:
    config = load_config(run_config(search={"trials": 3}))
    assert "trial_files_missing" not in [notice.name for notice in tune(config).notices]
    away(config.output / "trials" / "0000" / "items.jsonl")
    away(config.output / "trials" / "0002")
    (said,) = [notice.text for notice in tune(config).notices if notice.name == "trial_files_missing"]
    assert said.startswith("files of 2 trials are gone (trials/0000, trials/0002): logs and results of items")
    assert said in (config.output / "report.md").read_text()


def test_a_setting_that_changed_is_refused_where_the_recorded_config_is_damaged(
    run_config: Callable[..., Path], said: Callable[..., str]
) -> None:
    config = load_config(run_config(search={"trials": 1}))
    tune(config)
    recorded = config.output / "config.yaml"
    for damage in (nonsense, away):
        damage(recorded)
        with pytest.raises(StudyError, match=r"training\.epochs=1\.0, here it is 2\.0"):
            tune(load_config(run_config(search={"trials": 1}, training={"epochs": 2})))
    nonsense(recorded)
    told = said("show", config.output, refused=True)
    assert "config.yaml" in told
    assert "loracle tune with the one that the run was begun with makes it again" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(("name", "folder"), [("best", False), ("report.md", True), ("trials", False)])
def test_a_place_that_the_run_needs_is_refused_before_anything_is_trained(
    name: str, folder: bool, run_config: Callable[..., Path], loracle: Loracle
) -> None:
    path = run_config(search={"trials": 1})
    output = load_config(path).output
    output.mkdir()
    (output / ".lock").touch()  # Loracle's own
    if folder:
        (output / name).mkdir()
    else:
        (output / name).write_text("mine")
    for command in ("tune", "doctor"):
        code, out, err = loracle(command, path)
        assert code == 2
        assert f"{output / name}: is a {'folder' if folder else 'file'} where the run makes a" in out + err
    assert not (output / "journal.log").exists()


def test_a_winner_that_failed_is_not_trained_again_and_again(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_config(run_config())
    failed = Outcome(None, failure=Failure(FailureKind.DIVERGED, "diverged"))
    for knobs in ({"rank": 1}, {"rank": 2}, {"rank": 1}):
        write_outcome(config.output / "final" / "winner", knobs, failed)
        set_aside(config, knobs)
        set_aside(config, knobs)  # nothing there
    assert sorted(path.name for path in (config.output / "final").iterdir()) == ["failed-1", "failed-2"]
    assert (
        stored_result(config, "winner", {"rank": 1}) == stored_result(config, "winner", {"rank": 2}) == failed
    )
    assert stored_result(config, "winner", {"rank": 4}) is None


# -- where the trials are recorded --------------------------------------------------------------------


def stored_in(config: RunConfig, storage: str | None) -> RunConfig:
    return config.model_copy(update={"execution": config.execution.model_copy(update={"storage": storage})})


def test_another_storage_is_refused_and_no_trial_is_overwritten(
    run_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = load_config(run_config(search={"trials": 1}))
    tune(config)
    before = contents(config.output)
    database = f"sqlite:///{tmp_path}/run.db"
    with pytest.raises(StudyError, match=r"recorded in .*journal\.log, and not in sqlite.*leave execution"):
        tune(stored_in(config, database))
    assert contents(config.output) == before
    assert not (tmp_path / "run.db").exists()

    inside = stored_in(config, database).model_copy(update={"output": tmp_path / "shared"})
    tune(inside)
    before = contents(inside.output)
    for storage in (None, f"sqlite:///{tmp_path}/other.db"):
        with pytest.raises(StudyError, match=r"holds trials/ and final/ of an earlier search, but no trial"):
            tune(stored_in(inside, storage))
    with pytest.raises(StudyError, match="no trial of it is recorded in"):
        work(stored_in(inside, f"sqlite:///{tmp_path}/other.db"))
    assert {name: content for name, content in contents(inside.output).items() if name in before} == before
    assert len(tune(inside).history.trials) == 1  # it goes on


def test_results_of_a_search_whose_journal_is_gone_are_not_shown_as_those_of_a_new_one(
    run_config: Callable[..., Path],
) -> None:
    config = load_config(run_config(search={"trials": 1}))
    tune(config)
    journal = (config.output / "journal.log").read_bytes()
    (config.output / "journal.log").unlink()
    with pytest.raises(StudyError, match=r"holds trials/ and final/ of an earlier search, but no trial"):
        tune(config)
    shutil.rmtree(config.output / "trials")
    with pytest.raises(StudyError, match=r": holds final/ of an earlier search, but no trial"):
        tune(config)
    (config.output / "journal.log").write_bytes(journal)
    assert len(tune(config).history.trials) == 1


def test_the_config_in_a_run_folder_means_that_folder_wherever_it_was_copied_to(
    loracle: Loracle, run: Path, tmp_path: Path
) -> None:
    there = contents(run)
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    config = copied / "config.yaml"
    code, out, errors = loracle("tune", config)
    assert code in (0, 3, 4), errors
    assert f"{config} is the config of a run that was at {run}; this is {copied}" in errors
    assert f"report:  {copied / 'report.md'}" in out
    assert contents(run) == there
    assert load_config(config).output == copied
    assert f"was at {run}" not in loracle("tune", config, "--output", copied)[2]  # it is said where it lies


def test_a_config_of_ones_own_beside_a_run_means_the_output_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    config = tmp_path / "config.yaml"
    config.write_text("model: tiny\ndata: {train: rows.jsonl}\noutput: ../mine\n")
    assert load_config(config).output == tmp_path.parent / "mine"


def test_fewer_trials_than_there_are_say_so(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    config = run_config(search={"trials": 3})
    tune(load_config(config))
    errors = loracle("tune", config, "--trials", "2")[2]
    assert "searching: ends after 2 trials (search.trials); 3 are done, so none is added\n" in errors
    assert "so none is added" not in loracle("tune", config, "--trials", "3")[2]
