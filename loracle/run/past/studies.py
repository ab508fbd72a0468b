"""Searches that are over: an Optuna study, in a journal or a database, and a run of our own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from loracle.config.metrics import metric_of
from loracle.errors import ConfigError, StudyError
from loracle.records.trial import FailureKind, Trial
from loracle.run.folder import open_run
from loracle.run.past.result import Direction, Result, Source
from loracle.run.storage.database import open_database, sqlite_file
from loracle.run.storage.journal import DAMAGE, is_journal
from loracle.run.storage.opening import read_history
from loracle.search.optuna_sampler.history import failed_as
from loracle.text import secrets as secret
from loracle.text.escape import printable

_UNNAMED = "value"
_Found = TypeVar("_Found")


def is_study(path: Path) -> bool:
    """Whether a file is a journal of Optuna."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(10_000))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and "op_code" in first


def run_of(path: Path) -> Path | None:
    """The folder of our own run that a path is, or whose journal it is; None: it is none."""
    if path.is_dir():
        return path if (path / "config.yaml").is_file() and (path / "journal.log").is_file() else None
    return run_of(path.parent) if path.name == "journal.log" and is_journal(path) else None


def read_run(folder: Path) -> Source:
    """A run of our own: all metrics that it recorded, by their names.

    Raises:
        LoracleError: it cannot be read.
    """
    config, space = open_run(folder)
    history = read_history(folder, space, config.execution.storage)
    results = [Result(space.config(trial.index), _scores(trial, config.metric)) for trial in history.counted]
    names = {name for result in results for name in result.scores}
    return Source(str(folder), results, {name: _direction(name) for name in names})


def _scores(trial: Trial, metric: str) -> dict[str, float]:
    assert trial.outcome is not None
    failure = trial.outcome.failure
    if failure is not None:
        return {metric: math.nan} if failure.kind is FailureKind.DIVERGED else {}
    found = {name: value for name, value in trial.outcome.metrics.items() if _is_metric(name)}
    if (loss := trial.outcome.metrics.get("validation_loss")) is not None:
        found["loss"] = loss
    assert trial.outcome.value is not None
    return {**found, metric: metric_of(metric).read(trial.outcome.value)}


def _is_metric(name: str) -> bool:
    try:
        return metric_of(name).needs != "nothing"
    except (KeyError, ConfigError):
        return False


def _direction(metric: str) -> Direction:
    return "minimize" if metric_of(metric).less_is_better else "maximize"


def read_study(where: str | Path, name: str | None) -> Source:
    """An Optuna study, by the path of a journal or the URL of a database.

    Raises:
        ConfigError: it cannot be read, or there are several and none is named.
    """
    shown = str(where) if isinstance(where, Path) else secret.shown(where)
    storage = _asked(shown, where, lambda: _storage(where, shown))
    names = [one.study_name for one in _asked(shown, where, storage.get_all_studies)]
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        listed = ", ".join(printable(one, 60) for one in sorted(names)[:10]) or "none"
        what = "holds no one study" if name is None else f"holds no study {printable(name, 60)!r}"
        raise ConfigError(f"search.past: {shown} {what}; set study to one of: {listed}")
    study = _asked(shown, where, lambda: optuna.load_study(study_name=name, storage=storage))
    return _asked(shown, where, lambda: _source(study, f"{shown}, study {printable(name or '', 60)}"))


def _storage(where: str | Path, shown: str) -> BaseStorage:
    if isinstance(where, Path):
        return JournalStorage(JournalFileBackend(str(where)))
    file = sqlite_file(where)
    if file is not None and not file.exists():  # it would be made
        raise ConfigError(f"search.past: there is no file {file}")
    try:
        return open_database(shown, where)
    except StudyError as error:
        said = str(error).removeprefix("execution.storage: ")
        raise ConfigError(f"search.past: {said}") from None


def _asked(shown: str, where: str | Path, action: Callable[[], _Found]) -> _Found:
    try:
        return action()
    except (*DAMAGE, SQLAlchemyError, OSError) as error:
        said = str(error).strip() or type(error).__name__
        reason = printable(secret.scrubbed(said, str(where)).splitlines()[0], 200)
        raise ConfigError(f"search.past: {shown} cannot be read as an Optuna study: {reason}") from None


def _source(study: Study, name: str) -> Source:
    names = study.metric_names or [_UNNAMED, *(f"{_UNNAMED}_{i}" for i in range(1, len(study.directions)))]
    directions: dict[str, Direction] = {
        name: "minimize" if direction == StudyDirection.MINIMIZE else "maximize"
        for name, direction in zip(names, study.directions, strict=True)
    }
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    results = [Result(trial.params, _told(trial, names)) for trial in ended]
    only = names[0] if len(names) == 1 and study.metric_names is None else None
    return Source(name, results, directions, only)


def _told(trial: FrozenTrial, names: list[str]) -> dict[str, float]:
    """Scores of a trial; one that failed has diverged where it says so, as for `LoracleSampler`."""
    if trial.state == TrialState.COMPLETE:
        values = [value if math.isfinite(value) else math.nan for value in trial.values]
        return dict(zip(names, values, strict=True))
    diverged = trial.state == TrialState.FAIL and failed_as(trial) == FailureKind.DIVERGED
    return dict.fromkeys(names, math.nan) if diverged else {}
