"""A run's folder: made, held by one process, its config recorded; and read by commands that only look."""

from __future__ import annotations

import itertools
import os
import platform
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loracle.config import RunConfig, build_space, dump_config, load_config
from loracle.errors import StudyError
from loracle.identity import require_same
from loracle.outcomes import DISK_ERRORS, write_atomically
from loracle.space import SearchSpace
from loracle.storage import LockedError, run_lock


def open_run(path: Path) -> tuple[RunConfig, SearchSpace]:
    """The config and space of a run, given its folder or a config file that names it as output.

    Raises:
        LoracleError: there is no such run, or its config is malformed.
    """
    if path.is_dir():
        if not (path / "config.yaml").exists():
            raise StudyError(f"{path} is not a run folder: it has no config.yaml")
        config = load_config(path / "config.yaml").model_copy(update={"output": path.resolve()})
    else:
        config = load_config(path)
    return config, build_space(config.space)


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial's files are in a run folder."""
    return folder / "trials" / f"{number:04d}"


@contextmanager
def own_folder(output: Path) -> Iterator[Path]:
    """Holds a folder for what one process alone writes: the first that is free of those of this machine."""
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
        _make_folder(folder)
        with run_lock(folder), _signals_as_interrupt():
            yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise StudyError(
            f"{error.filename or folder}: {error.strerror}; nothing that was finished is lost, and "
            "the same command continues once there is room"
        ) from None


def record_config(config: RunConfig, own: Path | None = None) -> None:
    """Writes `config.yaml`, or holds the config of a run that is continued against it.

    Args:
        own: of a process that shares the run folder: a folder where it alone writes. The first such process
            records its config.
    """
    path = config.output / "config.yaml"
    if path.exists():
        require_same(config, path)
        if own is not None:
            return
    whole = (own or config.output) / "config.yaml"
    write_atomically(whole, dump_config(config))
    os.replace(whole, path)


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"output: {folder} cannot be made: {error.strerror}") from None
