"""The rooms of the package: what each may import, what stays light, and how large anything gets.

The tables are the layout that ARCHITECTURE.md describes. Lists of what is not so yet may only shrink.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from places import PACKAGE, TESTS

# Rooms, or modules of them, that a room may import, besides itself and the version in `__init__`; they stand
# above it here.
MAY_IMPORT: dict[str, str] = {
    "errors": "",
    "text": "errors",
    "records": "errors text",
    "config": "errors text records",
    "language": "errors text records config",
    "training": "errors text records config",
    "execution": "errors text records config",
    "own_trainer": "errors text records config execution training.intervals",
    "search": "errors text records language config.spellings",
    "export": "errors text records config training",
    "report": "errors text records config search export",
    "run": "errors text records config language training execution own_trainer search report",
    "loaded_run": "errors text records config search report run",
    "trackers": "errors records",
    "commands": "errors text records config language search report export run loaded_run trackers",
    "cli": "errors commands",
    "hf": "errors text records config own_trainer.direction own_trainer.watched search run",
    "ray_tune": "errors text records search",
    "__main__": "cli",
    "__init__": "errors records search",  # for type checkers alone
}
ROOMS = list(MAY_IMPORT)

# Rooms, or modules, that load with none of these; and which modules of a room do need them.
HEAVY = ("torch", "transformers", "peft", "accelerate", "botorch", "gpytorch", "matplotlib", "pandas")
LIGHT: dict[str, str] = {
    "errors": "",
    "text": "",
    "records": "",
    "config": "",
    "own_trainer": "",
    "execution": "",
    "search": "search.language_gp",
    "report": "report.figures",
    "export": "export.torchtune_parts.shipped",  # a file that an export brings; nothing here loads it
    "commands": "",
    "cli": "",
    "hf": "",
    "loaded_run": "",
    "trackers": "",
    "run": "run.checks run.data.page run.data.view run.proxy run.reading",
}
OPTUNA_TOO = ("commands", "hf", "loaded_run", "run", "search")  # it holds a run's trials

# -- what is not so yet; strike out what is mended -----------------------------------------------------

# Uses of private names, by test file.
PRIVATE_NAMES: dict[str, int] = {}


# -- imports -------------------------------------------------------------------------------------------


def modules(package: Path) -> dict[str, Path]:
    """Files by dotted name without `loracle.`; a folder's `__init__` has the folder's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def own_imports(path: Path, known: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports, at its top or in a function, for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layout"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("loracle.") in known else str(node.module) for name in whole]
        for name in names:
            if name.partition(".")[0] == "loracle":
                yield name.removeprefix("loracle").removeprefix(".") or "__init__"


def wrong_arrows(package: Path) -> list[str]:
    """Imports from one room into another that the table does not have."""
    there = modules(package)
    known = set(there) | {room(module) for module in there}
    return sorted(
        f"{module} imports {other}"
        for module, path in there.items()
        for other in own_imports(path, known)
        if room(other) not in (room(module), "__init__")
        and not any(f"{other}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[room(module)].split())
    )


def test_every_room_is_in_the_table() -> None:
    assert {room(module) for module in modules(PACKAGE)} == set(MAY_IMPORT)


def test_no_room_of_the_table_imports_one_above_it() -> None:
    for place, name in enumerate(ROOMS[:-1]):
        assert {room(other) for other in MAY_IMPORT[name].split()} <= set(ROOMS[:place])
    assert not {"search", "training"} & set(f"{MAY_IMPORT['execution']} {MAY_IMPORT['records']}".split())
    assert "training" not in MAY_IMPORT["search"].split()
    assert "search" not in MAY_IMPORT["training"].split()


def test_rooms_import_what_the_table_allows() -> None:
    assert wrong_arrows(PACKAGE) == []


def test_modules_form_no_circle() -> None:
    there = modules(PACKAGE)
    graph = {module: set(own_imports(path, set(there))) - {module} for module, path in there.items()}
    order = list(TopologicalSorter(graph | {"__init__": set()}).static_order())  # a circle raises
    assert set(order) >= set(there)


# -- light ---------------------------------------------------------------------------------------------


def heavy_loaded(package: Path, names: list[str], heavy: tuple[str, ...]) -> str:
    """What of `heavy` is loaded when modules are, in a process of its own."""
    program = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module('loracle.' + name)\n"
        f"print(*sorted(set({heavy}) & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=package.parent, capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def of_room(name: str) -> list[str]:
    left_out = LIGHT[name].split()
    return [module for module in modules(PACKAGE) if room(module) == name and module not in left_out]


@pytest.mark.parametrize("name", LIGHT)
def test_light_rooms_load_nothing_heavy(name: str) -> None:
    heavy = HEAVY if name in OPTUNA_TOO else (*HEAVY, "optuna")
    assert heavy_loaded(PACKAGE, of_room(name), heavy) == ""


# -- the checks see what is wrong ----------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package's modules, to be spoilt."""
    for path in modules(PACKAGE).values():
        place = tmp_path / "loracle" / path.relative_to(PACKAGE)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return tmp_path / "loracle"


def spoil(path: Path, line: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("records/trial.py", "from loracle.run import tune", "records.trial imports run.tune"),
        (
            "search/propose.py",
            "def f():\n    import loracle.training.loop",
            "search.propose imports training.loop",
        ),
        ("report/tables.py", "from loracle import run", "report.tables imports run"),
        ("report/tables.py", "from loracle.training import loop", "report.tables imports training.loop"),
    ],
)
def test_an_import_that_is_not_allowed_is_found(copied: Path, module: str, line: str, said: str) -> None:
    assert wrong_arrows(copied) == []
    spoil(copied / module, line)
    assert wrong_arrows(copied) == [said]


def test_a_heavy_import_deep_below_is_found(copied: Path) -> None:
    spoil(copied / "errors.py", "import torch")
    assert heavy_loaded(copied, ["report.tables"], HEAVY) == "torch"


# -- size and names ------------------------------------------------------------------------------------


def test_no_module_has_more_than_450_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    long = {str(path.relative_to(PACKAGE)) for path, length in lengths.items() if length > 450}
    assert long == set()


def test_no_function_has_more_than_60_lines() -> None:
    long = {
        f"{path.relative_to(PACKAGE)}::{node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= 60
    }
    assert long == set()


def test_no_folder_has_more_than_12_modules() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    counts = {folder: len({*folder.glob("*.py")} - {folder / "__init__.py"}) for folder in folders}
    large = {str(folder.relative_to(PACKAGE)) for folder, count in counts.items() if count > 12}
    assert large == set()


def test_names_of_modules_say_what_is_in_them() -> None:
    banned = {"utils", "common", "core", "base", "helpers", "printed", "final", "meter", "outcomes"}
    banned |= {"external", "process"}
    named = {
        name for name, path in modules(PACKAGE).items() if path.stem in banned or path.parent.stem in banned
    }
    assert named == set()


# -- tests ---------------------------------------------------------------------------------------------


@cache
def private_names(package: Path) -> set[str]:
    """Names with one underscore in front that the package gives to functions, classes, and attributes."""
    found: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node):
                found.add(node.attr)
    return {name for name in found if re.fullmatch(r"_[A-Za-z]\w*", name)}


_DOTTED = re.compile(r"loracle\.[\w.]+\._[A-Za-z]\w*")


def reaches(tree: ast.AST, private: set[str]) -> Iterator[str]:
    """Where a test names what is private in the package: by import, as an attribute, or in a text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("loracle"):
            yield from (alias.name for alias in node.names if alias.name in private)
        elif isinstance(node, ast.Attribute) and node.attr in private and not _is_own(node):
            yield node.attr
        elif isinstance(node, ast.Call) and _called(node) in ("setattr", "getattr", "delattr", "hasattr"):
            names = [part.value for part in node.args if isinstance(part, ast.Constant)]
            yield from (str(name) for name in names if name in private)
        elif isinstance(node, ast.Constant) and re.fullmatch(
            r"loracle\.[\w.]+\._[A-Za-z]\w*", str(node.value)
        ):
            yield str(node.value)


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from loracle.a import _x, y", ["_x"]),
        ("thing._x", ["_x"]),
        ("patch.setattr(module, '_x', 3)", ["_x"]),
        ("patch('loracle.a._other')", ["loracle.a._other"]),
        ("self._x; thing._other; '_x'", []),
    ],
)
def test_a_private_name_is_found_however_it_is_reached(text: str, found: list[str]) -> None:
    assert list(reaches(ast.parse(text), {"_x"})) == found


@pytest.mark.parametrize(
    "path", sorted({*TESTS.rglob("*.py")} - {Path(__file__)}), ids=lambda path: path.stem
)
def test_no_test_reaches_into_private_names(path: Path) -> None:
    found = list(reaches(ast.parse(path.read_text(encoding="utf-8")), private_names(PACKAGE)))
    assert len(found) <= PRIVATE_NAMES.get(path.stem, 0), found


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
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
