"""A user's Python function as the trainer: found, called, and kept from harming more than its trial."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loracle.config.placeholders import PLACES
from loracle.config.settings import ObjectiveConfig
from loracle.errors import ConfigError
from loracle.own_trainer.call import Call, Measured, measured, numbers_beside
from loracle.own_trainer.numbers import NotANumber, as_count, as_number
from loracle.own_trainer.output import Output, printing_to
from loracle.records.failures import DISK_ERRORS, crash, out_of_memory_text
from loracle.records.objective import Progress
from loracle.records.trial import Failure, FailureKind
from loracle.text.escape import printable

if TYPE_CHECKING:
    from loracle.records.objective import Progress

_KEYWORDS = {*PLACES, "progress"}
_OWN: set[str] = set()  # names of modules that were made here


class Function:
    """Calls a Python function with a config, and by keyword with whatever else it takes of
    `seed`, `folder`, `number`, `phase`, `fraction` and `progress`. It returns a number, or a mapping with
    `value` and any other numbers.

    Attributes:
        wanted: the keywords that it takes.

    Raises:
        ConfigError: it cannot be imported, or does not take a config.
    """

    def __init__(self, settings: ObjectiveConfig) -> None:
        assert settings.function is not None
        self._name = settings.function
        self._function = _import(settings.function, settings.working_folder)
        self.wanted = _keywords(self._function, self._name)

    def __call__(self, call: Call) -> Measured | Failure:
        """Calls it. What it prints goes to the trial's log; where it leaves the process, it is put back."""
        given = {**call.values(), "progress": _checked(call.progress)}
        keywords = {name: value for name, value in given.items() if name in self.wanted}
        with Output(call.folder / "log.txt", None, call.progress) as output:
            try:
                with printing_to(output), _at_home():
                    return self._measured(self._function(dict(call.config), **keywords))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # the user's code: whatever it raises is a failed trial
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    raise
                failure = crash(error)
                output.note(failure.traceback_tail)
                if isinstance(error, MemoryError) or out_of_memory_text(failure.message):
                    return replace(failure, kind=FailureKind.OUT_OF_MEMORY)
                return failure

    def _measured(self, found: Any) -> Measured:
        """Raises ValueError."""
        metrics: dict[str, float] = {}
        if isinstance(found, Mapping):
            metrics = numbers_beside(found, leave_out="value")
            found = found.get("value", "missing")
        return measured(found, f"the value that {self._name} returned", metrics)


def _checked(progress: Progress | None) -> Callable[..., None]:
    """Takes any kind of number. Anything else is an error in the function that says it."""

    def report(step: Any, total: Any, loss: Any = None) -> None:
        told = []
        for name, value, read in (
            ("step", step, as_count),
            ("total", total, as_count),
            ("loss", loss, as_number),
        ):
            try:
                told.append(None if value is None else read(value))
            except NotANumber as error:
                raise TypeError(f"progress(step, total, loss): {name} is {error}") from None
        if progress is not None:
            progress(int(told[0] or 0), int(told[1] or 0), told[2])

    return report


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Undoes a change of the current folder. A copy of the process, made by a fork, ends here."""
    process, folder = os.getpid(), None
    with contextlib.suppress(OSError):  # it has been removed
        folder = Path.cwd()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(0)  # it would go on as a second worker on the same connection
        with contextlib.suppress(OSError):
            if folder is not None:
                os.chdir(folder)


# -- finding it -------------------------------------------------------------------------------------


def _import(name: str, folder: Path) -> Callable[..., Any]:
    """The function `module:function`, or `path/to/file.py:function`; raises ConfigError."""
    source, _, attribute = name.rpartition(":")
    path = folder / source
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout may be for results, as with --json
            module = _from_file(path) if source.endswith(".py") else _from_folder(source, folder)
        if not hasattr(module, attribute):
            file = getattr(module, "__file__", None) or "built in"
            raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r} ({file})")
        function = getattr(module, attribute)
    except (Exception, SystemExit) as error:  # the user's code: whatever keeps it from loading is told
        raise ConfigError(f"objective.function: {name!r} cannot be loaded: {_reason(error)}") from None
    if not callable(function):
        raise ConfigError(f"objective.function: {name!r} is not a function")
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"objective.function: {name!r} is async, so nothing would wait for it; write `def`")
    loaded: Callable[..., Any] = function
    return loaded


def _from_file(path: Path) -> Any:
    # Under its own name, so that dataclasses and pickles find it; never in the place of another module.
    name = path.stem if path.stem in _OWN or not _is_taken(path.stem, path) else f"{path.stem}_of_objective"
    _OWN.add(name)
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
    return spec is not None and spec.origin != str(path)


def _from_folder(source: str, folder: Path) -> Any:
    _add_home(folder)
    return importlib.import_module(source)


def _add_home(folder: Path) -> None:
    """Lets what lies in a folder be imported, as in a script that lies there."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _reason(error: BaseException) -> str:
    """What kept a module from loading, and the line of the user's code where it happened."""
    if isinstance(error, SyntaxError) and error.filename:
        return printable(f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})", 400)
    text = printable(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")
    ]
    own = [frame for frame in own if Path(frame.filename).parent != Path(str(importlib.__file__)).parent]
    if not own:
        return text
    return f"{text} ({printable(own[-1].filename, 300)}, line {own[-1].lineno})"


def _keywords(function: Callable[..., Any], name: str) -> set[str]:
    """Which keywords a function takes; raises ConfigError where a call is sure to fail."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # written in C
        return set()
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    everything = inspect.Parameter.VAR_KEYWORD in kinds
    wanted = _KEYWORDS if everything else _KEYWORDS & set(signature.parameters)
    try:
        signature.bind({}, **dict.fromkeys(wanted))
    except TypeError as error:
        raise ConfigError(
            f"objective.function: {name} is called with a config and the keywords "
            f"{', '.join(sorted(_KEYWORDS))} that it takes: {error}"
        ) from None
    return wanted
