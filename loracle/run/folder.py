"""A run's folder: made, held by one process, its config recorded; and read by commands that only look."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from loracle.config.loading import dump_config, load_config, parse_config
from loracle.config.placeholders import recorded_command
from loracle.config.settings import RunConfig, build_space
from loracle.errors import ConfigError, StudyError
from loracle.records.failures import DISK_ERRORS
from loracle.records.notices import FILE as NOTICES
from loracle.records.space import SearchSpace
from loracle.report.verdict.stored import FILE as VERDICT
from loracle.run.identity import require_same_settings
from loracle.run.storage.journal import is_journal
from loracle.run.storage.lock import LockedError, make_lock, run_lock
from loracle.run.storage.opening import begun_limits, binds, require_trials_here
from loracle.run.storage.signals import signals_as_interrupt
from loracle.text import secrets as secret
from loracle.text.files import write_atomically

_REPORTS = ("report.md", "report.html", "progress.png")


def open_run(path: Path) -> tuple[RunConfig, SearchSpace]:
    """The config and space of a run, given its folder or a config file that names it as output.

    Raises:
        LoracleError: there is no such run, or its config is malformed.
    """
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise StudyError(f"{path} is not a run folder: it has no config.yaml")
        try:
            config = load_config(path / "config.yaml").model_copy(update={"output": path.resolve()})
        except ConfigError as error:
            raise ConfigError(
                f"{error}. This is the config that the run keeps; loracle tune with the one that the run was "
                "begun with makes it again"
            ) from None
    else:
        config = load_config(path)
    return config, build_space(config.space)


def require_own(folder: Path) -> None:
    """Refuses a folder that holds files and was not begun by Loracle; nothing in it is touched.

    What Loracle makes first is `.lock`, with the number of its process; copies may lack it. A folder that is
    empty is nobody's.

    Raises:
        StudyError: it holds somebody else's files, or cannot be read.
    """
    try:
        names = sorted(os.listdir(folder), key=lambda name: (name.startswith("."), name))
        # Earlier versions made no lock in a folder that many processes share, but each in its own.
        locks = [folder / ".lock", *folder.glob("machines/*/.lock")]
        if not names or any(map(_is_lock, locks)) or is_journal(folder / "journal.log"):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be used: {error.strerror}") from None
    more = "" if len(names) == 1 else f" and {len(names) - 1:,} more"
    raise StudyError(
        f"output: {folder} holds {names[0]}{more}, which Loracle did not make; name a new or an empty folder"
    )


def _is_lock(path: Path) -> bool:
    return path.is_file() and re.fullmatch(rb"\d{0,20}", path.read_bytes()[:21]) is not None


@contextmanager
def own_folder(output: Path) -> Iterator[Path]:
    """Holds a folder for what one process alone writes: the first that is free of those of this machine."""
    require_own(output)
    _make_folder(output)
    make_lock(output)  # so that it is known for a run's
    machine = re.sub(r"[^\w.-]", "_", platform.node())
    for position in itertools.count():
        folder = output / "machines" / f"{machine}-{position}"
        with ExitStack() as stack:
            try:
                stack.enter_context(hold(folder))
            except LockedError:
                continue
            yield folder
            return


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Makes and holds the run's folder. Being told to end, by whatever signal, counts as Ctrl-C."""
    try:
        require_own(folder)
        _make_folder(folder)
        with run_lock(folder), signals_as_interrupt():
            yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise StudyError(
            f"{error.filename or folder}: {error.strerror}; nothing that was finished is lost, and "
            "the same command continues once there is room"
        ) from None


_LAST = list(RunConfig.model_fields)[-1]  # section of a config that was written as a whole


def require_recorded(config: RunConfig) -> None:
    """Holds the config of a run that is continued against the recorded one, once a trial counts; its trials
    have to be where they were from the first one on.

    A recorded config that is missing or damaged is made again: its settings stand in the study, too.
    """
    _require_places(config)
    require_trials_here(config.output, config.execution.storage)
    path = config.output / "config.yaml"
    if not path.exists() or not binds(config.output, config.execution.storage):
        return
    try:
        text = path.read_text(encoding="utf-8")
        before = parse_config(text, str(path))
    except (ConfigError, UnicodeDecodeError):
        return
    if f"\n{_LAST}:" not in text:  # cut short, where what is left can be read
        return
    require_same_settings(without_secrets(config), before)


def as_begun(config: RunConfig) -> RunConfig:
    """The config of a run that begins or goes on, with its limits: where it does not say what ends the search
    and how large trials are, what held when the run began.

    Raises:
        StudyError: the storage is damaged or out of reach, or somebody else's files are in the way.
    """
    _require_places(config)
    begun = begun_limits(config.output, config.execution.storage)
    return config.limited(begun)


def _require_places(config: RunConfig) -> None:
    """Refuses files of somebody else where the run makes folders, and folders where it makes files: else it
    would end there, after hours.

    Raises:
        StudyError: it says which.
    """
    best = "best.yaml" if config.objective else "best/"
    for name in ("trials/", "final/", best, "config.yaml", "journal.log", NOTICES, VERDICT, *_REPORTS):
        path, is_folder = config.output / name, name.endswith("/")
        if path.exists() and path.is_dir() != is_folder:
            there, made = ("file", "folder") if is_folder else ("folder", "file")
            raise StudyError(
                f"{path}: is a {there} where the run makes a {made}; move it away, or name another output"
            )


def record_config(config: RunConfig, own: Path | None = None) -> None:
    """Writes `config.yaml`.

    Args:
        own: of a process that shares the run folder: a folder where it alone writes. The first such process
            records its config.
    """
    path = config.output / "config.yaml"
    if own is not None and path.exists() and binds(config.output, config.execution.storage):
        return
    whole = (own or config.output) / "config.yaml"
    write_atomically(whole, dump_config(without_secrets(config)), private=True)
    os.replace(whole, path)


def without_secrets(config: RunConfig) -> RunConfig:
    """What a file may keep: passwords are left out, and other secrets are read from variables."""
    changes: dict[str, Any] = {}
    if (storage := config.execution.storage) is not None:
        execution = config.execution.model_copy(update={"storage": secret.recorded(storage)})
        changes["execution"] = execution
    if config.search.past:
        past = [
            one.model_copy(update={"path": secret.recorded(one.path)}) if "://" in one.path else one
            for one in config.search.past
        ]
        changes["search"] = config.search.model_copy(update={"past": past})
    if config.objective is not None:
        given, command = config.objective.environment, config.objective.command
        kept: dict[str, Any] = {
            "environment": {name: secret.recorded_value(name, value) for name, value in given.items()},
            "command": None if command is None else recorded_command(command),
        }
        changes["objective"] = config.objective.model_copy(update=kept)
    return config.model_copy(update=changes)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be made: {error.strerror}") from None
