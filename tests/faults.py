"""An objective that fails as told, for tests of workers. Nothing in the package knows it.

`$LORACLE_FAULTS` is JSON: trial number to a kind, or to a list of kinds, one an attempt; "" succeeds.
"""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOARD: list[bytearray] = []


def _raise(error: Exception) -> None:
    raise error


def _work(seconds: float) -> None:
    """Without a word."""
    end, source = time.monotonic() + seconds, Path(__file__).read_text()
    while time.monotonic() < end:
        ast.unparse(ast.parse(source))


FAULTS: dict[str, Callable[[], Any]] = {
    "": lambda: None,
    "crash": lambda: _raise(ValueError("an injected crash")),
    "memory": lambda: _raise(MemoryError("an injected shortage")),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "hang": lambda: time.sleep(3600),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "work": lambda: _work(4.0),
    "leak": lambda: HOARD.append(bytearray(os.urandom(1)) * 80_000_000),
    "nan": lambda: None,
    "child": lambda: subprocess.Popen(["sleep", "3599"]),
    "detached": lambda: subprocess.Popen(["sleep", "3599"], start_new_session=True),
    "chatter": lambda: os.write(1, b"spam and eggs\n" * 200_000),
    "slow": lambda: time.sleep(1.0),
    "fill": lambda: None,
    "replace": lambda: None,
}


def train(config: dict[str, float], *, seed: int, folder: Path, phase: str) -> dict[str, float]:
    """A value that is best at rank 8 and a rate of 1e-3; the file `ran` counts the attempts."""
    name = folder.name
    with (folder / "ran").open("a") as file:
        file.write(f"{os.getpid()}\n")
    attempt = len((folder / "ran").read_text().splitlines()) - 1
    planned = json.loads(os.environ.get("LORACLE_FAULTS", "{}"))
    kinds = planned.get(str(int(name)) if name.isdigit() else name, "")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    kind = kinds[min(attempt, len(kinds) - 1)]
    FAULTS[kind]()
    if kind == "fill":
        (folder / "stuffing").write_bytes(bytes(10_000_000))
    if kind == "replace":
        shutil.rmtree(folder)
        folder.write_text("")
        raise ValueError("an injected crash")
    value = -abs(math.log2(config["rank"]) - 3) - abs(math.log10(config["learning_rate"]) + 3)
    return {"value": math.nan if kind == "nan" else value, "pid": os.getpid()}
