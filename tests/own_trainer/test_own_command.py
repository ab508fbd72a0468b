"""A user's command leaves and prints what it wants: a trial at most is lost, and no message does harm."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Loracle, write_config
from test_own_trainer import KNOBS, objective, run

from loracle.config.loading import load_config
from loracle.errors import ConfigError
from loracle.execution.executor import Job
from loracle.execution.local import LocalWorkers
from loracle.execution.messages import heading
from loracle.own_trainer.command import Command
from loracle.own_trainer.objective import ExternalObjective
from loracle.records.trial import FailureKind
from loracle.run.storage.opening import read_history
from loracle.run.worker import PROGRAM
from loracle.text.patterns import Pattern


@pytest.fixture
def printing(loracle: Loracle) -> Callable[..., tuple[int, str]]:
    """Runs the command in this process; gives its exit code and all that it prints."""

    def run(*arguments: object) -> tuple[int, str]:
        code, out, errors = loracle(*arguments)
        return code, out + errors

    return run


def config_file(folder: Path, script: str, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "objective": {"command": [sys.executable, "-c", script, "{rank}"], "direction": "maximize"},
        "space": {"base": "empty", "knobs": {"rank": {"values": [1, 2, 3, 4, 5, 6, 7, 8]}}},
        "search": {"trials": 8},
        "execution": {"workers": 0},
    }
    return write_config(folder / "config.yaml", content, changes)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("os.mkdir(F); open(F + '/x', 'w')", "the command wrote no result.json into the trial's folder"),
        ("os.symlink(F, F)", "result.json cannot be read: "),
        ("open(F, 'wb').write(b'\\xff\\xfe')", "result.json is not JSON"),
        ("open(F, 'w').write('1' * 5000)", "result.json is not JSON: Exceeds the limit"),
        ("open(F, 'w').write('{\"value\": ' + '1' * 400 + '}')", "too large for a number"),
        ("open(F, 'w').write('{\"value\": [1, 2]}')", "value in result.json is '[1, 2]', not a number"),
        (
            "open(F, 'w').write('{\"value\": 1, ' + ','.join(f'\"{i}\": 1' for i in range(2000)) + '}')",
            "more than 1,000",
        ),
        ("import shutil; shutil.rmtree(D)", "wrote no result.json"),
        ("import shutil; shutil.rmtree(D); open(D, 'w')", " "),
        ("os.remove(D + '/provenance.json'); os.mkdir(D + '/provenance.json'); exit(3)", " "),
        ("os.remove(D + '/log.txt'); os.mkdir(D + '/log.txt')", "wrote no result.json"),
        (
            "print('\\x1b]0;owned\\x07\\x1b[2J\\u202ex'); exit(3)",
            "exit code 3: \\x1b]0;owned\\x07\\x1b[2J\\u202ex",
        ),
        ("sys.stdout.buffer.write(b'\\xff\\x00\\xed\\xa0\\x80'); exit(3)", "exit code 3: "),
    ],
)
def test_what_a_command_leaves_costs_its_trial(tmp_path: Path, script: str, message: str) -> None:
    found = objective(tmp_path, f"import os, sys; D = sys.argv[4]; F = D + '/result.json'\n{script}")
    for _ in range(2):  # the second attempt finds what the first has left
        failure = run(found, tmp_path).failure
        assert failure is not None
        assert failure.kind is FailureKind.CRASHED
        assert message in failure.message
        assert failure.message.isprintable()


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    script = "import sys; open(sys.argv[4] + '/result.json', 'wb').write(b'\\xef\\xbb\\xbf{\"value\": 0.5}')"
    assert run(objective(tmp_path, script), tmp_path).value == 0.5


def test_a_pattern_that_never_ends_fails_its_trial_and_ends_the_command(tmp_path: Path) -> None:
    script = "import time; print('a' * 60 + '!', flush=True); time.sleep(3600)"
    objective(tmp_path, script, result={"regex": "(a|aa)+$"})
    settings = load_config(tmp_path / "config.yaml").objective
    assert settings is not None
    pattern = Pattern("(a|aa)+$", "objective.result.regex", seconds=0.2)
    found = ExternalObjective(settings, Command(settings, pattern=pattern), asked=())
    failure = run(found, tmp_path).failure
    assert failure is not None
    assert failure.message.startswith(
        "no result: objective.result.regex: '(a|aa)+$' took more than 0.2 s on a"
    )


def test_a_folder_that_is_not_there_is_refused_when_the_run_begins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective\.working_folder: there is no folder .*/nowhere"):
        objective(tmp_path, command=["true", *KNOBS], working_folder="nowhere")


def test_variables_too_large_for_any_program_cost_trials(tmp_path: Path) -> None:
    found = objective(tmp_path, command=["true", *KNOBS], environment={"HUGE": "x" * 200_000})
    failure = run(found, tmp_path).failure
    assert failure is not None
    assert failure.kind is FailureKind.CRASHED
    assert "Argument list too long" in failure.message


@pytest.mark.parametrize(
    "name", ["outcome.json", "./provenance.json", "log.txt", "log-2.txt", "attempt-1.json", "log.txt/x"]
)
def test_a_result_in_a_file_of_loracle_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.yaml:\d+: objective\.result: json: Loracle itself writes"
    ):
        objective(tmp_path, "pass", result={"json": name})
    objective(tmp_path, "pass", result={"json": f"my_{name.strip('./')}"})


def test_a_command_that_closes_its_output_still_has_its_time_limit(tmp_path: Path) -> None:
    script = "import os, time; print('bye', flush=True); os.close(1); os.close(2); time.sleep(3600)"
    failure = run(objective(tmp_path, script, time_limit=1.0), tmp_path).failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT
    assert failure.traceback_tail == "bye\n"


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"time_limit": 5}, "where nothing keeps a time_limit"),
        ({"executor": "ray"}, "Ray needs workers: 1 or more"),
    ],
)
def test_what_only_workers_can_give_is_refused_without_them(
    printing: Callable[..., tuple[int, str]], tmp_path: Path, execution: dict[str, Any], message: str
) -> None:
    path = config_file(tmp_path, "pass", execution=execution)
    code, printed = printing("tune", path)
    assert code == 2
    assert message in printed
    assert not (tmp_path / "run" / "trials").exists()


def test_an_output_that_no_folder_can_be_is_bad(
    printing: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = config_file(tmp_path, "pass", output="x" * 300)
    for command in ("doctor", "tune"):
        code, printed = printing(command, path)
        assert code == 2
        assert "File name too long" in printed


# -- whole runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_terminal_sees_what_a_crashing_command_prints(
    printing: Callable[..., tuple[int, str]], tmp_path: Path, workers: int
) -> None:
    nasty = "\\x1b]0;owned\\x07\\x1b[2J\\u202e[red]x[/nothing]\\r"
    path = config_file(tmp_path, f"print('{nasty}'); exit(3)", execution={"workers": workers})
    code, printed = printing("tune", path)
    assert code == 2
    assert "exit code 3: \\x1b]0;owned\\x07\\x1b[2J\\u202e[red]x[/nothing]" in printed
    for command in (("show", path), ("show", path, "--json"), ("doctor", path)):
        printed += printing(*command)[1]
    assert all(character.isprintable() or character == "\n" for character in printed)
    raw = (tmp_path / "run" / "trials" / "0000" / "log.txt").read_bytes()
    assert b"\x1b]0;owned\x07" in raw  # the log is as it was printed


@pytest.mark.parametrize("kind", ["command", "function"])
def test_scores_of_every_size_pass_through_a_whole_run(
    printing: Callable[..., tuple[int, str]], tmp_path: Path, kind: str
) -> None:
    scores = [1e308, -1e308, 1e160, -1e160, 5e-324, 0.0, 3.0, 1.7e308]
    code = f"SCORES = {scores}\n\n\ndef train(config):\n    return SCORES[config['rank'] - 1]\n"
    (tmp_path / "mine.py").write_text(code)
    if kind == "function":
        objective: dict[str, Any] = {"function": "mine.py:train", "command": None}
    else:
        script = "import sys, mine; print('score', mine.train({'rank': int(sys.argv[1])}))"
        objective = {
            "command": [sys.executable, "-c", script.replace("{", "{{").replace("}", "}}"), "{rank}"],
            "result": {"regex": r"score (\S+)"},
        }
    path = config_file(tmp_path, "", objective=objective)
    code_, printed = printing("tune", path)
    assert code_ == 0, printed
    config = load_config(path)
    from loracle.config.settings import build_space

    space = build_space(config.space)
    history = read_history(config.output, space)
    found = {space.config(t.index)["rank"]: t.outcome.value for t in history.trials if t.outcome}
    assert found == dict(enumerate(scores, start=1))
    shown = json.loads(printing("show", path, "--json")[1])
    assert len(shown["trials"]) == 8
    best = yaml.safe_load((tmp_path / "run" / "best.yaml").read_text())
    assert "8" in str(best)
    assert max(map(len, printed.splitlines())) < 300  # no number of 300 digits


def test_secrets_of_the_environment_are_in_no_file_of_a_trial_and_in_no_message(
    printing: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    script = "import os, sys; print('score', float(sys.argv[1]) * (len(os.environ['TOKEN']) == 9))"
    path = config_file(
        tmp_path,
        script,
        objective={"environment": {"TOKEN": "hunter2-{rank}"}, "result": {"regex": r"score (\S+)"}},
    )
    printed = printing("doctor", path)[1] + printing("tune", path)[1] + printing("show", path, "--json")[1]
    assert "hunter2" not in printed
    written = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len([file for file in written if file.name == "log.txt"]) >= 8
    kept = [file.name for file in written if b"hunter2" in file.read_bytes()]
    assert set(kept) <= {"config.yaml"}  # which is for its owner alone
    for name in kept:
        assert os.stat(tmp_path / "run" / name).st_mode & 0o077 == 0
    scores = [
        re.findall(r"^score (\S+)", file.read_text(), re.M) for file in written if file.name == "log.txt"
    ]
    assert sorted(float(score) for (score,) in scores) == [1, 2, 3, 4, 5, 6, 7, 8]  # it had the variable


def test_the_log_of_a_worker_says_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n\n\ndef train(config):\n"
        "    for i in range(40_000):\n        os.write(1, b'%099d\\n' % i)\n    return 1\n"
    )
    path = config_file(
        tmp_path, "", objective={"function": "mine.py:train", "command": None}, execution={"workers": 1}
    )
    log = tmp_path / "run" / "workers" / "0.log"
    with LocalWorkers(load_config(path), PROGRAM) as workers:
        for number in range(2):
            workers.submit(Job(number, {"rank": 1}, 0, tmp_path / f"{number:04d}"))
            while not workers.wait(1.0, lambda *_: None):
                pass
        workers.wait(0.5, lambda *_: None)
    content = log.read_bytes()
    said = re.match(rb"\.\.\. ([\d,]+) bytes before are left out here \.\.\.\n", content)
    assert said is not None
    assert len(content) <= 1_000_000
    headings = len(heading("worker") + heading("trial 0000") + heading("trial 0001"))
    assert int(said[1].replace(b",", b"")) + len(content) - len(said[0]) == 2 * 4_000_000 + headings
    assert content.endswith(b"%099d\n" % 39_999)
