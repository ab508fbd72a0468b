"""The shortest search that means something on a real model: Gemma 3 270M learns to hyphenate words.

    make real                                     # or: python benchmarks/real/first.py

Fetches the model and makes the task where they are not there yet, then does what anybody does: writes a
config file and calls `loracle tune` on it. Six trials on 200 of 600 words, then the winner and the standard
settings on all of them, scored on 500 others. The same command goes on with a search that was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys

import fetch
import tasks
from programme import ROOT, settings, write_config

RUN = ROOT / "build" / "real-first"
N_TRIALS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    given = parser.parse_args()
    task = tasks.TASKS["hyphens"]
    try:
        fetch.prepare()
        tasks.prepare(task)
    except fetch.Missing as error:
        sys.exit(f"real: {error}")
    config = settings(task, output=str(RUN), search={"trials": given.trials})
    del config["threads"]  # nothing else runs
    file = RUN.with_suffix(".yaml")
    write_config(file, config)
    fetch.say(f"loracle tune {os.path.relpath(file)}")
    # In place of this process, which may still hold what unpacking the model took.
    os.execv(sys.executable, [sys.executable, "-m", "loracle", "tune", str(file)])


if __name__ == "__main__":
    main()
