"""The layout of docs and design, held by reading every module's imports."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from places import PACKAGE

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

SEARCH = {
    *("language", "trie", "features", "surrogate", "acquisition", "optimizer", "sampler", "prompt"),
    *("prior", "ensemble", "suggestions"),
}
WORK = {
    *("data", "rows", "examples", "fields", "tokens", "chat", "data_notices"),
    *("model", "module_tree", "adapter", "saved", "batching", "probe"),
    *("train", "dropout", "positions", "metrics", "objective"),
    *("external", "own_function", "calls", "scalars", "printed", "outcomes", "guard"),
    *("workers", "process", "worker_process", "ray_workers", "memory", "footprint", "meter"),
}
SHARED = {
    "errors",
    "trial",
    "space",
    "command",
    "config",
    "yaml_file",
    "device",
    "notices",
    "secret",
    "escape",
    "plan",
    "sizes",
    "words",
    "patterns",
    "__init__",
}  # `__init__` holds the version
LIGHT = {
    "errors",
    "trial",
    "space",
    "command",
    "config",
    "yaml_file",
    "prompt",
    "outcomes",
    "printed",
    "guard",
    "external",
    "own_function",
    "calls",
    "scalars",
    "patterns",
    "identity",
}
HEAVY = {"torch", "transformers", "optuna", "peft", "gpytorch", "botorch", "accelerate", "matplotlib"}


@cache
def imports(module: str) -> frozenset[str]:
    """Everything that a module imports when it runs, at its top or in a function, as dotted names."""
    found = set()
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not _is_for_type_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the layout"
            assert node.module is not None
            if node.module == "loracle":
                found |= {f"loracle.{a.name}" if a.name in MODULES else "loracle" for a in node.names}
            else:
                found.add(node.module)
    return frozenset(found)


def _is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    names = [name.split(".") for name in imports(module) if name.split(".")[0] == "loracle"]
    return {parts[1] if len(parts) > 1 else "__init__" for parts in names} - {module}


def test_there_are_no_cycles() -> None:
    order = TopologicalSorter({module: own(module) for module in MODULES}).static_order()
    assert set(order) == set(MODULES)  # a cycle raises


@pytest.mark.parametrize("module", sorted(SEARCH & set(MODULES)))
def test_the_search_half_does_not_import_the_work_half(module: str) -> None:
    assert not own(module) & WORK
    assert own(module) <= SEARCH | SHARED


@pytest.mark.parametrize("module", sorted(WORK & set(MODULES)))
def test_the_work_half_imports_the_shared_records_and_itself(module: str) -> None:
    assert own(module) <= WORK | SHARED


@pytest.mark.parametrize("module", sorted(SHARED))
def test_shared_modules_import_nothing_but_each_other(module: str) -> None:
    assert own(module) <= SHARED


@pytest.mark.parametrize("module", sorted(LIGHT))
def test_light_modules_stay_light(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & HEAVY


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_readable(module: str) -> None:
    assert len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()) < 600


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_measures_a_time(path: Path) -> None:
    """A speed belongs into `benchmarks/`, as a ratio; what a test waits for has minutes to come."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not named & {
        "perf_counter",
        "perf_counter_ns",
        "process_time",
        "thread_time",
        "getloadavg",
        "ru_utime",
    }
    for node in ast.walk(tree):  # `monotonic` is for the ends of waiting loops alone
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            inside = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            assert "monotonic" not in inside, f"{path.name}:{node.lineno}"
