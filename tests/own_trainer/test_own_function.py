"""A user's function does what it wants with its process; it costs its own trial at most."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_runs import wait
from processes import PATIENCE
from test_own_trainer import objective, run

from loracle.cli import main
from loracle.config.loading import load_config
from loracle.config.user_function import load_function
from loracle.errors import ConfigError
from loracle.execution.executor import Job
from loracle.execution.local import LocalWorkers
from loracle.execution.messages import Alive, GarbledError, Hello, Stepped, line_of, message_of
from loracle.records.trial import FailureKind, Outcome
from loracle.run.worker import PROGRAM
from loracle.text.escape import printable

WILD = """
import logging, os, signal, socket, sys, threading, time
from pathlib import Path

HERE = os.getcwd()
SOCKET = next(int(fd) for fd in os.listdir("/proc/self/fd") if fd.isdigit() and int(fd) > 2
              and os.path.exists(f"/proc/self/fd/{fd}") and "socket" in os.readlink(f"/proc/self/fd/{fd}"))


def flood(fd):
    for _ in range(200):
        os.write(fd, b"x" * 99_999 + b"\\n")


def tell(content):
    os.write(SOCKET, content)
    time.sleep(0.2)


def thread():
    def work():
        for i in range(20):
            print("thread", i)
            time.sleep(0.01)
    threading.Thread(target=work).start()


def fork(child):
    if os.fork() == 0:
        child()


DEEDS = {
    "": lambda: None,
    "odd type": lambda: (_ for _ in ()).throw(type("A\\x1b[31m\\nB", (Exception,), {})("x\\x1b[2J\\ny")),
    "exit": lambda: sys.exit("bye"),
    "close output": lambda: (os.close(1), os.close(2)),
    "close everything": lambda: os.closerange(0, 1000),
    "close streams": lambda: (sys.stdout.close(), sys.stderr.close(), sys.__stdout__.close()),
    "elsewhere": lambda: os.chdir("/"),
    "fork": lambda: fork(lambda: None),
    "fork and fail": lambda: fork(lambda: 1 / 0),
    "fork and exit": lambda: fork(sys.exit),
    "flood": lambda: (flood(1), flood(2)),
    "thread": thread,
    "junk": lambda: tell(b"junk\\n"),
    "half": lambda: tell(b'{"kind": "progress", "step": 1'),
    "no line end": lambda: tell(b"x" * 5_000_000),
    "hello": lambda: tell(
        b'{"kind": "hello", "pid": 1}\\n{"kind": "ready", "report": null}\\n{"kind": "alive"}\\n'
    ),
}


def train(config, folder):
    name = (folder / "deed").read_text()
    print("before")
    DEEDS[name]()
    print("after")
    return {"value": 1.0, "at home": os.getcwd() == HERE, "pid": os.getpid()}
"""


@pytest.fixture
def deed(tmp_path: Path) -> Iterator[Callable[[int, str], Outcome]]:
    """Runs a trial that does something, in a warm worker."""
    (tmp_path / "wild.py").write_text(WILD)
    content = {
        "objective": {"function": "wild.py:train", "direction": "maximize"},
        "space": {"base": "empty", "knobs": {"rank": {"values": [1, 2]}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with LocalWorkers(load_config(tmp_path / "config.yaml"), PROGRAM) as workers:

        def do(number: int, name: str) -> Outcome:
            folder = tmp_path / f"{number:04d}"
            folder.mkdir()
            (folder / "deed").write_text(name)
            workers.submit(Job(number, {"rank": 1}, 0, folder))
            (done,) = wait(workers)
            return done.outcome

        yield do


HARMLESS = [
    "close output",
    "close streams",
    "elsewhere",
    "fork",
    "fork and fail",
    "fork and exit",
    "flood",
    "thread",
]


def test_what_harms_nobody_is_no_failure(deed: Callable[[int, str], Outcome], tmp_path: Path) -> None:
    """One worker does it all, and each trial begins where the first began."""
    pids = set()
    for number, name in enumerate(["", *HARMLESS, ""]):
        outcome = deed(number, name)
        assert outcome.failure is None, name
        assert outcome.value == 1.0
        log = (tmp_path / f"{number:04d}" / "log.txt").read_text()
        assert log.startswith("before\n"), name
        assert "after" in log  # a thread may print between a line and its end
        pids.add(outcome.metrics["pid"])
    assert len(pids) == 1
    worker = tmp_path / "run" / "workers" / "0.log"
    assert worker.stat().st_size <= 41_000_000
    assert outcome.metrics.get("attempts") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd type", r"A\\x1b\[31m\\nB: x\\x1b\[2J y"),
        ("close everything", "the worker ended with exit code|connection"),
        ("junk", r"something in the trial wrote into the connection of its worker: b'junk'"),
        ("half", 'wrote into the connection of its worker: b\'{"kind": "progress", "step": 1{"kind"'),
        ("no line end", "more than 4,000,000 bytes without a line end"),
    ],
)
def test_what_harms_a_worker_costs_its_trial(
    deed: Callable[[int, str], Outcome], name: str, message: str
) -> None:
    failure = deed(0, name).failure
    assert failure is not None
    assert failure.kind is FailureKind.CRASHED
    assert re.search(message, failure.message)
    assert failure.message.isprintable()
    assert deed(1, "").value == 1.0


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"junk",
        b"\xff\x00\x1b[31m",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"kind": "x"}',
        b'{"kind": []}',
        b'{"kind": "hello"}',
        b'{"kind": "hello", "pid": true}',
        b'{"kind": "hello", "pid": "1"}',
        b'{"kind": "progress", "step": "a", "total": 2, "loss": null}',
        b'{"kind": "progress", "step": 1, "total": 2, "loss": "a"}',
        b'{"kind": "progress", "step": 1.5, "total": 2, "loss": 1}',
        b'{"kind": "refused", "error": "StudyError", "message": null}',
        b'{"kind": "done", "bytes": 0, "outcome": {"value": "a"}}',
        b'{"kind": "done", "bytes": 0, "outcome": []}',
        b'{"kind": "done", "bytes": 0, "outcome": {"value": NaN, "metrics": {}, "seconds": 1, "failure": 0}}',
        b'{"kind": "done", "outcome": {"value": 1, "metrics": {}, "seconds": 1, "failure": null}}',
    ],
)
def test_what_is_no_message_is_shown_and_refused(line: bytes) -> None:
    with pytest.raises(GarbledError) as error:
        message_of(line)
    assert str(error.value) == printable(repr(line[:100]))


def test_messages_are_what_was_said() -> None:
    for message in (Alive(), Hello(5), Stepped(1, 0, None), Stepped(1, 2, 0.5)):
        assert message_of(line_of(message)) == message
    lost = message_of(line_of(Stepped(1, 2, math.nan)))
    assert isinstance(lost, Stepped)
    assert lost.loss is not None
    assert math.isnan(lost.loss)


def test_exceptions_that_cannot_say_what_they_are_cost_their_trial(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Odd(BaseException):\n    def __str__(self):\n        raise RuntimeError('no')\n\n\n"
        "def train(config):\n    raise Odd\n"
    )
    failure = run(objective(tmp_path, function="mine.py:train"), tmp_path).failure
    assert failure is not None
    assert failure.message == "Odd: it cannot say why"


def test_messages_that_are_not_due_change_nothing(deed: Callable[[int, str], Outcome]) -> None:
    assert [deed(0, "hello").value, deed(1, "").value] == [1.0, 1.0]


# -- progress and results ---------------------------------------------------------------------------

PROGRESS = """
import math
from decimal import Decimal

import numpy
import torch

VALUES = {values}


def train(config, progress):
    for step, total, loss in VALUES:
        progress(step, total, loss)
    return 1
"""


def test_progress_takes_numbers_of_all_kinds(tmp_path: Path) -> None:
    values = (
        "[(1, 2, numpy.float32(0.5)), (numpy.int64(2), 3.0, torch.tensor(0.25, requires_grad=True)),"
        " (torch.tensor(3), Decimal(4), Decimal('0.125')), (4, None, None), (5, 6, math.nan),"
        " (numpy.array(6), 7, numpy.array([0.5])), (7, 8, True + 0.5)]"
    )
    (tmp_path / "mine.py").write_text(PROGRESS.replace("{values}", values))
    seen: list[Any] = []
    outcome = run(
        objective(tmp_path, function="mine.py:train"), tmp_path, progress=lambda *step: seen.append(step)
    )
    assert outcome.value == 1.0
    assert [(s, t, loss) for s, t, loss in seen if loss is None or loss == loss] == [
        (1, 2, 0.5),
        (2, 3, 0.25),
        (3, 4, 0.125),
        (4, 0, None),
        (6, 7, 0.5),
        (7, 8, 1.5),
    ]
    assert math.isnan(seen[4][2])
    assert {tuple(map(type, step)) for step in seen} == {(int, int, float), (int, int, type(None))}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("[(1, 2, 'abc')]", "TypeError: progress(step, total, loss): loss is 'abc', not a number"),
        ("[('a', 2, None)]", "TypeError: progress(step, total, loss): step is 'a', not a whole number"),
        ("[(1, math.nan, 1)]", "TypeError: progress(step, total, loss): total is 'nan', not a whole number"),
        ("[(1.5, 2, 1)]", "TypeError: progress(step, total, loss): step is '1.5', not a whole number"),
        ("[(1, 2, 10 ** 400)]", "too large for a number"),
        ("[(10 ** 400, 2, 1)]", "not a whole number"),
        ("[(True, 2, 1)]", "step is 'True', not a whole number"),
        ("[(1, 2, [1, 2])]", "loss is '[1, 2]', not a number"),
        ("[(1, 2, '\\x1b[31m\\n')]", "loss is '\\x1b[31m\\n', not a number"),
    ],
)
def test_junk_as_progress_costs_the_trial_and_says_so(tmp_path: Path, values: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(PROGRESS.replace("{values}", values))
    failure = run(objective(tmp_path, function="mine.py:train"), tmp_path).failure
    assert failure is not None
    assert message in failure.message
    assert "in train" in failure.traceback_tail


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        ("{'value': numpy.float32(1.5)}", 1.5),
        ("{'value': torch.tensor([2.5])}", 2.5),
        ("numpy.array(1.5)", 1.5),
        ("1e308", 1e308),
        ("-1e160", -1e160),
        ("Decimal('0.5')", 0.5),
        ("numpy.bool_(True)", None),
        ("10 ** 400", None),
        ("numpy.array([1, 2])", None),
    ],
)
def test_results_of_all_kinds(tmp_path: Path, returned: str, value: float | None) -> None:
    code = f"from decimal import Decimal\nimport numpy, torch\n\ndef train(config):\n    return {returned}\n"
    (tmp_path / "mine.py").write_text(code)
    outcome = run(objective(tmp_path, function="mine.py:train"), tmp_path)
    assert outcome.value == value
    if value is None:
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.CRASHED
        assert "number" in outcome.failure.message


# -- finding it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def train(:", r"SyntaxError: invalid syntax \(.*/mine\.py, line 1\)"),
        ("import os\nimport no_such_thing", r"No module named 'no_such_thing' \(.*/mine\.py, line 2\)"),
        ("import beside\n", r"ZeroDivisionError: division by zero \(.*/beside\.py, line 3\)"),
        ("import sys\n\nsys.exit('usage: mine.py')", r"SystemExit: usage: mine\.py \(.*/mine\.py, line 3\)"),
        ("raise ValueError('a\\n\\x1b[31mb')", r"ValueError: a \\x1b\[31mb \(.*/mine\.py, line 1\)"),
        ("\0", "SyntaxError|ValueError"),
        ("async def train(config): pass", "is async, so nothing would wait for it; write `def`"),
        ("x = 1", r"module 'mine\w*' has no attribute 'train' \(.*/mine\.py\)"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_its_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "beside.py").write_text("# one\n\n1 / 0\n")
    (tmp_path / "mine.py").write_text(code)
    sys.modules.pop("beside", None)
    with pytest.raises(ConfigError) as error:
        objective(tmp_path, function="mine.py:train")
    assert re.search(message, str(error.value))
    assert str(error.value).isprintable()


def test_what_a_module_prints_on_import_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libraries do that patch others: `--json` stays JSON."""
    (tmp_path / "mine.py").write_text("print('patching everything')\n\n\ndef train(config):\n    return 1\n")
    objective(tmp_path, function="mine.py:train")
    assert capsys.readouterr() == ("", "patching everything\n")
    monkeypatch.setattr(sys, "argv", ["loracle", "doctor", str(tmp_path / "config.yaml"), "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["checks"]


def test_a_file_never_takes_the_place_of_another_module(tmp_path: Path) -> None:
    (tmp_path / "textwrap.py").write_text("def train(config):\n    return 5\n")
    import textwrap

    assert run(objective(tmp_path, function="textwrap.py:train"), tmp_path).value == 5
    assert sys.modules["textwrap"] is textwrap
    assert textwrap.shorten("a b", 5) == "a b"


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    """As metrics of two experiments are; what pickles and dataclasses look up is each one's own."""
    functions = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        code = f"class Found:\n    number = {number}\n\n\ndef train():\n    return Found()\n"
        (tmp_path / str(number) / "same_name.py").write_text(code)
        functions.append(load_function(f"{number}/same_name.py:train", tmp_path, "objective.function"))
    again = load_function("2/same_name.py:train", tmp_path, "scoring.metric")
    assert [function().number for function in (*functions, again)] == [1, 2, 2]
    assert functions[1].__module__ == again.__module__ != functions[0].__module__
    found = functions[0]()
    assert pickle.loads(pickle.dumps(found)).number == 1
    assert sys.modules[functions[0].__module__].train is functions[0]


# -- where a worker finds its own modules -----------------------------------------------------------


@pytest.mark.parametrize("name", ["yaml", "pydantic", "numpy", "socket", "typing", "loracle", "_socket"])
def test_workers_import_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('from the current folder')\n")
    (tmp_path / "mine.py").write_text("import beside\n\n\ndef train(config):\n    return beside.VALUE\n")
    (tmp_path / "beside.py").write_text("VALUE = 7\n")
    content = {
        "objective": {"function": "mine:train", "direction": "maximize"},
        "space": {"base": "empty", "knobs": {"rank": {"values": [1, 2]}}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path / "here")
    with LocalWorkers(load_config(tmp_path / "config.yaml"), PROGRAM) as workers:
        workers.submit(Job(0, {"rank": 1}, 0, tmp_path / "0000"))
        assert wait(workers)[0].outcome.value == 7  # while modules beside the function are found


def test_the_command_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit('from the current folder')\n")
    done = subprocess.run(
        [sys.executable, "-m", "loracle", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": str(Path(main.__code__.co_filename).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
