from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Loracle

import loracle.export
from loracle.errors import StudyError
from loracle.export import dialects, export


def finished_run(folder: Path) -> Path:
    (folder / "best").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "recipe.yaml"):
        (folder / "best" / name).write_text(name)
    return folder


def test_copies_adapter_and_recipe(tmp_path: Path) -> None:
    written = export(finished_run(tmp_path / "run"), tmp_path / "out", "peft")
    names = ["adapter_config.json", "adapter_model.safetensors", "recipe.yaml"]
    assert [path.name for path in written.files] == names
    assert written.notes == ()
    assert (tmp_path / "out" / "recipe.yaml").read_text() == "recipe.yaml"


def test_refuses_a_run_without_adapter_and_a_used_destination(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no trained adapter yet"):
        export(tmp_path, tmp_path / "new" / "out", "peft")
    assert list(tmp_path.iterdir()) == []
    run = finished_run(tmp_path / "run")
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    with pytest.raises(StudyError, match="not an empty folder"):
        export(run, used, "peft")
    with pytest.raises(StudyError, match="not an empty folder"):
        export(run, used / "mine.txt", "peft")
    assert [path.name for path in used.iterdir()] == ["mine.txt"]


def test_an_adapter_that_is_not_what_was_trained_is_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    (run / "best" / "tokenizer.json").write_text("tokenizer.json")
    final = run / "final" / "standard"
    final.mkdir(parents=True)
    sums = {
        f"adapter/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (run / "best").iterdir()
        if path.name != "recipe.yaml"
    }
    (final / "checksums.json").write_text(json.dumps({**sums, "items.jsonl": "0", "adapter/README.md": "0"}))
    assert len(export(run, tmp_path / "whole", "peft").files) == 4
    (run / "best" / "adapter_model.safetensors").write_text("other weights")
    (run / "best" / "tokenizer.json").unlink()
    with pytest.raises(StudyError) as error:
        export(run, tmp_path / "out", "peft")
    what = "adapter_model.safetensors is damaged, tokenizer.json is missing"
    assert sorted(str(error.value).partition(": ")[2].partition(";")[0].split(", ")) == what.split(", ")
    assert str(error.value).endswith(f"; loracle tune {run}/config.yaml makes it again")
    assert not (tmp_path / "out").exists()
    (final / "checksums.json").unlink()
    assert len(export(run, tmp_path / "older", "peft").files) == 3


def test_every_dialect_can_write() -> None:
    from importlib import import_module

    assert "peft" in dialects()
    for name in dialects():
        assert callable(import_module(f"loracle.export.{name}").write)


def test_a_new_dialect_is_a_file_and_nothing_else(
    loracle: Loracle,
    run_config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "plain_list.py").write_text(
        '''"""What is in best/, as a list."""

def write(winner, folder):
    names = sorted(path.name for path in winner.adapter.iterdir())
    (folder / "list.txt").write_text(" ".join(names))
    return ["a list has no weights"]
'''
    )
    path = run_config()
    finished_run(tmp_path / "run")
    code, _, errors = loracle("export", path, tmp_path / "out", "--to", "plain_list")
    assert (code, "no format 'plain_list'" in errors, "there are: " in errors, "peft" in errors) == (
        2,
        True,
        True,
        True,
    )
    monkeypatch.setattr("loracle.export.__path__", [*loracle_folder(), str(more)])
    assert "plain_list" in dialects()
    code, out, errors = loracle("export", path, tmp_path / "out", "--to", "plain_list")
    assert (code, "list.txt" in out, "note a list has no weights" in errors) == (0, True, True)
    text = (tmp_path / "out" / "list.txt").read_text()
    assert text == "adapter_config.json adapter_model.safetensors recipe.yaml"


def loracle_folder() -> list[str]:
    """Where dialects are that come with the package."""
    return list(loracle.export.__path__)
