"""A trainer of the user's own as an objective, a command or a Python function.

Both get a config and give a number; what goes wrong is typed as in the built-in trainer. Nothing heavy is
imported here, so that a worker which only runs commands starts at once.
"""

from __future__ import annotations

import io
import math
import os
import platform
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loracle import __version__
from loracle.config.metrics import metric_of
from loracle.config.metrics.guard import OwnGuardConfig, guards_of_own_trainer
from loracle.config.settings import ObjectiveConfig, RunConfig
from loracle.own_trainer.call import Call, Measured, Trainer
from loracle.own_trainer.command import Command
from loracle.own_trainer.contents import trainer_contents
from loracle.own_trainer.function import Function
from loracle.own_trainer.guards import reading_of, reading_of_items
from loracle.own_trainer.items import as_records, require_mean
from loracle.records.codec import json_text
from loracle.records.contents import Contents, text_hash
from loracle.records.failures import DISK_ERRORS, no_room
from loracle.records.objective import Progress, Report
from loracle.records.space import Config, with_alpha
from loracle.records.trial import ITEMS, Failure, FailureKind, GuardReading, Outcome
from loracle.records.trial_files import items_file
from loracle.text.files import write_atomically
from loracle.training.intervals import confidence_interval

CURVE = "curve.tsv"


class ExternalObjective:
    """Makes outcomes of what the user's trainer gives.

    Attributes:
        has_final: whether the trainer tells a final run from a trial; else it would only repeat it.
    """

    def __init__(
        self,
        settings: ObjectiveConfig,
        trainer: Trainer,
        *,
        asked: Collection[str],
        guards: Mapping[str, OwnGuardConfig] | None = None,
        sources: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`asked`: what the trainer takes besides its knobs, such as `phase`; `sources`: hashes of its
        source, from before it was read."""
        self.has_final = "phase" in asked or "fraction" in asked
        self._fraction = settings.fraction if "fraction" in asked else None
        self._guards = guards or {}
        self._metric = metric_of("value" if settings.direction == "maximize" else "cost")
        self._settings = settings
        self._trainer = trainer
        self._sources = {**trainer_contents(settings), **sources}

    @classmethod
    def from_config(cls, config: RunConfig) -> ExternalObjective:
        """Finds the program or the function.

        Raises:
            ConfigError: there is none, or the function does not take what it is given.
        """
        settings, guards = config.objective, guards_of_own_trainer(config.guard)
        assert settings is not None
        sources = trainer_contents(settings)
        trainer: Command | Function
        if settings.command is not None:
            trainer = Command(settings, [guard.items for guard in guards.values() if guard.items])
            asked = trainer.used
        else:
            trainer = Function(settings)
            asked = trainer.wanted
        return cls(settings, trainer, asked=asked, guards=guards, sources=sources)

    @property
    def contents(self) -> Contents:
        """Its source: of a function as it was loaded; of a command as it is now, for each trial reads it."""
        of_function = self._settings.command is None
        found = self._sources if of_function else trainer_contents(self._settings)
        return Contents(text_hash(json_text(found)), lambda: found)

    def report(self) -> Report:
        """Whether it has a final run of its own, the data of a trial, and hashes of its source."""
        contents, has_final = self.contents, self.has_final
        return Report(has_final, contents.hashes(), contents.fingerprint, fraction=self._fraction)

    def run(self, config: Config, *, seed: int, folder: Path, progress: Progress | None = None) -> Outcome:
        """One trial. Writes `provenance.json`, `log.txt` and, where it is told, `curve.tsv` into `folder`.

        Raises:
            StudyError: the disk is full.
        """
        call = Call(with_alpha(config), seed, folder.resolve(), "search", self._settings.fraction, progress)
        return self._trial(call)

    def final(
        self,
        config: Config,
        *,
        seed: int,
        folder: Path,
        adapter: Path | None = None,
        progress: Progress | None = None,
    ) -> Outcome:
        """The same in phase `final`; what the trainer saves in `folder` is its own affair."""
        return self._trial(Call(with_alpha(config), seed, folder.resolve(), "final", 1.0, progress))

    def _trial(self, call: Call) -> Outcome:
        began = time.perf_counter()
        begun = os.path.lexists(call.folder)  # by an attempt before
        try:
            call.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(call.folder / "provenance.json", json_text(self._provenance(call)))
            begun = True
            found = self._trainer(call)
            outcome = self._outcome(found, call.folder, time.perf_counter() - began)
            if (curve := call.curve.curve()) is not None:
                table = io.StringIO()
                call.curve.write(table)
                write_atomically(call.folder / CURVE, table.getvalue())
            return replace(outcome, curve=curve)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise no_room(call.folder, error.errno) from None
            if not begun:  # the run's folder, not the trial's affair
                raise
            message = f"{error.filename or call.folder}: {error.strerror or error}"
            failure = Failure(FailureKind.CRASHED, f"the trial could not be run or kept: {message}")
            return Outcome(None, {}, time.perf_counter() - began, failure)

    def _outcome(self, found: Measured | Failure, folder: Path, seconds: float) -> Outcome:
        if isinstance(found, Measured) and not math.isfinite(found.result):
            found = Failure(FailureKind.DIVERGED, f"the result is {found.result:g}")
        if isinstance(found, Failure):
            return Outcome(None, {}, seconds, found)
        sign = 1.0 if self._settings.direction == "maximize" else -1.0
        metrics = {**found.metrics, "result": found.result}
        try:
            metrics |= self._keep_items(found, folder, sign)
            guards = {name: self._watched(name, guard, found, folder) for name, guard in self._guards.items()}
        except FloatingPointError as error:
            return Outcome(None, metrics, seconds, Failure(FailureKind.DIVERGED, str(error)))
        except ValueError as error:
            return Outcome(None, metrics, seconds, Failure(FailureKind.CRASHED, f"no result: {error}"))
        return Outcome(sign * found.result, metrics, seconds, guards=guards)

    def _keep_items(self, found: Measured, folder: Path, sign: float) -> dict[str, float]:
        """Writes the results of items where the trainer gives some, and says the interval of their mean.

        Raises:
            ValueError: the result is not their mean.
        """
        path = items_file(folder, self._metric.table)
        if found.items is None:
            path.unlink(missing_ok=True)  # of an attempt before
            return {}
        require_mean(found.items, found.result, "items")
        records = as_records(found.items, sign)
        _write_records(path, records)
        ends = confidence_interval(records, self._metric.name)
        found_ends = {} if ends is None else dict(zip(("low", "high"), ends, strict=True))
        return found_ends | {ITEMS: float(len(records))}

    def _watched(self, name: str, guard: OwnGuardConfig, found: Measured, folder: Path) -> GuardReading:
        """What became of a guard; keeps the results of its items where the trainer gives some.

        Raises:
            ValueError: it does not give what the guard asks for.
            FloatingPointError: a number of it is NaN or infinite.
        """
        if guard.items is None:
            return reading_of(name, guard, found.number)
        try:
            given = found.given(guard.items)
        except ValueError as error:
            raise ValueError(f"guard {name}: {error}") from None
        reading, records = reading_of_items(name, guard, found.number, given)
        _write_records(items_file(folder, f"guard-{name}"), records)
        return reading

    def _provenance(self, call: Call) -> dict[str, Any]:
        trainer = self._trainer
        return {
            "versions": {"loracle": __version__, "python": platform.python_version()},
            "config": call.config,
            **{name: str(v) if isinstance(v, Path) else v for name, v in call.values().items()},
            "command": trainer.shown(call) if isinstance(trainer, Command) else None,
            "function": self._settings.function,
        }


def _write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(json_text(record, None) for record in records))
