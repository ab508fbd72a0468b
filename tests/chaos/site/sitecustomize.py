"""Makes trainings fail as planned, in every Python that has this folder on its path: here, Loracle's workers.

`$LORACLE_CHAOS` names a JSON file. `faults`: trial number to a list of faults, one an attempt; "" is none. A
fault strikes in the middle of a training, after its third step. `largest_rank`: above it, memory always runs
out. The package knows nothing of this.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def _raise(error: Exception) -> None:
    raise error


def _break_adapter(objective: Any) -> None:
    import torch

    with torch.no_grad():
        for parameter in objective.base.model.parameters():
            if parameter.requires_grad:
                parameter.fill_(math.nan)


def _turn_forever() -> None:
    while True:
        sorted(range(1000), key=lambda number: -number)


FAULTS: dict[str, Any] = {
    "": lambda objective: None,
    "nan": _break_adapter,
    "memory": lambda objective: _raise(MemoryError("an injected shortage")),
    "crash": lambda objective: _raise(ValueError("an injected crash")),
    "segfault": lambda objective: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda objective: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda objective: os._exit(3),
    "busy": lambda objective: _turn_forever(),
    "hang": lambda objective: time.sleep(3600),
    "stop": lambda objective: os.kill(os.getpid(), signal.SIGSTOP),
}


def _install(module: Any) -> None:
    plan = json.loads(Path(os.environ["LORACLE_CHAOS"]).read_text())
    original = module.TrainingObjective.run

    def run(self: Any, config: Any, *, seed: int, folder: Path, progress: Any = None, **more: Any) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "ran").open("a") as file:
            file.write(f"{os.getpid()}\n")
        attempt = len((folder / "ran").read_text().splitlines()) - 1
        kinds = plan["faults"].get(str(int(folder.name))) or [""]
        if kinds == [""] and config["rank"] > plan["largest_rank"]:
            kinds = ["memory"]
        fault = FAULTS[kinds[min(attempt, len(kinds) - 1)]]

        def strike(step: int, total: int, loss: float | None, *part: Any) -> None:
            progress(step, total, loss, *part)
            if step == 3:
                fault(self)

        return original(self, config, seed=seed, folder=folder, progress=strike, **more)

    module.TrainingObjective.run = run


class _Finder(importlib.abc.MetaPathFinder):
    """Installs the faults as soon as the trainer is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "loracle.training.objective":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        load = loader.exec_module

        def load_and_install(module: Any) -> None:
            load(module)
            _install(module)

        loader.exec_module = load_and_install
        return spec


if "LORACLE_CHAOS" in os.environ:
    sys.meta_path.insert(0, _Finder())
