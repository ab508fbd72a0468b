"""Runs that are killed with signal 9 when they tell of something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from places import PACKAGE

_PROGRAM = """
import os, sys
from pathlib import Path
from loracle.config.loading import load_config
from loracle.run.tune import tune

def listen(event):
    if type(event).__name__ == sys.argv[2] and sys.argv[3] in str(event):
        os.kill(os.getpid(), 9)

tune(load_config(Path(sys.argv[1])), listen)
"""


def killed(path: Path, event: str, part: str) -> None:
    """The run of this config, killed at the first event of this type whose text holds `part`."""
    ended = subprocess.run([sys.executable, "-c", _PROGRAM, path, event, part], cwd=PACKAGE.parent)
    assert ended.returncode == -9
