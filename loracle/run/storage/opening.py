"""A run's study, found where it was recorded, opened, and held against what it was when it began."""

from __future__ import annotations

import functools
import itertools
import json
import os
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from loracle.config.search.limits import DEFAULT_BUDGET, Begun
from loracle.errors import StudyError
from loracle.records.contents import require_same_contents
from loracle.records.space import SearchSpace
from loracle.records.trial import FAILURE_KEY, History
from loracle.run.identity import (
    BINDING,
    Identity,
    require_common_settings,
    require_same_space,
)
from loracle.run.storage.journal import STUDY_NAME
from loracle.run.storage.storage import NoRunError, Storage, open_storage, open_to_read, storage_name
from loracle.run.storage.study import ROOM_KEY, WIDTH_KEY, Study

_SPACE_KEY = "loracle:space"
_SETTINGS_KEY = "loracle:settings"
_CONTENTS_KEY = "loracle:contents"
_BUDGET_KEY = "loracle:default_budget"


def open_study(
    folder: Path, space: SearchSpace, storage: str | None = None, *, identity: Identity | None = None
) -> Study:
    """Opens the storage of a run, or starts one.

    Args:
        folder: the run folder; its name is the study's name in a database.
        space: what is searched.
        storage: URL of a database; None: the journal in the run folder.
        identity: what the run is made of; compared with what it was when it began. None: not compared.

    Raises:
        StudyError: the storage cannot be reached, is damaged, or belongs to another run.
    """
    binding = binds(folder, storage)
    if storage is None:
        _refuse_unreadable(folder, space, identity, binding)
    opened = open_storage(folder, storage)
    name = _study_name(folder, storage)
    study = _optuna_study(opened, name)
    found = Study(study, space, opened)
    begun = found.records()
    # Of machines that start at the same time the first one decides; one alone may correct itself.
    alone = not opened.shared or (len(begun) > 0 and all(trial.state.is_finished() for trial in begun))
    if identity is not None:
        _hold_identity(found, name, identity, binding=binding, may_change=alone and not binding)
    mine = not begun and not opened.shared
    known = _held(opened, study, _SPACE_KEY, space.fingerprint, late=not begun, change=mine)
    require_same_space(opened.where, known, space.fingerprint)
    return found


def binds(folder: Path, storage: str | None) -> bool:
    """Whether a run has a trial that counts, so that what it is made of must not change any more.

    Raises:
        StudyError: the storage is damaged or out of reach.
    """
    return any(
        trial.state == TrialState.COMPLETE or trial.user_attrs.get(FAILURE_KEY) in BINDING
        for trial in _trials(folder, storage)
    )


def require_trials_here(folder: Path, storage: str | None) -> None:
    """Refuses a storage that is not the one which the trials of a run folder are recorded in.

    Else their files would be overwritten, and final results be taken for those of another search.

    Raises:
        StudyError: the folder holds trials or results that are recorded elsewhere, or nowhere.
    """
    journal = folder / "journal.log"
    if storage is not None and _trials(folder, None):
        raise StudyError(
            f"{folder}: the trials of this run are recorded in {journal}, and not in "
            f"{storage_name(folder, storage)}; leave execution.storage out, or use another output"
        )
    left = [name for name in ("trials", "final") if _holds_files(folder / name)]
    if left and not _trials(folder, storage):
        raise StudyError(
            f"{folder}: holds {' and '.join(f'{name}/' for name in left)} of an earlier search, but no trial "
            f"of it is recorded in {storage_name(folder, storage)}; restore it or set execution.storage as "
            "it was to go on, or use another output to begin anew"
        )


def _trials(folder: Path, storage: str | None) -> list[FrozenTrial]:
    """The trials of a run as they are recorded; none where there is no run."""
    begun = _begun(folder, storage)
    return [] if begun is None else begun[0].ask(lambda: begun[1].get_trials(deepcopy=False))


def _begun(folder: Path, storage: str | None) -> tuple[Storage, optuna.Study] | None:
    """The study of a run to be read, and where it is; None where there is no run."""
    if storage is None and not (folder / "journal.log").exists():
        return None
    try:
        opened = open_to_read(folder, storage)
    except NoRunError:
        return None
    study = _existing(opened, _study_name(folder, storage))
    return None if study is None else (opened, study)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _hold_identity(found: Study, name: str, identity: Identity, *, binding: bool, may_change: bool) -> None:
    """Records what a run is made of, as long as nothing binds; compares it from then on."""
    opened, study = found.storage, found.optuna
    found.recorded_late = binding and _CONTENTS_KEY not in opened.ask(lambda: study.user_attrs)
    contents = dict(identity.contents)
    known = _held(opened, study, _CONTENTS_KEY, contents, change=may_change)
    require_same_contents(opened.where, known, contents)
    if identity.settings is not None:
        settings = json.loads(json.dumps(identity.settings))
        known = _held(opened, study, _SETTINGS_KEY, settings, change=may_change)
        require_common_settings(opened.where, name, known, settings)
    _held(opened, study, _BUDGET_KEY, DEFAULT_BUDGET, change=may_change, late=not binding)
    if opened.shared:
        found.room_key = f"{ROOM_KEY}:{identity.machine}"
    _held(opened, study, found.room_key, identity.room, change=not found.records())
    if identity.together is not None:
        _held(opened, study, WIDTH_KEY, identity.together, change=not found.records())


def _held(
    opened: Storage, study: optuna.Study, key: str, now: Any, *, change: bool, late: bool = True
) -> Any:
    """What the study holds under a key; `now` is written where there is nothing (if `late`), or `change`."""
    known = opened.ask(lambda: study.user_attrs)
    if (late and key not in known) or (change and known.get(key) != now):
        opened.ask(lambda: study.set_user_attr(key, now))
        known = opened.ask(lambda: study.user_attrs)  # another process may have been faster
    return known.get(key)


def read_history(folder: Path, space: SearchSpace, storage: str | None = None) -> History:
    """The trials of a run that may be going on in another process; nothing is written.

    Raises:
        StudyError: there is no run in this folder or database, or its storage is damaged.
    """
    study = _open_to_read(folder, space, storage)
    return History() if study is None else study.history()


def read_contents(folder: Path, storage: str | None = None) -> dict[str, str]:
    """Hashes of what a run is made of, by name; none of one that has not begun. Raises as `read_history`."""
    opened = open_to_read(folder, storage)
    study = _existing(opened, _study_name(folder, storage))
    return {} if study is None else _contents(opened, study)


def begun_with(folder: Path, storage: str | None) -> dict[str, str]:
    """What a run was made of when it began, as `read_contents`; nothing where there is none."""
    begun = _begun(folder, storage)
    return {} if begun is None else _contents(*begun)


def begun_space(folder: Path) -> str | None:
    """Fingerprint of the space that the journal of a run folder is of; None where there is none."""
    begun = _begun(folder, None)
    return None if begun is None else begun[0].ask(lambda: begun[1].user_attrs).get(_SPACE_KEY)


def begun_limits(folder: Path, storage: str | None) -> Begun | None:
    """What limited a run when it began that goes on, where its config does not say; None of one that begins.

    Of a run that began before there was a default budget there is none.

    Raises:
        StudyError: the storage is damaged or out of reach.
    """
    begun = _begun(folder, storage)
    if begun is None or not binds(folder, storage):
        return None
    opened, study = begun
    attributes = opened.ask(lambda: study.user_attrs)
    settings = attributes.get(_SETTINGS_KEY) or {}
    return Begun(attributes.get(_BUDGET_KEY), settings.get("data.trial_cost"))


def _contents(opened: Storage, study: optuna.Study) -> dict[str, str]:
    return dict(opened.ask(lambda: study.user_attrs).get(_CONTENTS_KEY, {}))


def _open_to_read(folder: Path, space: SearchSpace, storage: str | None) -> Study | None:
    """What is there now; None: a run whose first record is being written."""
    opened = open_to_read(folder, storage)
    name = _study_name(folder, storage)
    study = _existing(opened, name)
    if study is None and opened.shared:
        raise StudyError(f"{opened.where}: there is no run {name!r} here; start it with loracle tune")
    return None if study is None else Study(study, space, opened)


def _refuse_unreadable(folder: Path, space: SearchSpace, identity: Identity | None, binding: bool) -> None:
    """Raises what opening a journal would, before anything in it is repaired.

    A journal of another space in which nothing binds is set aside, with its trials.
    """
    if not (folder / "journal.log").exists():
        return
    opened = open_to_read(folder, None)
    study = _existing(opened, STUDY_NAME)
    if study is None:
        return
    attributes, begun = study.user_attrs, bool(study.get_trials(deepcopy=False))
    where, known = storage_name(folder, None), attributes.get(_SPACE_KEY)
    if not binding and known is not None and known != space.fingerprint:
        if begun:
            _set_aside(folder)
        return
    if binding and identity is not None and _CONTENTS_KEY in attributes:
        require_same_contents(where, attributes[_CONTENTS_KEY], identity.contents)
    if begun or known is not None:
        require_same_space(where, known, space.fingerprint)
    Study(study, space, opened).history()


def _set_aside(folder: Path) -> None:
    """Gives the journal and the trials of a run that never counted another name: nothing is lost."""
    number = next(n for n in itertools.count(1) if not (folder / f"journal.{n}.log").exists())
    if (folder / "trials").exists():
        os.replace(folder / "trials", folder / f"trials.{number}")
    os.replace(folder / "journal.log", folder / f"journal.{number}.log")


def _optuna_study(opened: Storage, name: str) -> optuna.Study:
    """The study of this name, made where there is none; opening one that is there writes nothing."""
    make = functools.partial(optuna.create_study, direction="maximize", load_if_exists=True)
    return _existing(opened, name) or opened.ask(lambda: make(storage=opened.optuna, study_name=name))


def _existing(opened: Storage, name: str) -> optuna.Study | None:
    if name not in {study.study_name for study in opened.ask(opened.optuna.get_all_studies)}:
        return None
    return opened.ask(lambda: optuna.load_study(storage=opened.optuna, study_name=name))


def _study_name(folder: Path, storage: str | None) -> str:
    return STUDY_NAME if storage is None else f"{STUDY_NAME}:{folder.name}"
