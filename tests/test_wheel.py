"""The wheel, installed where nothing else of Loracle is: it has all it needs, and the demo runs from it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder
from places import PACKAGE, ROOT

from loracle import __version__

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))
    return Path(path)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel; the packages that Loracle depends on are those of this one.

    They are on the path by name, so what else `.pth` files add here, such as this very package, is not.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (place / "lib").glob("*/site-packages")
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    return place


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs a program of that environment in an empty folder; gives what it prints."""

    def call(program: str, *arguments: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(installed / "bin" / program), *arguments]
        found = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout

    return call


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    there = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name} == there
    for folder, suffix in (("demo", "jsonl"), ("language/prompts", "yaml"), ("search/priors", "safetensors")):
        assert any(name.startswith(f"loracle/{folder}/") and name.endswith(suffix) for name in there)


def test_commands_run_from_the_wheel(run: Run, installed: Path, tmp_path: Path) -> None:
    program = "import loracle, importlib.util; print(loracle.__file__)"
    assert Path(run("python", "-c", program).strip()).is_relative_to(installed)
    assert run("loracle", "--version").strip() == __version__
    assert "wrote new.yaml" in run("loracle", "init", "new.yaml")
    assert (tmp_path / "new.yaml").read_text().count("train.jsonl") == 1


def test_the_demo_runs_from_the_wheel(run: Run, tmp_path: Path) -> None:
    """Its folder was begun, with a config for a shorter training; all else comes from the wheel."""
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / ".loracle-demo").touch()
    text = (PACKAGE / "demo" / "config.yaml").read_text()
    assert "epochs: 1\n" in text
    (demo / "config.yaml").write_text(text.replace("epochs: 1\n", "epochs: 0.05\n"))
    found = json.loads(run("loracle", "demo", "--trials", "2", "--json"))
    assert found["stopped"] == "all 2 trials are done"
    assert (demo / "run" / "best" / "adapter_model.safetensors").is_file()
    assert (demo / "train.jsonl").read_bytes() == (PACKAGE / "demo" / "train.jsonl").read_bytes()


def test_what_the_package_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [
        *project["dependencies"],
        *(line for name in sorted(extras) if name != "dev" for line in extras[name]),
    ]
    declared = {re.split(r"[<>=\[]", line)[0] for line in asked}
    homes = packages_distributions()
    imported = {
        name.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    for name in sorted(imported - set(sys.stdlib_module_names) - {"loracle"}):
        assert {home.lower().replace("_", "-") for home in homes[name]} & declared, name
