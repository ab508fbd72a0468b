"""What is shown is run: README blocks, examples and example configs."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from places import ROOT
from pydantic import BaseModel

import loracle
from loracle.config.loading import load_config, parse_config, resolve_paths
from loracle.config.settings import KnobConfig, RunConfig, build_space
from loracle.language.prompt import load_prompt
from loracle.records.space import default_space
from loracle.run.tune import tune

HISTORY = ("CHANGELOG.md",)  # it may name what was
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [text for language, text in BLOCKS if language == "python" and "run/best" not in text]
    assert len(blocks) == 2
    for text in blocks:
        exec(compile(text.replace("n_trials=30", "n_trials=5"), "README.md", "exec"), {})
    assert "'rank': 16" in capsys.readouterr().out


def test_yaml_blocks_are_valid_configs() -> None:
    configs = [parse_config(text) for language, text in BLOCKS if language == "yaml"]
    assert [config.search.trials for config in configs] == [30]


def test_commands_that_the_readme_names_exist() -> None:
    from loracle.cli import app

    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    shown = set(re.findall(r"^loracle (\w+)", "".join(text for _, text in BLOCKS), flags=re.MULTILINE))
    assert shown
    assert shown <= known
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in re.findall(r"make (\w+)\n", README))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_example_configs_are_valid(path: Path) -> None:
    assert len(build_space(load_config(path).space).candidates) > 1000


WITH_OTHERS = {"hf_trainer": "peft", "trl_trainer": "trl", "ray_tune": "ray.tune.search.optuna"}


@pytest.mark.parametrize(
    "name",
    [
        *("hf_trainer", "trl_trainer"),
        # A cluster takes half a minute to start; `test_ray_tune.py` calls the searcher as Ray Tune does.
        pytest.param("ray_tune", marks=[pytest.mark.xdist_group("ray"), pytest.mark.slow]),
    ],
)
def test_examples_with_libraries_of_others_run(name: str, tmp_path: Path) -> None:
    """In a process each: these libraries warn, and Ray leaves threads behind."""
    pytest.importorskip(WITH_OTHERS[name].partition(".")[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "rank" in found.stdout


ALONE = [path for path in sorted((ROOT / "examples").glob("*.py")) if path.stem not in WITH_OTHERS]


@pytest.mark.parametrize("path", ALONE, ids=lambda p: p.name)
def test_examples_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(path), run_name="__main__")
    assert "rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "changes", "winner"),
    [
        ("own.yaml", {}, {"template": "steps", "optimizer": "lion", "learning_rate": 1e-4}),
        ("loracle.yaml", {"training": {"max_steps": 20}, "search": {"trials": 3}}, None),
    ],
)
def test_the_example_of_named_knobs_runs(
    file: str, changes: dict[str, Any], winner: dict[str, Any] | None, tmp_path: Path
) -> None:
    folder = ROOT / "examples" / "named_knobs"
    content = yaml.safe_load((folder / file).read_text()) | changes | {"output": str(tmp_path / "run")}
    content["execution"] = {"workers": 0}
    result = tune(resolve_paths(parse_config(yaml.safe_dump(content, sort_keys=False)), folder))
    assert len(result.history.counted) == content["search"]["trials"]
    assert winner in (None, result.comparison.winner)


@pytest.mark.parametrize(
    ("example", "package", "metric"),
    [
        ("own_metric", None, "metric.py:letters_in_place"),
        ("lm_eval", "lm_eval", "lm_eval:which_rotation:acc"),
    ],
)
def test_the_examples_of_metrics_run(example: str, package: str | None, metric: str, tmp_path: Path) -> None:
    """In short: two trials, and a training that is too short for anything to be learnt from."""
    if package is not None:
        pytest.importorskip(package)
    folder = ROOT / "examples" / example
    content = yaml.safe_load((folder / "loracle.yaml").read_text())
    content |= {"output": str(tmp_path / "run"), "execution": {"workers": 0}, "search": {"trials": 2}}
    content["training"] |= {"max_steps": 20}
    config = resolve_paths(parse_config(yaml.safe_dump(content, sort_keys=False)), folder)
    assert config.scoring.metric == metric
    result = tune(config)
    assert [0 <= trial.outcome.value <= 1 for trial in result.history.counted if trial.outcome] == [
        True,
        True,
    ]
    assert result.comparison.difference is not None  # so items have values of their own


def test_the_configuration_page_names_every_setting() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    def names(section: type[BaseModel]) -> set[str]:
        found = set()
        for name, field in section.model_fields.items():
            found.add(field.alias or name)
            for kind in (field.annotation, *get_args(field.annotation)):  # get_args: of `X | None`
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found |= names(kind)
        return found

    missing = [name for name in names(RunConfig) | names(KnobConfig) if f"`{name}`" not in page]
    assert missing == []


def test_the_prompt_of_the_configuration_page_works(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(version.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    prompt = load_prompt(tmp_path / "mine.yaml", default_space())
    assert "two languages" in prompt.prefix
    assert "learning_rate=10^-" in prompt.body(default_space().config(0))


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


@pytest.mark.parametrize("path", [p for p in PAGES if p.name not in HISTORY], ids=lambda p: p.name)
def test_files_that_a_page_names_are_there(path: Path) -> None:
    """Paths in code spans, from the root or from the page's folder, and names of modules."""
    spans = re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8"))
    paths = [
        span for span in spans if re.fullmatch(r"(loracle|tests|benchmarks|examples|docs)/[\w./-]*", span)
    ]
    assert [name for name in paths if not (ROOT / name).exists()] == []
    modules = [span.split("(")[0].split(".") for span in spans if re.match(r"loracle(\.\w+)+", span)]
    assert [".".join(parts) for parts in modules if not is_there(parts)] == []


def is_there(parts: list[str]) -> bool:
    """Whether a dotted name is a module of the package, or a public name, in one or in it."""
    place = ROOT.joinpath(*parts)
    if len(parts) == 2 and parts[1] in loracle.__all__:
        return True
    return place.is_dir() or place.with_suffix(".py").exists() or place.parent.with_suffix(".py").exists()


def test_the_contributing_page_names_what_is_there() -> None:
    """Each name in code beside a file is in that file."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"`(\w+)`(?: of| in| \() ?`(loracle/[\w./]+\.py)`", page)
    assert len(places) >= 6
    assert [(n, f) for n, f in places if not re.search(rf"\b{n}\b", (ROOT / f).read_text())] == []


SCRIPTS = sorted([*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_import_what_is_there(path: Path) -> None:
    """Benchmarks take hours, so they are not run here."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "loracle":
            module = import_module(str(node.module))
            for alias in node.names:
                there = hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")
                assert there, f"{path.name}:{node.lineno}: {alias.name}"
