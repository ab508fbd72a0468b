"""Every place where a user looks shows the same notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Loracle

from loracle.config.settings import RunConfig
from loracle.records.notices import FILE, Notice, read_notices
from loracle.training.objective import TrainingObjective

FOUND = Notice("data", "rows_too_long", "3 rows of [train] are *left out*; raise data.max_length", 3)


@pytest.fixture
def noticed(loracle: Loracle, monkeypatch: pytest.MonkeyPatch) -> Loracle:
    """Runs the command on data that give a notice; gives its exit code, stdout and stderr."""
    load = TrainingObjective.from_config.__func__  # type: ignore[attr-defined]

    def loaded(cls: type[TrainingObjective], config: RunConfig, *given: Any, **options: Any) -> Any:
        made = load(cls, config, *given, **options)
        made.notices = (FOUND,)
        return made

    monkeypatch.setattr(TrainingObjective, "from_config", classmethod(loaded))
    monkeypatch.setenv("COLUMNS", "80")
    return loracle


def test_doctor_tune_report_show_and_json_say_the_same(
    noticed: Loracle, run_config: Callable[..., Path]
) -> None:
    path = run_config(search={"trials": 1})
    folder, line = path.parent / "run", f"note data: {FOUND.text}\n"

    assert f"note  data      {FOUND.text}\n" in noticed("doctor", path)[1]
    plain = {"about": "data", "name": "rows_too_long", "text": FOUND.text, "count": 3}
    assert plain in json.loads(noticed("doctor", path, "--json")[1])["notices"]

    code, out, err = noticed("tune", path)
    assert code == 0
    assert err.index(line) < err.index("searching")
    assert line in out
    report = (folder / "report.md").read_text()
    assert report.index("- data: 3 rows of \\[train\\] are \\*left out\\*") < report.index("| winner")
    assert plain in json.loads((folder / FILE).read_text())

    assert line in noticed("show", folder)[1]
    assert plain in json.loads(noticed("show", folder, "--json")[1])["notices"]
    code, out, err = noticed("tune", path, "--json")  # a run that goes on says it again
    assert line in err
    assert plain in json.loads(out)["notices"]


def test_workers_on_a_shared_storage_say_it_too(noticed: Loracle, run_config: Callable[..., Path]) -> None:
    path = run_config(search={"trials": 1})
    code, _, err = noticed("worker", path, "--storage", f"sqlite:///{path.parent}/trials.db")
    assert code == 0
    assert f"note data: {FOUND.text}\n" in err
    assert FOUND in read_notices(path.parent / "run")


@pytest.mark.parametrize(
    "content", ["{", "[3]", '[{"about": "data"}]', '[{"about": "x", "name": "", "text": "", "count": 1}]']
)
def test_damaged_notices_of_a_run_are_said_and_stop_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    (notice,) = read_notices(tmp_path)
    assert "cannot be read" in notice.text


def test_a_run_from_before_there_were_notices_has_none(tmp_path: Path) -> None:
    assert read_notices(tmp_path) == ()
