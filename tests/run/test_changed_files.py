"""Files that change while a run goes on: whoever reads them trains nothing, and the run stops with a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import Loracle, copy_rows
from test_identity import change_json, change_template, change_weights, swap_a_row, write_jsonl

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, build_space
from loracle.errors import StudyError
from loracle.records.contents import Beginning, file_hash
from loracle.records.events import Event, PhaseStarted, TrialFinished, TrialStarted
from loracle.records.trial import FailureKind
from loracle.run.storage.opening import read_history
from loracle.run.tune import tune
from loracle.training.objective import TrainingObjective
from loracle.training.parallel.peers import Peers

WriteRun = Callable[..., Path]

SPACE = {
    "base": "empty",
    "knobs": {"rank": {"values": [1, 2, 4, 8], "scale": "log2"}, "alpha_ratio": {"values": [1, 2, 4]}},
}
METRIC = "def length(predictions, references, items):\n    return [float(len(one)) for one in predictions]\n"

# Trial 2 changes its own source, once, and then its worker is killed.
FUNCTION = """
import os, shutil, signal
from pathlib import Path

HERE = Path(__file__).parent

def train(config, *, folder):
    if folder.name == "0002" and not (HERE / "struck").exists():
        (HERE / "struck").touch()
        shutil.copy(folder.parents[1] / "journal.log", HERE / "journal")
        Path(__file__).write_text(Path(__file__).read_text().replace("0.5 *", "0.7 *"))
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.5 * config["rank"] + config["alpha_ratio"]
"""

# The same of a command, which each trial reads anew: trial 2 changes it and goes on.
COMMAND = """
import json, shutil, sys
from pathlib import Path

rank, ratio, folder = float(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
here = Path(__file__).parent
if folder.name == "0002" and not (here / "struck").exists():
    (here / "struck").touch()
    shutil.copy(folder.parents[1] / "journal.log", here / "journal")
    Path(__file__).write_text(Path(__file__).read_text().replace("0.5 *", "0.7 *"))
(here / "seen.txt").open("a").write("a trial\\n")
(folder / "result.json").write_text(json.dumps({"value": 0.5 * rank + ratio}))
"""


def own_run(folder: Path, objective: dict[str, Any], output: str = "run", workers: int = 1) -> Path:
    content = {
        "space": SPACE,
        "objective": {"direction": "maximize"} | objective,
        "search": {"trials": 4},
        "execution": {"workers": workers},
        "output": output,
    }
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def counted(config: RunConfig) -> list[tuple[int, float | None]]:
    """Configs and values of what counts, in order."""
    history = read_history(config.output, build_space(config.space))
    return [(trial.index, trial.outcome.value if trial.outcome else None) for trial in history.counted]


def failures(config: RunConfig) -> set[FailureKind]:
    trials = read_history(config.output, build_space(config.space)).finished
    return {trial.outcome.failure.kind for trial in trials if trial.outcome and trial.outcome.failure}


# -- trainers of one's own ----------------------------------------------------------------------------


def test_a_trainer_that_changes_while_a_run_goes_on_ends_it_and_goes_on_when_undone(
    tmp_path: Path, loracle: Loracle
) -> None:
    found = []
    for name, source, objective, said in (
        ("function", FUNCTION, {"function": "mine.py:train"}, "source of mine.py:train"),
        ("command", COMMAND, {"command": "python mine.py {rank} {alpha_ratio} {folder}"}, "mine.py"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        mine = folder / "mine.py"
        mine.write_text(source)
        path = own_run(folder, objective, workers=int(name == "function"))
        config = load_config(path)
        code, _, errors = loracle("tune", path)
        assert code == 2
        (line,) = [line for line in errors.splitlines() if line.startswith("loracle: ")]
        assert line.startswith(
            f"loracle: {config.output}: changed since this run began: {said}; its trials and test scores are "
            "of what was there before and would not compare. Undo the change or use another output folder"
        )
        assert ("it changed during a trial" in line) == (name == "command")
        assert (config.output / "journal.log").read_bytes() == (folder / "journal").read_bytes()
        assert not (config.output / "trials" / "0002" / "outcome.json").exists()
        assert len(counted(config)) == 2
        mine.write_text(source)
        assert loracle("tune", path)[0] == 0
        assert failures(config) == {FailureKind.INTERRUPTED}
        found.append(counted(config))
    undisturbed = own_run(tmp_path / "function", {"function": "mine.py:train"}, "undisturbed", workers=0)
    assert loracle("tune", undisturbed)[0] == 0
    assert found == [counted(load_config(undisturbed))] * 2


def test_a_command_that_changes_between_two_trials_is_not_run(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(COMMAND)
    (tmp_path / "struck").touch()
    objective = {"command": "python mine.py {rank} {alpha_ratio} {folder}"}
    config = load_config(own_run(tmp_path, objective, workers=0))

    def listen(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.trial.number == 1:
            mine.write_text(COMMAND.replace("0.5 *", "0.7 *"))

    with pytest.raises(StudyError, match=r"changed since this run began: mine\.py; .* folder$"):
        tune(config, listen)
    assert (tmp_path / "seen.txt").read_text().count("a trial") == 2


def test_what_a_command_names_and_a_trial_makes_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COMMAND)
    (tmp_path / "struck").touch()
    objective = {"command": "python mine.py {rank} {alpha_ratio} {folder} seen.txt"}
    config = load_config(own_run(tmp_path, objective, workers=0))
    tune(config)
    assert len(counted(config)) == 4
    assert (tmp_path / "seen.txt").exists()


def test_a_file_is_read_again_where_anything_of_it_has_changed(tmp_path: Path) -> None:
    path, other = tmp_path / "one", tmp_path / "other"
    path.write_text("one")
    first = file_hash(path)
    other.write_text("two")
    shutil.copystat(path, other)
    other.replace(path)  # as large, and as old
    assert file_hash(path) != first
    path.write_text("one")
    assert file_hash(path) == first


# -- the trainer of the package -----------------------------------------------------------------------


@pytest.fixture
def own_files(tmp_path: Path, tiny_model: Path, run_config: WriteRun) -> Callable[..., Path]:
    """Writes a config with files of its own for everything that a run reads."""

    def write(**changes: Any) -> Path:
        shutil.copytree(tiny_model, tmp_path / "model", dirs_exist_ok=True)
        rows = copy_rows(90, 4)
        (tmp_path / "mine.py").write_text(METRIC)
        path = run_config(
            model=str(tmp_path / "model"),
            data={"validation": "validation.jsonl", "test": "test.jsonl"},
            scoring={"metric": "loss", "metrics": ["mine.py:length"], "max_new_tokens": 2},
            guard={"held": {"data": "held.jsonl", "metric": "loss"}},
            **changes,
        )
        parts = {"train": rows[:60], "validation": rows[60:70], "test": rows[70:80], "held": rows[80:]}
        for name, part in parts.items():
            write_jsonl(tmp_path / f"{name}.jsonl", part)
        return path

    return write


def change_settings(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-5}))


def change_source(path: Path) -> None:
    path.write_text(path.read_text().replace("len(one)", "7"))


CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "train.jsonl": ("training rows", swap_a_row),
    "validation.jsonl": ("validation rows", swap_a_row),
    "test.jsonl": ("test rows", swap_a_row),
    "model/model.safetensors": ("weights of the base model", change_weights),
    "model/config.json": ("settings of the base model", change_settings),
    "model/tokenizer.json": ("tokenizer", change_json),
    "model/chat_template.jinja": ("chat template", change_template),
    "mine.py": ("source of mine.py:length", change_source),
    "held.jsonl": ("rows of guard held", swap_a_row),
}


def change(folder: Path, *names: str) -> Callable[[], None]:
    """Changes files, each put in its place as a whole; returns what puts back what was there."""
    before = {folder / name: (folder / name).read_bytes() for name in names}
    for name in names:
        new = folder / f"{name}.new{Path(name).suffix}"
        shutil.copy(folder / name, new)
        CHANGES[name][1](new)
        new.replace(folder / name)
    return lambda: [path.write_bytes(content) for path, content in before.items()] and None


def test_whoever_loads_anew_knows_what_has_changed_by_name(tmp_path: Path, own_files: WriteRun) -> None:
    config = load_config(own_files())
    first = TrainingObjective.from_config(config)
    assert set(first.contents.hashes()) >= {said for said, _ in CHANGES.values()}
    began = Beginning("run", first.contents.hashes(), first.contents.fingerprint)
    for names in (
        ("train.jsonl", "held.jsonl", "mine.py"),
        [n for n in CHANGES if n[:5] in ("model", "valid")],
    ):
        undo = change(tmp_path, *names)
        said = ", ".join(said for name, (said, _) in CHANGES.items() if name in names)
        with pytest.raises(StudyError) as refused:
            TrainingObjective.from_config(config).contents.require(began)
        found = str(refused.value).partition(";")[0].removeprefix("run: changed since this run began: ")
        assert sorted(found.split(", ")) == sorted(said.split(", "))
        undo()
    again = TrainingObjective.from_config(config)
    again.contents.require(began)
    assert again.contents.fingerprint == began.fingerprint  # so nothing long was compared


def workers_now() -> list[psutil.Process]:
    found = [p for p in psutil.Process().children(recursive=True) if "worker.py" in " ".join(p.cmdline())]
    return [p for p in found if "guard.py" not in " ".join(p.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.jsonl", "model/model.safetensors", "mine.py", "test.jsonl"])
@pytest.mark.parametrize("final", [False, True])
def test_a_worker_that_is_replaced_trains_nothing_on_other_files(
    tmp_path: Path, own_files: WriteRun, name: str, final: bool
) -> None:
    config = load_config(own_files(execution={"workers": 1}, search={"trials": 3, "seed": 3}))
    undo: list[Callable[[], None]] = []

    def listen(event: Event) -> None:
        due = isinstance(event, TrialStarted) and event.number == 1
        if final:
            due = isinstance(event, PhaseStarted) and event.text.startswith("training the standard")
        if due and not undo:
            undo.append(change(tmp_path, name))
            shutil.copy(config.output / "journal.log", tmp_path / "journal")
            workers_now()[0].kill()

    said = f"^{config.output}: changed since this run began: {CHANGES[name][0]}; "
    with pytest.raises(StudyError, match=said):
        tune(config, listen)
    assert (config.output / "journal.log").read_bytes() == (tmp_path / "journal").read_bytes()
    assert len(counted(config)) == (3 if final else 1)
    undo[0]()
    result = tune(config)
    undisturbed = config.model_copy(update={"output": tmp_path / "undisturbed"})
    expected = tune(undisturbed)
    assert counted(config) == counted(undisturbed)
    assert failures(config) <= {FailureKind.INTERRUPTED}
    for one, other in zip(result.comparison.sides.values(), expected.comparison.sides.values(), strict=True):
        assert one[0] == other[0]
        assert one[1] is not None
        assert other[1] is not None
        assert one[1].value == other[1].value


@pytest.mark.slow
def test_processes_of_a_trial_that_read_other_weights_train_nothing(
    tmp_path: Path, own_files: WriteRun
) -> None:
    config = load_config(own_files(execution={"workers": 1, "processes_per_trial": 2}))
    shutil.copytree(tmp_path / "model", tmp_path / "other")
    change_weights(tmp_path / "other" / "model.safetensors")
    peers = Peers(config.model_copy(update={"model": str(tmp_path / "other")}))
    try:
        with pytest.raises(StudyError, match="changed since this run began: weights of the base model; "):
            peers.load_base(config)
    finally:
        peers.close()
