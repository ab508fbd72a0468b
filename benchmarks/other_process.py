"""A program in an environment of its own, whose pins are not ours, that is spoken to by lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import weakref
from pathlib import Path
from typing import Any


class OtherProcess:
    """Runs a file of this folder with another interpreter; it ends with this object at the latest.

    Args:
        interpreter: environment variable that names it.
        program: the file's name.
    """

    def __init__(self, interpreter: str, program: str) -> None:
        self._process = subprocess.Popen(
            [os.environ[interpreter], str(Path(__file__).with_name(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        weakref.finalize(self, self._process.kill)

    def say(self, what: Any) -> None:
        """Writes one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """What its next line says; None once it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def close(self) -> int:
        """Tells it that nothing more comes; its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return self._process.wait()
