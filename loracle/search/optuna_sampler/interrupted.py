"""Which trials of a study were cut short from outside, so that their configs are to be tried again.

Optuna keeps a trial whose process was killed as running, for ever. So each trial of `study.optimize` says
which process and thread runs it, and that it failed by an exception where it did. What that tells:

- On the same machine it is looked up whether the process is there, and whether the machine was started
  since. Of other machines, and of containers with process numbers of their own, it cannot be known: their
  trials count as running, until the storage's heartbeat makes them fail.
- A trial that has failed and never said why was made to fail by the heartbeat, or by hand.
- An exception of the objective says nothing about the machine: such a trial was not cut short. Ctrl-C was.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from copy import copy
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from loracle.records.failures import raised
from loracle.records.trial import FAILURE_KEY, FailureKind

ERROR_KEY = "loracle:error"  # what the objective raised, in one line
PROCESS_KEY = "loracle:process"  # who runs a trial; None: it has failed by itself
_ATTEMPTS = 3  # of a config whose process dies, after which the config is likely to be the cause
_CLOCK = 10.0  # seconds by which the time at which a process began may seem to move


def note_process(study: Study, trial: FrozenTrial) -> None:
    """Notes with a trial who runs it. One that is asked for and told may outlive who asked, and gets none."""
    if study._thread_local.in_optimize_loop:
        mine = {**_own_process(os.getpid()), "trial": trial.number, "thread": threading.get_ident()}
        study._storage.set_trial_system_attr(trial._trial_id, PROCESS_KEY, mine)


def note_failure(study: Study, trial: FrozenTrial) -> bool:
    """Notes with a trial that is about to fail whether that was Ctrl-C, and returns it; and what was raised.

    If not, it has failed by itself where it is told by who runs it, and was left behind where by another.
    """
    error = _raised()
    stopped = isinstance(error, KeyboardInterrupt)
    if isinstance(error, Exception):
        study._storage.set_trial_system_attr(trial._trial_id, ERROR_KEY, raised(error))
    if stopped and FAILURE_KEY not in trial.user_attrs:
        study._storage.set_trial_user_attr(trial._trial_id, FAILURE_KEY, str(FailureKind.INTERRUPTED))
    said = study._storage.get_trial_system_attrs(trial._trial_id).get(PROCESS_KEY)
    if study._thread_local.in_optimize_loop and said:
        study._storage.set_trial_system_attr(trial._trial_id, PROCESS_KEY, None)
    return stopped


def settled(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Trials with those that a process left behind as interrupted; as lost from the third on with the same
    parameters, as then they may be why it died."""
    found, left = [], Counter[str]()
    for frozen in trials:
        if _left_behind(frozen):
            key = repr(sorted(frozen.params.items()))
            left[key] += 1
            kind = FailureKind.INTERRUPTED if left[key] < _ATTEMPTS else FailureKind.LOST
            frozen = copy(frozen)
            frozen.state = TrialState.FAIL
            frozen.user_attrs = {FAILURE_KEY: str(kind), **frozen.user_attrs}
        found.append(frozen)
    return found


def was_interrupted(frozen: FrozenTrial) -> bool:
    """Whether a trial was cut short from outside, so that its config is to be tried again."""
    return bool(frozen.user_attrs.get(FAILURE_KEY) == FailureKind.INTERRUPTED)


def _left_behind(frozen: FrozenTrial) -> bool:
    said = frozen.system_attrs.get(PROCESS_KEY)
    if not isinstance(said, dict) or said.get("trial") != frozen.number:  # Optuna's retries copy attributes
        return False
    return frozen.state == TrialState.FAIL or (frozen.state == TrialState.RUNNING and _is_gone(said))


def _is_gone(said: dict[str, Any]) -> bool:
    """Whether the process, or the thread, that runs a trial is known not to be there any more."""
    mine = _own_process(os.getpid())
    if said.get("machine") != mine["machine"]:
        return False
    if said.get("boot") != mine["boot"]:
        return bool(mine["known"])
    if said.get("numbers") != mine["numbers"]:
        return False
    if said.get("pid") == mine["pid"] and said.get("began") == mine["began"]:
        others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        return said.get("thread") not in others  # this thread is about to choose another trial
    try:
        began: float = psutil.Process(int(said["pid"])).create_time()
        return abs(began - float(said["began"])) > _CLOCK
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError, KeyError, ValueError):
        return False


@cache
def _own_process(pid: int) -> dict[str, Any]:
    """This process, as others can tell it: the machine, since when it is up, whose process numbers hold."""
    known = _read("/etc/machine-id")
    machine = (socket.gethostname(), f"{uuid.getnode():x}", known)
    numbers = ""
    with contextlib.suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    return {
        "machine": " ".join(machine),
        "known": bool(known),  # containers with a host name that others have, too, have none
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "numbers": numbers,
        "pid": pid,
        "began": psutil.Process(pid).create_time(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _raised() -> BaseException | None:
    """What a trial of `study.optimize` that is being told has ended by, Ctrl-C among it.

    Optuna makes it fail, and keeps the cause where it is looked up here; None where that moves.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_run_trial":
        frame = frame.f_back
    error = frame.f_locals.get("func_err") if frame is not None else None
    return error if isinstance(error, BaseException) else None
