"""Programs that a model writes, run against the tests of their tasks: pass@1."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loracle.config.metrics.settings import CodeConfig, ScoringConfig
from loracle.errors import ConfigError, DataError
from loracle.text.escape import printable
from loracle.training.judging.judge import Asked, filled
from loracle.training.scoring.answers import finder

_PROGRAM = Path(__file__).with_name("sandbox_program.py")
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_GRACE = 2.0  # seconds beyond a program's, for the sandbox itself
_TRIED = 3  # references that are run before anything is trained
_MEGABYTE = 1 << 20


def make(name: str, settings: ScoringConfig) -> CodeJudge:
    """Raises ConfigError where running code was not allowed, or there are no tests."""
    if settings.code is None or not settings.allow_code_execution:
        raise ConfigError("scoring: pass_at_1 needs scoring.code and scoring.allow_code_execution: true")
    return CodeJudge(settings, settings.code)


class CodeJudge:
    """Runs each program with its tests in a process of its own, with limits."""

    def __init__(self, settings: ScoringConfig, code: CodeConfig) -> None:
        self._code = code
        self._answer_in = None if settings.answer_pattern is None else finder(settings)  # which strips
        self._tests, read = _read_tests(code.tests)
        self.sources = {"tests of programs": read}

    def check(self, items: Sequence[Asked]) -> None:
        """Every task needs tests, and the first references have to pass theirs."""
        for item in items:
            if self._tests_of(item) is None:
                raise DataError(
                    f"scoring.code.tests: {self._code.tests} has no row whose prompt is "
                    f"{printable(str(item['question']), 100)!r}"
                )
        for item in items[:_TRIED]:
            passed, said = self._passes(str(item["reference"]), item)
            if not passed:
                raise ConfigError(
                    f"scoring.code: the reference of {printable(str(item['question']), 60)!r} does not pass "
                    f"its tests: {printable(said.strip().splitlines()[-1] if said.strip() else '', 200)}"
                )

    def rate(
        self, predictions: Sequence[str], references: Sequence[str], items: Sequence[Asked]
    ) -> list[float]:
        """Whether each program passes its tests."""
        with ThreadPoolExecutor(self._code.parallel) as pool:
            return [float(passed) for passed, _ in pool.map(self._passes, predictions, items)]

    def _tests_of(self, item: Asked) -> str | None:
        return self._tests.get(str(item["question"]), self._tests.get(str(item["prompt"])))

    def _passes(self, prediction: str, item: Asked) -> tuple[bool, str]:
        """Whether it does, and what it printed."""
        found = prediction if self._answer_in is None else self._answer_in(prediction) or ""
        if fenced := _FENCE.search(found):
            found = fenced[1]
        values = {"answer": found, "prompt": str(item["question"]), "tests": self._tests_of(item) or ""}
        return run_program(filled(self._code.program, values), self._code)


def run_program(program: str, limits: CodeConfig) -> tuple[bool, str]:
    """Whether a program comes to its end within its limits, and the last of what it printed."""
    told = {
        "seconds": limits.time_limit,
        "memory": limits.memory_mb * _MEGABYTE,
        "file": limits.file_mb * _MEGABYTE,
        "processes": limits.processes,
    }
    with tempfile.TemporaryDirectory(prefix="loracle-code-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            process.communicate(program.encode("utf-8", "replace"), limits.time_limit + _GRACE)
            said = ""
        except subprocess.TimeoutExpired:
            said = f"it took more than {limits.time_limit:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode == 0, said or _printed(Path(folder) / "output.txt")


def _printed(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        return file.read().decode(errors="replace")
    return ""


def _read_tests(path: Path) -> tuple[dict[str, str], str]:
    """Tests by prompt, and the hash of their file. Raises ConfigError, in one line."""
    found = {}
    try:
        read = path.read_bytes()
        lines = read.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"scoring.code.tests: {path} cannot be read: {printable(str(error), 200)}"
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, tests = row["prompt"], row["tests"]
            if not isinstance(prompt, str) or not isinstance(tests, str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"scoring.code.tests: {path}:{number}: a row has `prompt` and `tests`, both text"
            ) from None
        found[prompt] = tests
    return found, hashlib.sha256(read).hexdigest()[:32]
