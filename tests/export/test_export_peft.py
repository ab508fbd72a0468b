from __future__ import annotations

from pathlib import Path

import pytest

from loracle.errors import StudyError
from loracle.export.peft import export_peft


def finished_run(folder: Path) -> Path:
    (folder / "best").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "recipe.yaml"):
        (folder / "best" / name).write_text(name)
    return folder


def test_copies_adapter_and_recipe(tmp_path: Path) -> None:
    written = export_peft(finished_run(tmp_path / "run"), tmp_path / "out")
    names = ["adapter_config.json", "adapter_model.safetensors", "recipe.yaml"]
    assert [path.name for path in written] == names
    assert (tmp_path / "out" / "recipe.yaml").read_text() == "recipe.yaml"


def test_refuses_a_run_without_adapter_and_a_used_destination(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no trained adapter yet"):
        export_peft(tmp_path, tmp_path / "out")
    run = finished_run(tmp_path / "run")
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    with pytest.raises(StudyError, match="not an empty folder"):
        export_peft(run, used)
    with pytest.raises(StudyError, match="not an empty folder"):
        export_peft(run, used / "mine.txt")
    assert [path.name for path in used.iterdir()] == ["mine.txt"]
