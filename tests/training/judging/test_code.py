"""Programs that a model writes: run with limits, and only where that is allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from loracle.config.metrics.settings import CodeConfig, ScoringConfig
from loracle.errors import ConfigError, DataError
from loracle.training.dataset.shapes import Example
from loracle.training.judging.code import CodeJudge, make, run_program
from loracle.training.judging.judge import asked

LIMITS = CodeConfig(tests=Path("none"), time_limit=4, memory_mb=300, processes=8)


@pytest.mark.parametrize(
    ("program", "passes"),
    [
        ("import json, re, math\nassert len('猫') == 1", True),
        ("open('here', 'w').write('x')\nassert open('here').read() == 'x'", True),
        ("assert 1 == 2", False),
        ("def f(:", False),
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        ("while True: pass", False),
        ("x = bytearray(2 << 30)", False),
        ("import os\nwhile True: os.fork()", False),
        ("f = open('a', 'wb')\nfor _ in range(100): f.write(b'x' * 10**6)", False),
        ("import os\nassert 'LORACLE_SECRET' in os.environ", False),
        ("def f(): f()\nf()", False),
    ],
)
def test_a_program_passes_where_it_comes_to_its_end_within_its_limits(
    program: str, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORACLE_SECRET", "x")
    assert run_program(program, LIMITS)[0] == passes


def test_nothing_that_a_program_started_lives_on(tmp_path: Path) -> None:
    mark = f"loracle-test-{os.getpid()}"
    program = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', '{mark}'], "
        "start_new_session=True)"
    )
    assert run_program(program, LIMITS)[0]
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in lines if mark in line]


@pytest.mark.skipif(not Path("/proc/self/ns/net").exists(), reason="a system without namespaces")
def test_where_the_system_can_a_program_reaches_neither_network_nor_files(tmp_path: Path) -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        program = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)"
        passed, said = run_program(program, LIMITS)
    if passed:
        pytest.skip("namespaces are not allowed here")
    assert "unreachable" in said
    outside = tmp_path / "outside"
    run_program(f"open({str(outside)!r}, 'w')", LIMITS)
    assert not outside.exists()


ROWS = [{"prompt": f"add {n}: ", "completion": f"def f(x): return x + {n}"} for n in range(30)]


def judge(tmp_path: Path, rows: list[dict[str, str]], **changes: Any) -> CodeJudge:
    path = tmp_path / "tests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"metric": "pass_at_1", "allow_code_execution": True, "code": {"tests": path}, **changes}
    return make("pass_at_1", ScoringConfig.model_validate(settings))


def test_answers_are_run_with_the_tests_of_their_task(tmp_path: Path) -> None:
    tests = [{"prompt": row["prompt"], "tests": f"assert f(1) == {n + 1}"} for n, row in enumerate(ROWS)]
    found = judge(tmp_path, tests)
    items = [asked(Example(f"t:{i}", **row), i) for i, row in enumerate(ROWS[:4])]
    found.check(items)
    references = [row["completion"] for row in ROWS[:4]]
    fenced = f"Sure:\n```python\n{references[1]}\n```\nHope it helps"
    wrong = references[0]
    assert found.rate([references[0], fenced, wrong, ""], references, items) == [1, 1, 0, 0]
    with pytest.raises(DataError, match="has no row whose prompt is 'add 29: '"):
        judge(tmp_path, tests[:-1]).check([asked(Example("t", **ROWS[-1]), 0)])
    with pytest.raises(ConfigError, match="does not pass its tests: AssertionError"):
        judge(tmp_path, [{**row, "tests": "assert f(1) == 99"} for row in tests]).check(items)
    with pytest.raises(ConfigError, match=r"tests.jsonl:1: a row has `prompt` and `tests`, both text"):
        judge(tmp_path, [{"prompt": "a"}])


def test_nothing_is_run_without_permission(run_config: Callable[..., Path], said: Callable[..., str]) -> None:
    config = run_config(scoring={"metric": "pass_at_1", "code": {"tests": "tests.jsonl"}})
    assert "pass_at_1 runs code that the model writes; set allow_code_execution" in said(
        "tune", config, refused=True
    )
    config = run_config(scoring={"metric": "pass_at_1", "code": None, "allow_code_execution": True})
    assert "needs scoring.code with a file of tests" in said("tune", config, refused=True)
