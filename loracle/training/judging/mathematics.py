"""Whether two answers are the same mathematics, by the package `math-verify`.

It runs in a process of its own: an answer such as 9^9^9^9 keeps a computer algebra system busy for ever, and
its own alarms do not end that. The process is kept from one trial to the next.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from loracle.config.metrics.settings import ScoringConfig
from loracle.errors import ConfigError
from loracle.training.judging.judge import Asked
from loracle.training.scoring.answers import finder

PROGRAM = Path(__file__).with_name("mathematics_program.py")
SECONDS = 10.0  # for one pair
_START_SECONDS = 120.0  # until the package is loaded


def make(name: str, settings: ScoringConfig) -> MathJudge:
    """The judge; its process starts with the first pair."""
    return MathJudge(settings)


class MathJudge:
    """Gives 1 to an answer that is what the reference is, else 0."""

    sources: Mapping[str, str] = MappingProxyType({})

    def __init__(self, settings: ScoringConfig) -> None:
        self._answer_in = finder(settings)
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, items: Sequence[Asked]) -> None:
        """Tries the package on a half."""
        if not self._compared("1/2", "0.5"):
            raise ConfigError("scoring.metric: math_equivalence: math-verify cannot tell 1/2 from 0.5 here")

    def rate(
        self, predictions: Sequence[str], references: Sequence[str], items: Sequence[Asked]
    ) -> list[float]:
        """Whether each prediction's answer is its reference's."""
        found = []
        for prediction, reference in zip(predictions, references, strict=True):
            ours, theirs = self._answer_in(prediction), self._answer_in(reference)
            found.append(float(ours is not None and theirs is not None and self._same(ours, theirs)))
        return found

    def _same(self, ours: str, theirs: str) -> bool:
        return bool(ours == theirs and ours) or self._compared(ours, theirs)

    def _compared(self, ours: str, theirs: str) -> bool:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([theirs, ours]).encode() + b"\n")
            process.stdin.flush()
            said = self._line(process, SECONDS)
        except BrokenPipeError:
            said = None
        if said is None:  # it takes for ever, or has taken all its memory
            self._end()
        return said == b"1\n"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-I", str(PROGRAM)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
            if self._line(self._process, _START_SECONDS) != b"ready\n":
                self._end()
                raise ConfigError(
                    "scoring.metric: math_equivalence: the package math-verify cannot be loaded"
                )
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """The next line that the process prints; None where it ends, or says nothing for so long."""
        assert process.stdout is not None
        end, said = time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                left = end - time.monotonic()
                if left <= 0 or not waiting.select(left):
                    return None
                part = os.read(process.stdout.fileno(), 4096)
                if not part:
                    return None
                said += part
        return said

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None

    def __del__(self) -> None:
        self._end()
