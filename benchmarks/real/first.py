"""The default search on a real model: Gemma 3 270M learns to make a record of a Debian package's line.

    make real                                     # or: python benchmarks/real/first.py

Fetches the model and makes the task where they are not there yet, then does what anybody does: writes a
config file and calls `loracle tune` on it. Nothing of the search is set, so it costs less than one training
on the 600 examples; then winner and standard settings are trained on all of them, and scored on 500 others.
The same command goes on with a search that was stopped.
"""

from __future__ import annotations

import os
import sys

import fetch
import tasks
from programme import ROOT, settings, write_config

RUN = ROOT / "build" / "real-first"


def main() -> None:
    task = tasks.TASKS["records"]
    try:
        fetch.prepare()
        tasks.prepare(task)
    except fetch.Missing as error:
        sys.exit(f"real: {error}")
    config = settings(task, output=str(RUN))
    del config["threads"]  # nothing else runs
    file = RUN.with_suffix(".yaml")
    write_config(file, config)
    fetch.say(f"loracle tune {os.path.relpath(file)}")
    # In place of this process, which may still hold what unpacking the model took.
    os.execv(sys.executable, [sys.executable, "-m", "loracle", "tune", str(file)])


if __name__ == "__main__":
    main()
