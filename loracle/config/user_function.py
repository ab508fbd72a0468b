"""A Python function of the user's own, found by its name: `module:function` or `path/to/file.py:function`."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loracle.errors import ConfigError
from loracle.records.contents import MODULE, file_hash
from loracle.records.failures import raised
from loracle.text.escape import printable

_NOT_OF_USER = (Path(__file__).parents[1], Path(str(importlib.__file__)).parent)  # Loracle, and what imports


def is_function_name(name: str) -> bool:
    """Whether a text is spelt as such a name."""
    source, _, function = name.rpartition(":")
    return function.isidentifier() and bool(source) and "\0" not in name


def load_function(name: str, folder: Path, setting: str) -> Callable[..., Any]:
    """The function `module:function`, or `path/to/file.py:function` as seen from `folder`.

    `setting`: where the user names it, for errors.

    Raises:
        ConfigError: it cannot be imported, or nothing would come of calling it.
    """
    source, _, attribute = name.rpartition(":")
    path = folder / source
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout may be for results, as with --json
            module = _from_file(path) if source.endswith(".py") else _from_folder(source, folder)
        if not hasattr(module, attribute):
            file = getattr(module, "__file__", None) or "built in"
            shown = path.stem if source.endswith(".py") else source
            raise AttributeError(f"module {shown!r} has no attribute {attribute!r} ({file})")
        function = getattr(module, attribute)
    except (Exception, SystemExit) as error:  # the user's code: whatever keeps it from loading is told
        raise ConfigError(f"{setting}: {name!r} cannot be loaded: {_unloaded(error)}") from None
    if not callable(function):
        raise ConfigError(f"{setting}: {name!r} is not a function")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"{setting}: {name!r} is async, so nothing would wait for it; write `def`")
    loaded: Callable[..., Any] = function
    return loaded


def raised_in_function(error: BaseException) -> str:
    """What was raised, and the line of the user's code where it was; none where Loracle raised it itself."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    own = [frame for frame in own if not any(map(Path(frame.filename).is_relative_to, _NOT_OF_USER))]
    where = f" ({printable(own[-1].filename, 300)}, line {own[-1].lineno})" if own else ""
    return f"{raised(error)}{where}"


def source_of(name: str, folder: Path) -> Path | None:
    """The file that a function comes from; None: it cannot be told without importing anything."""
    module = name.rpartition(":")[0]
    if module.endswith(".py"):
        return folder / module
    nested = folder.joinpath(*module.split("."))
    for path in (nested.with_suffix(".py"), nested / "__init__.py"):
        if path.is_file():
            return path
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is None:
        try:
            spec = importlib.util.find_spec(module.partition(".")[0])
        except (ImportError, ValueError):
            return None
        known = spec.origin if spec is not None and "." not in module else None
    return None if known is None or not Path(known).is_file() else Path(known)


def source_hashes(name: str, folder: Path) -> dict[str, str]:
    """Of the file that a function comes from, as it is now, and of the modules in its folder that it imports,
    by their names for people; empty: see `source_of`, or it is not there."""
    source = source_of(name, folder)
    if source is None or not source.is_file():
        return {}
    found = {f"source of {name}": file_hash(source)}
    home = source.parent if name.rpartition(":")[0].endswith(".py") else folder
    if source.is_relative_to(home):
        modules = sorted(_modules(source, home) - {source})
        found |= {f"{MODULE}{path.relative_to(home).as_posix()}": file_hash(path) for path in modules}
    return found


def _modules(source: Path, home: Path) -> set[Path]:
    """The files in a folder that a file of it imports, wherever in it, and those that these import."""
    found, waiting = {source}, [source]
    while waiting:
        path = waiting.pop()
        package = path.relative_to(home).parent.parts
        for parts in _imports(path, package):
            for n in range(1, len(parts) + 1):
                place = home.joinpath(*parts[:n])
                for file in (place.with_suffix(".py"), place / "__init__.py"):
                    if file not in found and file.is_file():
                        found.add(file)
                        waiting.append(file)
    return found


def _imports(path: Path, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What a file in a package imports, from the top; what may be a module of it or a name in it, too."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # who imports it says so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(one.name.split(".")) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*start, one.name) for one in node.names if one.name != "*")
            yield start


def _from_file(path: Path) -> Any:
    # Under its own name, so that dataclasses and pickles find it; never in the place of another module,
    # which may be another file of the user's.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{path.stem}_{digest}" if _is_taken(path.stem, path) else path.stem
    _add_home(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _is_taken(name: str, path: Path) -> bool:
    """Whether another module has that name, loaded or not."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return name in sys.modules
    return spec is not None and spec.origin != str(path.absolute())


def _from_folder(source: str, folder: Path) -> Any:
    _add_home(folder)
    own = folder.joinpath(*source.split(".")).with_suffix(".py")
    loaded = getattr(sys.modules.get(source), "__file__", None)
    if loaded is not None and own.is_file() and not own.samefile(loaded):  # of one name in another folder
        return _from_file(own)
    return importlib.import_module(source)


def _add_home(folder: Path) -> None:
    """Lets what lies in a folder be imported, as in a script that lies there."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _unloaded(error: BaseException) -> str:
    """What kept a module from loading, and where."""
    if isinstance(error, SyntaxError) and error.filename:
        return printable(f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})", 400)
    return raised_in_function(error)
