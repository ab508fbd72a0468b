"""Commands that look at a run, or write a config, load no models: each is tried in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import TESTS

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "botorch",
    "gpytorch",
    "matplotlib",
    "pandas",
    "scipy",
)
PROGRAM = f"""
import sys
from loracle.cli import main
try:
    main()
finally:
    print("loaded:", *sorted({{{", ".join(map(repr, HEAVY))}}} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a run, of which there is an adapter."""
    shutil.copytree(TESTS / "recorded" / "run_begun_before", tmp_path / "run")
    best = tmp_path / "run" / "best"
    best.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (best / name).touch()
    return tmp_path


def called(place: Path, *arguments: str) -> tuple[str, str]:
    """What a command prints, and what it has loaded."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], cwd=place, capture_output=True, text=True, check=True
    )
    return found.stdout, found.stderr.rpartition("loaded:")[2].strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--help",), "doctor"),
        (("--version",), "."),
        (("init", "new.yaml"), "wrote new.yaml"),
        (("show", "run"), "learning_rate"),
        (("export", "run", "adapter"), "adapter_model.safetensors"),
        (("cache",), "entries"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "",
)
def test_commands_load_nothing_heavy(place: Path, arguments: tuple[str, ...], said: str) -> None:
    text, loaded = called(place, *arguments)
    assert said in text
    assert loaded == ""


def test_what_a_light_command_prints_is_what_is_there(place: Path) -> None:
    text, _ = called(place, "show", "run", "--json")
    assert [trial["trial"] for trial in json.loads(text)["trials"]] == [0, 1, 2, 3, 4]
