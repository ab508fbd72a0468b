"""Which GPUs a user's own trainer sees; no GPU is needed to tell."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from loracle.config.loading import load_config
from loracle.errors import ConfigError
from loracle.execution.devices import visible_devices
from loracle.execution.executor import Done, Job
from loracle.execution.local import LocalWorkers
from loracle.run.worker import PROGRAM

# All jobs run at the same time: none ends before the last has begun.
SCRIPT = """
import json, os, pathlib, sys, time
folder, jobs = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / "begun").touch()
while len(list(folder.parent.glob("*/begun"))) < jobs:
    time.sleep(0.05)
print(json.dumps(os.environ.get("CUDA_VISIBLE_DEVICES")), sys.argv[3])
"""


def seen(folder: Path, jobs: int = 1, **execution: Any) -> list[str | None]:
    """What commands find in CUDA_VISIBLE_DEVICES, as many at a time as there are workers."""
    content = {
        "objective": {
            "command": [sys.executable, "-c", SCRIPT, "{folder}", str(jobs), "{rank}"],
            "result": {"regex": r"(\d+)$"},
            "direction": "maximize",
        },
        "space": {"base": "empty", "knobs": {"rank": {"values": [1, 2]}}},
        "execution": execution,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    done: list[Done] = []
    end = time.monotonic() + 300
    config = load_config(folder / "config.yaml")
    with LocalWorkers(config, PROGRAM, count_gpus=lambda: 8) as workers:
        for number in range(jobs):
            workers.submit(Job(number, {"rank": 1}, 0, folder / f"{number:04d}"))
        while len(done) < jobs and time.monotonic() < end:
            done += workers.wait(1.0, lambda *_: None)
    assert [one.outcome.value for one in done] == [1.0] * jobs
    lines = [(folder / f"{number:04d}" / "log.txt").read_text().splitlines()[-1] for number in range(jobs)]
    return sorted((json.loads(line.rpartition(" ")[0]) for line in lines), key=str)


@pytest.fixture
def all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("all_visible")
def test_one_worker_of_an_own_trainer_sees_every_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen(tmp_path) == [None]  # all eight, as without Loracle
    assert seen(tmp_path, gpus_per_trial=2) == ["0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert seen(tmp_path) == ["4,7"]


@pytest.mark.usefixtures("all_visible")
def test_several_workers_of_an_own_trainer_have_equal_shares(tmp_path: Path) -> None:
    assert seen(tmp_path, jobs=2, workers=2) == ["0,1,2,3", "4,5,6,7"]


@pytest.mark.usefixtures("all_visible")
def test_shares_by_number_of_workers() -> None:
    def shares(workers: int, gpus: int | None, *, own: bool, there: int = 8) -> list[str | None]:
        devices = visible_devices("auto", workers, gpus, own=own, count=lambda: there)
        return [device.get("CUDA_VISIBLE_DEVICES") for device in devices]

    assert shares(1, None, own=False) == ["0"]  # the built-in trainer uses one
    assert shares(3, None, own=False) == ["0", "1", "2"]
    assert shares(3, None, own=True) == ["0,1", "2,3", "4,5"]
    assert shares(8, None, own=True) == [str(i) for i in range(8)]
    assert shares(2, 1, own=True) == ["0", "1"]
    assert shares(2, 0, own=True) == [None, None]
    with pytest.raises(ConfigError, match=r"9 workers with 1 GPU\(s\) each need 9, but 8"):
        shares(9, None, own=True)
    assert shares(9, None, own=True, there=0) == [None] * 9


def test_a_single_worker_needs_no_count() -> None:
    """Counting loads torch; a command that trains elsewhere has no use for it."""

    def count() -> int:
        raise AssertionError("counted")

    assert visible_devices("auto", 1, None, own=True, count=count) == [{}]
