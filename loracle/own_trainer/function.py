"""A user's Python function as the trainer: found, called, and kept from harming more than its trial."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loracle.config.placeholders import PLACES
from loracle.config.settings import ObjectiveConfig
from loracle.config.user_function import load_function
from loracle.errors import ConfigError
from loracle.own_trainer.call import Call, Measured, measured
from loracle.own_trainer.curve_lines import BESIDE, tell_curve
from loracle.own_trainer.items import results_of
from loracle.own_trainer.output import Output, printing_to
from loracle.records.failures import DISK_ERRORS, failure_of
from loracle.records.trial import Failure
from loracle.text.numbers import NotANumber, as_count, as_number

_KEYWORDS = {*PLACES, "progress"}


class Function:
    """Calls a Python function with a config, and by keyword with whatever else it takes of
    `seed`, `folder`, `number`, `phase`, `fraction` and `progress`. It returns a number, or a mapping with
    `value`, any other numbers, and maybe `items`, the results of which `value` is the mean.

    Attributes:
        wanted: the keywords that it takes.

    Raises:
        ConfigError: it cannot be imported, or does not take a config.
    """

    def __init__(self, settings: ObjectiveConfig) -> None:
        assert settings.function is not None
        self._name = settings.function
        self._function = load_function(settings.function, settings.working_folder, "objective.function")
        self.wanted = _keywords(self._function, self._name)

    def __call__(self, call: Call) -> Measured | Failure:
        """Calls it. What it prints goes to the trial's log; where it leaves the process, it is put back."""
        given = {**call.values(), "progress": _checked(call)}
        keywords = {name: value for name, value in given.items() if name in self.wanted}
        with Output(call.folder / "log.txt", None, call.progress, call.curve) as output:
            try:
                with printing_to(output), _at_home():
                    found = self._function(dict(call.config), **keywords)
                return self._measured(found, output.told)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # the user's code: whatever it raises is a failed trial
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    raise
                failure = failure_of(error)
                output.note(failure.traceback_tail)
                return failure

    def _measured(self, found: Any, printed: Mapping[str, float]) -> Measured:
        """Raises ValueError."""
        what = f"the value that {self._name} returned"
        if isinstance(found, Mapping):
            beside = {**printed, **found}
            given = beside.pop("items", None)
            items = None if given is None else results_of(given, f"items that {self._name} returned")
            result = measured(found.get("value", "missing"), what, beside, "value", found)
            return replace(result, items=items)
        return measured(found, what, printed)


def _checked(call: Call) -> Callable[..., None]:
    """Takes any kind of number. Anything else is an error in the function that says it."""

    def report(step: Any, total: Any, loss: Any = None, **beside: Any) -> None:
        told: dict[str, float | None] = {}
        if unknown := beside.keys() - BESIDE:
            raise TypeError(
                f"progress(step, total, loss) takes {', '.join(sorted(BESIDE))} beside; got {min(unknown)}"
            )
        for name, value in {"step": step, "total": total, "loss": loss, **beside}.items():
            read = as_count if name in ("step", "total", "tokens") else as_number
            try:
                told[name] = None if value is None else read(value)
            except NotANumber as error:
                hint = "; steps count over the whole training" if name == "step" else ""
                raise TypeError(f"progress(step, total, loss): {name} is {error}{hint}") from None
        tell_curve(call.curve, {name: float(x) for name, x in told.items() if x is not None})
        if call.progress is not None:
            call.progress(int(told["step"] or 0), int(told["total"] or 0), told["loss"])

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


# -- its keywords -----------------------------------------------------------------------------------


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
