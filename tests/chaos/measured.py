"""A run that prints, after each trial, the resident memory of its driver and of all below it, in bytes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from loracle.config.loading import load_config
from loracle.records.events import Event, TrialFinished
from loracle.run.tune import tune


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def below(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    own = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return own + [deeper for child in own for deeper in below(child)]


def listen(event: Event) -> None:
    if isinstance(event, TrialFinished):
        workers = [resident(pid) for pid in below(os.getpid())]
        memory = {"driver": resident(os.getpid()), "workers": sum(workers)}
        print(json.dumps({"done": event.done, **memory}), flush=True)


if __name__ == "__main__":
    tune(load_config(sys.argv[1]), listen)
