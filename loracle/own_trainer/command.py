"""A user's command as the trainer: run for each config without a shell, its result read from a file or from
what it prints.

Nothing heavy is imported here, so that a worker which only runs commands starts at once.
"""

from __future__ import annotations

import json
import math
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loracle.config.placeholders import fill, placeholders, split_command
from loracle.config.settings import ObjectiveConfig, ResultConfig
from loracle.errors import ConfigError
from loracle.execution import guard
from loracle.own_trainer.call import Call, Measured, look_up, measured
from loracle.own_trainer.items import read_rows, results_of
from loracle.own_trainer.output import Output
from loracle.records.failures import DISK_ERRORS, TAIL, no_room, out_of_memory_text
from loracle.records.trial import Failure, FailureKind
from loracle.text import secrets as secret
from loracle.text.escape import printable
from loracle.text.patterns import Pattern

NOTHING: Mapping[str, float] = MappingProxyType({})
_SEARCHED = 16_000  # characters at the end of an output that are searched for the cause of a failure
_RESULT_BYTES = 50_000_000
_SECONDS_BETWEEN_LOOKS = 10.0

_KILLED = re.compile(r"SIGKILL|[Ss]ignal 9\b|exitcode: -9\b")  # how launchers report it of their processes


class Command:
    """Runs a program for each config and reads its result. No shell is involved.

    Args:
        settings: the section `objective` of a config.
        watched: files of items that must not be lost, in a trial's folder.
        pattern: what its output is searched for; None: as the settings say.

    Attributes:
        used: the placeholders that it has.

    Raises:
        ConfigError: there is no such program, or no such environment variable.
    """

    def __init__(
        self, settings: ObjectiveConfig, watched: Sequence[str] = (), *, pattern: Pattern | None = None
    ) -> None:
        assert settings.command is not None
        assert settings.result is not None
        self._settings = settings
        self._watched = watched
        self._result: ResultConfig = settings.result
        self._parts = split_command(settings.command)
        texts = (*self._parts, *map(secret.without_references, settings.environment.values()))
        if secret.lacks_secrets(self._parts):
            raise ConfigError(
                f"objective.command: a secret in it was not recorded ({secret.MASK}); give the config file "
                "that the run began with"
            )
        self.used = {name for text in texts for name in placeholders(text)}
        # A `python` that is not to be found elsewhere is the one that runs Loracle.
        self._path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"
        if pattern is None and self._result.regex:
            pattern = Pattern(self._result.regex, "objective.result.regex")
        self._pattern = pattern
        if not settings.working_folder.is_dir():
            raise ConfigError(f"objective.working_folder: there is no folder {settings.working_folder}")
        self._require_program(self._parts[0])
        for name, text in settings.environment.items():
            secret.expanded(text, f"objective.environment.{name}")  # refused now, and not in each trial

    def arguments(self, call: Call) -> list[str]:
        """The command of one run."""
        return [fill(part, self._values(call)) for part in self._parts]

    def shown(self, call: Call) -> list[str]:
        """The same for a file: without secrets."""
        return [fill(part, self._values(call)) for part in secret.recorded_arguments(self._parts)]

    def __call__(self, call: Call) -> Measured | Failure:
        """Runs the command; the time limit and Ctrl-C end it with all that it started."""
        file = self._result.json_file
        if file is not None:
            _remove(call.folder / file)  # of an attempt before
        for name in self._item_files:
            _remove(call.folder / name)
        arguments = self.arguments(call)
        try:
            with Output(call.folder / "log.txt", self._pattern, call.progress, call.curve) as output:
                output.note(f"# {shlex.join(self.shown(call))}\n")
                code = self._execute(arguments, call, output)
        except ConfigError as error:  # the pattern takes too long on a line
            return Failure(FailureKind.CRASHED, f"no result: {error}", output.tail[-TAIL:])
        tail = output.tail
        if code is None:
            limit = self._settings.time_limit
            message = f"took longer than objective.time_limit, {limit:g} s"
            return Failure(FailureKind.TIMEOUT, message, tail[-TAIL:])
        failure = failure_of(code, tail, call.folder)
        if failure is not None:
            return failure
        try:
            found = (
                self.result_in(call.folder, output.told) if file is not None else self._from_output(output)
            )
            return self._with_items(found, call.folder)
        except ValueError as error:
            return Failure(FailureKind.CRASHED, f"no result: {error}", tail[-TAIL:])

    @property
    def _item_files(self) -> list[str]:
        return [*filter(None, [self._settings.items]), *self._watched]

    def _with_items(self, found: Measured, folder: Path) -> Measured:
        """With the results of items, where the settings name files of them. Raises ValueError."""
        rows: dict[str, Any] = {}
        for name in self._item_files:
            path = (folder / name).resolve()
            if not path.is_file():
                raise ValueError(f"the command wrote no {name} into the trial's folder")
            if not path.is_relative_to(folder):
                raise ValueError(f"{name} is a link out of the trial's folder")
            rows[name] = read_rows(path, name)
        own = self._settings.items
        return replace(found, items=None if own is None else results_of(rows[own], own), rows=rows)

    def _execute(self, arguments: list[str], call: Call, output: Output) -> int | None:
        """Exit code, negative for a signal; None when the time limit was reached."""
        limit = self._settings.time_limit
        end = math.inf if limit is None else time.monotonic() + limit
        process = guard.start(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._settings.working_folder,
            env=self._environment(call),
            bufsize=0,
        )
        assert process.stdout is not None
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while time.monotonic() < end:
                    # The worker shows no life while this waits, so that a silent command can be told.
                    if selector.select(min(_SECONDS_BETWEEN_LOOKS, end - time.monotonic())):
                        if not (chunk := os.read(process.stdout.fileno(), 1 << 16)):
                            return process.wait()
                        output.feed(chunk)
                    elif process.poll() is not None:  # something that cannot be killed holds the pipe
                        return process.returncode
            return None
        finally:
            guard.end(process)
            process.stdout.close()

    def _environment(self, call: Call) -> dict[str, str]:
        values = self._values(call)
        own = {
            name: secret.expanded(text, f"objective.environment.{name}", lambda part: fill(part, values))
            for name, text in self._settings.environment.items()
        }
        return {"PYTHONUNBUFFERED": "1"} | os.environ | {"PATH": self._path} | own  # prints come at once

    def _values(self, call: Call) -> dict[str, str | int | float]:
        return {**call.config, **call.values()}

    def _require_program(self, name: str) -> None:
        if placeholders(name):
            return
        folder = self._settings.working_folder
        found = os.access(folder / name, os.X_OK) if os.sep in name else shutil.which(name, path=self._path)
        if not found:
            raise ConfigError(f"objective.command: there is no program {name!r} that can be run")

    def _from_output(self, output: Output) -> Measured:
        if output.found is None:
            raise ValueError(f"no line that the command printed matches {self._result.regex!r}")
        return measured(output.found, f"the match of {self._result.regex!r}", output.told)

    def result_in(self, folder: Path, printed: Mapping[str, float] = NOTHING) -> Measured:
        """The number in the result file of a trial's folder, and the numbers beside it; `printed` are others.

        Raises:
            ValueError: there is no such number; it says why.
        """
        name, key = str(self._result.json_file), self._result.key
        try:
            path = (folder / name).resolve()
            if not path.is_file():
                raise ValueError(f"the command wrote no {name} into the trial's folder")
            if not path.is_relative_to(folder):
                raise ValueError(f"{name} is a link out of the trial's folder")
            if path.stat().st_size > _RESULT_BYTES:
                raise ValueError(f"{name} has more than {_RESULT_BYTES // 1_000_000} MB")
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise ValueError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not JSON: {error}") from None
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not JSON: {error}") from None
        try:
            found, around = look_up(content, key)
        except KeyError:
            has = printable(", ".join(content), 200) if isinstance(content, Mapping) else ""
            raise ValueError(f"{name} has no {key}{has and f'; it has {has}'}") from None
        beside = {**printed, **around} if isinstance(around, Mapping) else printed
        return measured(found, f"{key} in {name}", beside, key.rpartition(".")[2], content)


def _remove(path: Path) -> None:
    """Removes a file, or whatever a command has put in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def failure_of(code: int, output: str, folder: Path) -> Failure | None:
    """What an exit code and the end of the output say; None: all is well.

    Raises:
        StudyError: the disk is full.
    """
    if code == 0:
        return None
    if os.strerror(DISK_ERRORS[0]) in output[-_SEARCHED:]:
        raise no_room(folder, DISK_ERRORS[0])
    lines = output.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")[:200]
    tail = output[-TAIL:]
    if out_of_memory_text(output[-_SEARCHED:]):
        sign = next((line.strip() for line in reversed(lines) if out_of_memory_text(line)), last)[:200]
        return Failure(FailureKind.OUT_OF_MEMORY, f"the command ran out of memory: {sign}", tail)
    number = -code if code < 0 else code - 128  # a shell reports a signal as 128 + its number
    if number == signal.SIGKILL or _KILLED.search(output[-_SEARCHED:]):
        message = "the command was killed (signal 9); usually the system had no memory left"
        return Failure(FailureKind.LOST, message, tail)
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        return Failure(FailureKind.CRASHED, f"the command died of {name}: {last}", tail)
    return Failure(FailureKind.CRASHED, f"the command ended with exit code {code}: {last}", tail)
