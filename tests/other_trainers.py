"""Other people's trainers, whose parsers read what is exported for them and write what is imported.

`make` installs them without their dependencies into a folder that no environment loads; each is asked in a
process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(sys.prefix) / "other-trainers"


def ask(package: str, program: str, folder: Path) -> Any:
    """What a program prints last, as JSON, run in `folder`. Skips the test where the package is missing."""
    if not (FOLDER / package).is_dir():
        pytest.skip(
            f"{package} is not in {FOLDER}; `make test` installs it (tests/export/other-trainers.txt)"
        )
    environment = os.environ | {
        "PYTHONPATH": str(FOLDER),
        "DISABLE_VERSION_CHECK": "1",  # LLaMA-Factory names the newest transformers that it was tried with
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])
