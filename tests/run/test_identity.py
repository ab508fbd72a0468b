"""A run goes on with what it began with, and with nothing else; before a trial counts nothing binds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from conftest import copy_rows
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, build_space
from loracle.errors import LoracleError, ModelError, StudyError
from loracle.export import export
from loracle.records.events import Event, Noticed
from loracle.run.storage.opening import read_history
from loracle.run.storage.storage import open_storage
from loracle.run.tune import tune
from loracle.training.memory.measurement import ProcessMeter
from loracle.training.objective import TrainingObjective

WriteRun = Callable[..., Path]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def swap_a_row(path: Path) -> None:
    """Another answer in one row: as many rows, as many bytes."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["completion"] = rows[3]["completion"][::-1] + "d"
    write_jsonl(path, rows)


def change_weights(path: Path) -> None:
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] += 1.0
    save_file(tensors, path, metadata={"format": "pt"})


def change_template(path: Path) -> None:
    path.write_text(path.read_text() + "{# another #}")


def change_json(path: Path) -> None:
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "content": "<new>", "id": 87})
    path.write_text(json.dumps(content))


@pytest.fixture
def begun(tmp_path: Path, tiny_model: Path, run_config: WriteRun) -> RunConfig:
    """The config of a finished run with files of its own for everything."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    rows = copy_rows(90, 4)
    write_jsonl(tmp_path / "validation.jsonl", rows[60:75])
    write_jsonl(tmp_path / "test.jsonl", rows[75:])
    data = {"validation": "validation.jsonl", "test": "test.jsonl"}
    path = run_config(model=str(model), data=data, search={"trials": 2})
    write_jsonl(tmp_path / "train.jsonl", rows[:60])
    config = load_config(path)
    tune(config)
    return config


def test_changed_contents_are_refused_by_name_and_go_on_when_undone(tmp_path: Path, begun: RunConfig) -> None:
    changes: list[tuple[str, str, Callable[[Path], None]]] = [
        ("train.jsonl", "training rows", swap_a_row),
        ("validation.jsonl", "validation rows", swap_a_row),
        ("test.jsonl", "test rows", swap_a_row),
        ("model/model.safetensors", "weights of the base model", change_weights),
        ("model/chat_template.jinja", "chat template", change_template),
        ("model/tokenizer.json", "tokenizer", change_json),
    ]
    for name, said, change in changes:
        path = tmp_path / name
        before = path.read_bytes()
        change(path)
        with pytest.raises(StudyError, match=rf"changed since this run began: {said}; its trials and test"):
            tune(begun)
        path.write_bytes(before)
    tune(begun.model_copy(update={"search": begun.search.model_copy(update={"trials": 3})}))
    assert len(read_history(begun.output, build_space(begun.space)).succeeded) == 3


def test_the_same_rows_elsewhere_are_the_same_run(tmp_path: Path, begun: RunConfig) -> None:
    (tmp_path / "train.jsonl").rename(tmp_path / "renamed.jsonl")
    data = begun.data.model_copy(update={"train": tmp_path / "renamed.jsonl"})
    result = tune(begun.model_copy(update={"data": data}))
    assert len(result.history.trials) == 2


def test_fewer_rows_are_changed_rows_and_no_other_space(tmp_path: Path, begun: RunConfig) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [json.loads(line) for line in path.read_text().splitlines()][:12])
    with pytest.raises(StudyError, match="changed since this run began: training rows"):
        tune(begun)


def test_a_changed_prompt_is_refused(tmp_path: Path, run_config: WriteRun) -> None:
    from importlib.resources import files

    prompt = tmp_path / "mine.yaml"
    prompt.write_text((files("loracle.language") / "prompts" / "plain-v1.yaml").read_text())
    language = {"model": "same", "prompt": "mine.yaml"}
    config = load_config(run_config(language=language, search={"trials": 2, "preset": "language"}))
    tune(config)
    text = prompt.read_text()
    assert "rank" in text
    prompt.write_text(text.replace("rank", "size", 1))
    with pytest.raises(StudyError, match="changed since this run began: prompt"):
        tune(config)


# -- trainers of one's own ----------------------------------------------------------------------------

SPACE = {
    "base": "empty",
    "knobs": {"rank": {"values": [1, 2, 4, 8], "scale": "log2"}, "alpha_ratio": {"values": [1, 2, 4]}},
}


def own_run(folder: Path, objective: dict[str, Any], **search: Any) -> RunConfig:
    path = folder / "config.yaml"
    content = {"space": SPACE, "objective": {"direction": "maximize"} | objective, "search": search}
    path.write_text(yaml.safe_dump(content | {"execution": {"workers": 0}}))
    return load_config(path)


GOOD = "import json, sys\njson.dump({'value': float(sys.argv[1])}, open(sys.argv[2] + '/result.json', 'w'))\n"
COMMAND = {"command": "python mine.py {rank} {folder} {alpha_ratio}"}


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (COMMAND, "mine.py"),
        ({"function": "mine.py:train"}, "source of mine.py:train"),
        # A name that no other test imports: in this process a module is imported once.
        ({"function": "changed_trainer:train"}, "source of changed_trainer:train"),
    ],
)
def test_a_changed_trainer_is_refused(tmp_path: Path, objective: dict[str, str], said: str) -> None:
    name = "changed_trainer.py" if "changed_trainer" in said else "mine.py"
    source = tmp_path / name
    source.write_text(GOOD if "command" in objective else "def train(config):\n    return config['rank']\n")
    config = own_run(tmp_path, objective, trials=2)
    tune(config)
    source.write_text(source.read_text() + "# changed\n")
    with pytest.raises(StudyError, match=f"changed since this run began: {said}; "):
        tune(config)


def test_modules_that_a_function_imports_from_its_folder_are_its_source(tmp_path: Path) -> None:
    """Those that they import, too, and inside a function; what is not imported may change."""
    (tmp_path / "deep_of_mine").mkdir()
    files = {
        "mine.py": "def train(config):\n    from helper_of_mine import score\n    return score(config)\n",
        "helper_of_mine.py": "from deep_of_mine import more\n\ndef score(c):\n    return more.f(c['rank'])\n",
        "deep_of_mine/__init__.py": "",
        "deep_of_mine/more.py": "from . import least\n\ndef f(x):\n    return x + least.LEAST\n",
        "deep_of_mine/least.py": "LEAST = 1\n",
        "beside.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    config = own_run(tmp_path, {"function": "mine.py:train"}, trials=2)
    tune(config)
    (tmp_path / "beside.py").write_text("changed = True\n")
    tune(config)
    for name in (
        "helper_of_mine.py",
        "deep_of_mine/__init__.py",
        "deep_of_mine/more.py",
        "deep_of_mine/least.py",
    ):
        (tmp_path / name).write_text(files[name] + "# changed\n")
        with pytest.raises(StudyError, match=f"changed since this run began: module {name}; "):
            tune(config)
        (tmp_path / name).write_text(files[name])
    tune(config)


def test_crashes_that_no_config_is_to_blame_for_bind_nothing_and_are_run_again(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('no GPU today')\n")
    config = own_run(tmp_path, COMMAND, trials=6)
    with pytest.raises(StudyError, match=r"the last 5 trials crashed.*They do not count"):
        tune(config)
    (tmp_path / "mine.py").write_text(GOOD)
    objective = {"command": "python mine.py {rank} {folder} {alpha_ratio} --corrected"}
    config = own_run(tmp_path, objective, trials=6)
    result = tune(config)
    assert [trial.number for trial in result.history.succeeded] == [5, 6, 7, 8, 9, 10]
    first, again = result.history.trials[:5], result.history.trials[5:10]
    assert [trial.index for trial in again] == [trial.index for trial in first]


def test_a_space_that_is_corrected_before_a_trial_counts_goes_on_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('rank 1 is not supported')\n")
    config = own_run(tmp_path, COMMAND, trials=6)
    with pytest.raises(StudyError, match="crashed"):
        tune(config)
    (tmp_path / "mine.py").write_text(GOOD)
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    content["space"]["knobs"]["rank"]["values"] = [2, 4, 8]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    result = tune(load_config(tmp_path / "config.yaml"))
    assert len(result.history.succeeded) == 6
    assert (config.output / "journal.1.log").exists()
    assert "rank 1 is not supported" in (config.output / "trials.1" / "0000" / "log.txt").read_text()


def test_a_search_without_a_success_ends_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('accuracy: high')\n")
    pattern = {"result": {"regex": r"accuracy: \w+"}}
    config = own_run(tmp_path, COMMAND | pattern, trials=2)
    with pytest.raises(
        StudyError, match=r"no trial has succeeded: .* \(no result: .*high.*\)\. Once it is mended"
    ):
        tune(config)


# -- what does not bind -------------------------------------------------------------------------------


def test_a_first_run_that_was_refused_locks_nothing(tmp_path: Path, run_config: WriteRun) -> None:
    path = run_config(model="basee", search={"trials": 1})
    with pytest.raises(ModelError):
        tune(load_config(path))
    result = tune(load_config(run_config(search={"trials": 1})))
    assert len(result.history.succeeded) == 1


def test_a_run_begun_before_contents_were_recorded_goes_on_and_says_so(run_config: WriteRun) -> None:
    config = load_config(run_config(search={"trials": 1}))
    tune(config)
    opened = open_storage(config.output, None)
    study = optuna.load_study(storage=opened.optuna, study_name="loracle")
    old = [
        line for line in (config.output / "journal.log").read_text().splitlines() if "contents" not in line
    ]
    assert study.user_attrs["loracle:contents"]
    (config.output / "journal.log").write_text("\n".join(old) + "\n")
    heard: list[Event] = []
    more = config.model_copy(update={"search": config.search.model_copy(update={"trials": 2})})
    tune(more, heard.append)
    said = [event.notice.name for event in heard if isinstance(event, Noticed)]
    assert "contents_recorded_late" in said
    swap_a_row(config.data.train)
    with pytest.raises(LoracleError, match="changed since this run began: training rows"):
        tune(more)


# -- memory -------------------------------------------------------------------------------------------


def test_free_memory_at_the_start_of_another_session_changes_no_proposal(
    tmp_path: Path, run_config: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [14e9]  # bytes
    monkeypatch.setattr(ProcessMeter, "limit", lambda self: self.used() + round(free[0]))
    config = load_config(run_config())
    memory, space = TrainingObjective.from_config(config).memory, build_space(config.space)
    scarce = float(np.median(memory.peaks(space, 1) - memory.loaded)) / 0.9  # half of the candidates fit

    def indices(name: str, sessions: list[tuple[float, int]]) -> list[int]:
        for room, trials in sessions:
            free[0] = room
            config = load_config(run_config(output=name, search={"trials": trials}))
            result = tune(config)
        return [trial.index for trial in result.history.trials]

    plenty = indices("plenty", [(14e9, 6)])
    undisturbed = indices("undisturbed", [(scarce, 6)])
    assert undisturbed != plenty  # it binds
    assert indices("interrupted", [(scarce, 2), (9e9, 4), (14e9, 6)]) == undisturbed


# -- where it is, and in which precision --------------------------------------------------------------


def test_a_moved_model_goes_on_and_changed_settings_in_it_do_not(tmp_path: Path, begun: RunConfig) -> None:
    (tmp_path / "model").rename(tmp_path / "renamed")
    moved = begun.model_copy(update={"model": str(tmp_path / "renamed")})
    trained = (begun.output / "final" / "winner" / "outcome.json").stat().st_mtime_ns
    result = tune(moved)
    assert len(result.history.trials) == 2
    assert (begun.output / "final" / "winner" / "outcome.json").stat().st_mtime_ns == trained  # not again
    assert load_config(begun.output / "config.yaml").model == moved.model
    exported = tmp_path / "exported"
    export(begun.output, exported, "peft")
    for folder in (begun.output / "best", exported):
        loaded = AutoPeftModelForCausalLM.from_pretrained(folder)  # as the README does
        assert loaded.peft_config["default"].base_model_name_or_path == moved.model
    saved = json.loads((begun.output / "best" / "adapter_config.json").read_text())
    (begun.output / "best" / "adapter_config.json").write_text(json.dumps(saved | {"lora_alpha": 999}))
    with pytest.raises(StudyError, match=r"best: adapter_config\.json is damaged"):
        export(begun.output, tmp_path / "damaged", "peft")
    path = tmp_path / "renamed" / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"rms_norm_eps": 0.5}))  # the same weights, another model
    with pytest.raises(StudyError, match="changed since this run began: settings of the base model; "):
        tune(moved)


def test_another_precision_is_called_what_it_is(begun: RunConfig) -> None:
    written_out = begun.model_copy(update={"dtype": "float32"})  # what `auto` was
    tune(written_out)
    said = (
        r"this run began with another precision of the base model: float32, now bfloat16; "
        r"its trials would not compare. Set dtype"
    )
    with pytest.raises(StudyError, match=said) as refused:
        tune(begun.model_copy(update={"dtype": "bfloat16"}))
    assert "weights" not in str(refused.value)


def test_a_run_of_an_earlier_version_without_precision_and_settings_goes_on(begun: RunConfig) -> None:
    path = begun.output / "journal.log"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name in ("precision of the base model", "settings of the base model"):
            line.get("user_attr", {}).get("loracle:contents", {}).pop(name, None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(tune(begun).history.trials) == 2
    with pytest.raises(StudyError, match="weights of the base model"):
        tune(begun.model_copy(update={"dtype": "bfloat16"}))
