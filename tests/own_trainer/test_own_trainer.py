"""Trainers of the user's own, with real processes and real signals."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_config
from places import ROOT
from processes import PATIENCE, alive, gone

from loracle.config.loading import dump_config, load_config, parse_config
from loracle.config.settings import RunConfig
from loracle.errors import ConfigError
from loracle.own_trainer.objective import ExternalObjective
from loracle.records.trial import FailureKind, Outcome
from loracle.run.folder import open_run
from loracle.run.storage.opening import read_history

EXAMPLE = ROOT / "examples" / "command"
CONFIG = {"rank": 8, "alpha_ratio": 2, "alpha": 16, "learning_rate": 1e-5}
SPACE = {
    "base": "empty",
    "knobs": {
        "rank": {"values": [2, 4, 8], "scale": "log2"},
        "alpha_ratio": {"values": [1, 2], "scale": "log2"},
        "learning_rate": {"values": [1e-5, 1e-4, 1e-3], "scale": "log10"},
    },
}
KNOBS = ["{rank}", "{alpha}", "{learning_rate}"]


def objective(folder: Path, script: str = "", **settings: Any) -> ExternalObjective:
    """Runs `script` in Python; its arguments are rank, alpha and learning rate, then the trial's folder."""
    if "function" not in settings:
        settings = {"command": [sys.executable, "-c", _escape(script), *KNOBS, "{folder}"], **settings}
    content = {
        "objective": {"direction": "maximize", **settings},
        "space": SPACE,
        "output": str(folder / "run"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return ExternalObjective.from_config(load_config(folder / "config.yaml"))


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def run(objective: ExternalObjective, folder: Path, **options: Any) -> Outcome:
    return objective.run(CONFIG, seed=5, folder=folder / "trials" / "0007", **options)


def wait_for(path: Path, seconds: float = PATIENCE) -> str:
    end = time.monotonic() + seconds
    while not (path.exists() and path.read_text().endswith("\n")) and time.monotonic() < end:
        time.sleep(0.02)
    return path.read_text()


# -- a command: what it gives -----------------------------------------------------------------------


def test_the_result_is_a_number_in_a_file(tmp_path: Path) -> None:
    script = (
        "import json, sys; print('hello')\n"
        "eval = {'loss': float(sys.argv[1]) / 4, 'accuracy': 0.5, 'when': 'today', 'bad': float('nan')}\n"
        "json.dump({'log': [{'eval': {}}, {'eval': eval}]}, open(sys.argv[4] + '/result.json', 'w'))"
    )
    found = objective(
        tmp_path, script, result={"json": "result.json", "key": "log.-1.eval.loss"}, direction="minimize"
    )
    outcome = run(found, tmp_path)
    assert outcome.value == -2.0  # larger is better inside
    assert outcome.metrics == {"result": 2.0, "accuracy": 0.5}
    folder = tmp_path / "trials" / "0007"
    assert "hello" in (folder / "log.txt").read_text()
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["command"][3:] == ["8", "16", "0.00001", str(folder)]
    assert (provenance["seed"], provenance["number"], provenance["phase"]) == (5, 7, "search")


def test_the_result_is_the_last_match_in_what_is_printed(tmp_path: Path) -> None:
    script = "import sys; print('accuracy: 0.25\\r50 %\\raccuracy: 0.75'); print('done', file=sys.stderr)"
    assert run(objective(tmp_path, script, result={"regex": "accuracy: ([0-9.]+)"}), tmp_path).value == 0.75
    script = "print('x'); print('-1.5e-3', end='')"
    assert run(objective(tmp_path, script, result={"regex": "^-\\S+"}), tmp_path).value == -1.5e-3


def test_places_are_filled_without_a_shell(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(
        "import json, os, sys\nprint(json.dumps([*sys.argv[1:], os.getcwd(), os.environ['NAME']]))\n"
    )
    places = (
        "{seed} {number} {fraction} {phase} '{rank} {alpha_ratio};$(id)' {learning_rate} '{{x}}' {folder}"
    )
    found = objective(
        tmp_path,
        command=f"{sys.executable} show.py {places}",
        result={"regex": "5"},
        fraction=0.25,
        environment={"NAME": "trial {number}"},
    )
    folder = tmp_path / "a b" / "0007"
    found.run(CONFIG, seed=5, folder=folder)
    shown = json.loads((folder / "log.txt").read_text().splitlines()[1])
    assert shown[:7] == ["5", "7", "0.25", "search", "8 2;$(id)", "0.00001", "{x}"]
    assert shown[7:] == [str(folder), str(tmp_path), "trial 7"]  # it runs where the config file is
    found.final(CONFIG, seed=5, folder=tmp_path / "final" / "winner")
    shown = json.loads((tmp_path / "final" / "winner" / "log.txt").read_text().splitlines()[1])
    assert shown[1:4] == ["winner", "1.0", "final"]
    assert found.has_final


def test_what_it_prints_is_progress(tmp_path: Path) -> None:
    script = "import time\nfor i in range(1, 4): print(f' {i}/3 [00:01] loss={2 / i:.2f}'); time.sleep(0.6)"
    seen: list[tuple[int, int, float | None]] = []
    run(
        objective(tmp_path, script, result={"regex": "x"}),
        tmp_path,
        progress=lambda step, total, loss: seen.append((step, total, loss)),
    )
    assert seen == [(1, 3, 2.0), (2, 3, 1.0), (3, 3, 0.67)]


# -- a command: how it fails ------------------------------------------------------------------------

MEMORY, CRASHED, LOST, DIVERGED = (
    FailureKind.OUT_OF_MEMORY,
    FailureKind.CRASHED,
    FailureKind.LOST,
    FailureKind.DIVERGED,
)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("raise ValueError('bad shape')", CRASHED, "exit code 1: ValueError: bad shape"),
        ("raise SystemExit(3)", CRASHED, "exit code 3: it printed nothing"),
        ("raise MemoryError", MEMORY, "ran out of memory: MemoryError"),
        ("print('RuntimeError: CUDA out of memory. Tried'); print('x\\n' * 99); exit(1)", MEMORY, "Tried"),
        ("exit('torch.OutOfMemoryError: HIP')", MEMORY, "torch.OutOfMemoryError: HIP"),
        ("import os; os.kill(os.getpid(), 9)", LOST, r"killed \(signal 9\)"),
        ("exit(137)", LOST, r"killed \(signal 9\)"),
        ("exit('worker 1: Signal 9 (SIGKILL) received by PID 55')", LOST, "killed"),
        ("import os; os.kill(os.getpid(), 11)", CRASHED, "died of SIGSEGV"),
        ("exit(139)", CRASHED, "died of SIGSEGV"),
        ("pass", CRASHED, "no result: the command wrote no result.json into the trial's folder"),
        ("open(F, 'w').write('{')", CRASHED, "result.json is not JSON"),
        ("open(F, 'w').write('[1]')", CRASHED, "result.json has no value"),
        ("""open(F, 'w').write('{"vlaue": 1, "loss": 2}')""", CRASHED, "has no value; it has vlaue, loss"),
        ("open(F, 'w').write('[' * 100000)", CRASHED, "result.json is not JSON"),
        (
            """open(F, 'w').write('{"value": "high"}')""",
            CRASHED,
            "value in result.json is 'high', not a number",
        ),
        (
            """open(F, 'w').write('{"value": null}')""",
            CRASHED,
            "value in result.json is 'None', not a number",
        ),
        ("""open(F, 'w').write('{"value": true}')""", CRASHED, "not a number"),
        ("""open(F, 'w').write('{"value": NaN}')""", DIVERGED, "the result is nan"),
        ("""open(F, 'w').write('{"value": "-inf"}')""", DIVERGED, "the result is -inf"),
        ("import os; os.mkfifo(F)", CRASHED, "wrote no result.json"),
        ("import os; os.symlink('/etc/hostname', F)", CRASHED, "is a link out of the trial's folder"),
    ],
)
def test_failures_are_typed(tmp_path: Path, script: str, kind: FailureKind, message: str) -> None:
    found = objective(tmp_path, f"import sys; F = sys.argv[4] + '/result.json'\n{script}")
    failure = run(found, tmp_path).failure
    assert failure is not None
    assert failure.kind == kind
    assert re.search(message, failure.message)


def test_a_pattern_that_nothing_matches_is_told(tmp_path: Path) -> None:
    failure = run(objective(tmp_path, "print('loss 3')", result={"regex": "acc (.*)"}), tmp_path).failure
    assert failure is not None
    assert failure.message == "no result: no line that the command printed matches 'acc (.*)'"
    assert failure.traceback_tail == "loss 3\n"
    outcome = run(objective(tmp_path, "print('loss nan')", result={"regex": r"loss (\S+)"}), tmp_path)
    assert outcome.failure is not None
    assert outcome.failure.kind is DIVERGED


def test_the_result_of_an_attempt_before_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "trials" / "0007").mkdir(parents=True)
    (tmp_path / "trials" / "0007" / "result.json").write_text('{"value": 1}')
    failure = run(objective(tmp_path, "pass"), tmp_path).failure
    assert failure is not None
    assert "wrote no result.json" in failure.message


def test_a_command_over_its_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "held = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
        "print(held.pid, flush=True); time.sleep(3600)"
    )
    failure = run(objective(tmp_path, script, time_limit=1.0), tmp_path).failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT
    assert failure.message == "took longer than objective.time_limit, 1 s"
    assert gone([int(failure.traceback_tail)])


def test_a_long_output_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    script = "print('first')\nfor i in range(150000): print('x' * 100)\nprint('loss 7')"
    outcome = run(objective(tmp_path, script, result={"regex": r"loss (\S+)"}), tmp_path)
    assert outcome.value == 7
    log = (tmp_path / "trials" / "0007" / "log.txt").read_bytes()
    assert len(log) < 3_100_000
    assert b"first" in log[:2000]
    assert log.endswith(b"loss 7\n")
    assert b"bytes are left out here" in log


@pytest.mark.parametrize(
    "script", ["print('x' * 10 ** 6)", "exit('OSError: [Errno 28] No space left on device')"]
)
def test_a_full_disk_is_no_fault_of_a_config(tmp_path: Path, script: str) -> None:
    objective(tmp_path, script)
    program = (
        "import resource, sys; from pathlib import Path; from loracle.config.loading import load_config\n"
        "from loracle.errors import StudyError; from loracle.own_trainer.objective import ExternalObjective\n"
        "found = ExternalObjective.from_config(load_config(sys.argv[1] + '/config.yaml'))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"try: found.run({CONFIG}, seed=0, folder=Path(sys.argv[1], '0001'))\n"
        "except StudyError as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(
        r".*/0001: (File too large|No space left on device); the run continues once there is room\n",
        told.stdout,
    )


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_command_ends_with_whoever_runs_it(tmp_path: Path, sign: signal.Signals) -> None:
    script = (
        "import subprocess, sys, time\n"
        "held = subprocess.Popen(['sleep', '3600'], start_new_session=True)\n"
        "open(sys.argv[4] + '/pids', 'w').write(f'{os.getpid()} {held.pid}\\n'); time.sleep(3600)"
    )
    objective(tmp_path, f"import os\n{script}")
    program = (
        "import sys; from pathlib import Path; from loracle.config.loading import load_config\n"
        "from loracle.own_trainer.objective import ExternalObjective\n"
        "found = ExternalObjective.from_config(load_config(sys.argv[1] + '/config.yaml'))\n"
        f"found.run({CONFIG}, seed=0, folder=Path(sys.argv[1], '0001'))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stderr=subprocess.DEVNULL)
    pids = [int(pid) for pid in wait_for(tmp_path / "0001" / "pids").split()]
    assert all(map(alive, pids))
    process.send_signal(sign)
    process.wait(PATIENCE)
    assert gone(pids)
    assert not (tmp_path / "0001" / "outcome.json").exists()  # interrupted is not an outcome of the config


# -- a function -------------------------------------------------------------------------------------


def test_a_function_gets_what_it_takes(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("OFFSET = 1\n")
    (tmp_path / "mine.py").write_text(
        "from beside import OFFSET\n\n"
        "def train(config, *, seed, folder, fraction, phase='?', progress=None, other=3):\n"
        "    print('training in', folder.name, phase)\n"
        "    progress(1, 2, 0.5)\n"
        "    return {'value': config['alpha'] + seed + fraction + OFFSET, 'loss': 2, 'note': 'text'}\n"
    )
    seen: list[tuple[int, int, float | None]] = []
    for name in ("mine.py:train", "mine:train"):
        found = objective(tmp_path, function=name, fraction=0.5)
        outcome = run(found, tmp_path, progress=lambda *step: seen.append(step))
        assert outcome.value == 16 + 5 + 0.5 + 1
        assert outcome.metrics == {"loss": 2.0, "result": 22.5}
        assert (tmp_path / "trials" / "0007" / "log.txt").read_text() == "training in 0007 search\n"
    assert (1, 2, 0.5) in seen
    assert found.has_final


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("return 1.5", None, ""),
        ("import numpy; return numpy.float32(1.5)", None, ""),
        ("import torch; return torch.tensor(1.5)", None, ""),
        ("return float('nan')", DIVERGED, "the result is nan"),
        ("raise ValueError('bad shape')", CRASHED, "ValueError: bad shape"),
        ("raise SystemExit(2)", CRASHED, "SystemExit: 2"),
        ("raise MemoryError", MEMORY, "MemoryError"),
        ("import torch; raise torch.OutOfMemoryError('CUDA')", MEMORY, "OutOfMemoryError: CUDA"),
        ("raise RuntimeError('CUDA error: out of memory')", MEMORY, "out of memory"),
        ("return 'high'", CRASHED, "the value that .*mine.py:train returned is 'high', not a number"),
        ("return {'loss': 3}", CRASHED, "returned is 'missing', not a number"),
        ("return None", CRASHED, "not a number"),
    ],
)
def test_what_a_function_does_is_typed(
    tmp_path: Path, body: str, kind: FailureKind | None, message: str
) -> None:
    (tmp_path / "mine.py").write_text(f"def train(config):\n    {body}\n")
    found = objective(tmp_path, function="mine.py:train")
    outcome = run(found, tmp_path)
    assert not found.has_final
    if kind is None:
        assert outcome.value == 1.5
        return
    assert outcome.failure is not None
    assert outcome.failure.kind == kind
    assert re.search(message, outcome.failure.message)
    if "raise" in body:
        assert "in train" in outcome.failure.traceback_tail
        assert "in train" in (tmp_path / "trials" / "0007" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("", "mine.py:train", "AttributeError: module 'mine' has no attribute 'train'"),
        ("train = 3", "mine.py:train", "is not a function"),
        ("def train(", "mine.py:train", "SyntaxError"),
        ("1 / 0", "mine.py:train", "ZeroDivisionError"),
        ("", "none.py:train", "FileNotFoundError"),
        ("", "no_such_module:train", "No module named 'no_such_module'"),
        ("def train(): pass", "mine.py:train", "too many positional arguments"),
        ("def train(config, *, data): pass", "mine.py:train", "missing a required .*argument: 'data'"),
    ],
)
def test_functions_that_cannot_be_called_are_refused(
    tmp_path: Path, code: str, name: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=f"^objective.function: .*{message}"):
        objective(tmp_path, function=name)


# -- the section in a config ------------------------------------------------------------------------

COMMAND = "command: 'train {rank} {alpha} {dropout} {batch_size} {learning_rate}', direction: maximize"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective: {command: x}", "c:1: objective.direction: field required"),
        ("objective: {direction: maximize}", "c:1: objective: needs either command or function"),
        ("objective: 5", "c:1: objective: .*"),
        ("objective: {command: x, function: a:b, direction: maximize}", "c:1: objective: needs either"),
        (
            "objective: {function: train, direction: maximize}",
            "c:1: objective: function is package.module:name",
        ),
        ("objective: {function: a:b, time_limit: 3, direction: maximize}", "time_limit belongs to a command"),
        (
            "objective: {comand: x, direction: maximize}",
            "unknown key 'objective.comand'; did you mean 'command'",
        ),
        (
            "\nobjective: {command: 'x {rank}', direction: maximize}",
            "c:2: objective: command: the knob alpha_ratio",
        ),
        (
            "objective: {command: 'x {lr}', direction: maximize}",
            r"c:1: objective: command: unknown placeholder \{lr",
        ),
        ("objective: {command: 'x {', direction: maximize}", "c:1: objective: command: .*write {{ and }}"),
        (
            f"objective: {{{COMMAND}, result: {{json: ../x.json}}}}",
            "c:1: objective.result: json is a file inside",
        ),
        (
            f"objective: {{{COMMAND}, result: {{json: /x.json}}}}",
            "c:1: objective.result: json is a file inside",
        ),
        (
            f"objective: {{{COMMAND}, result: {{regex: '('}}}}",
            "c:1: objective.result: not a regular expression",
        ),
        (
            f"objective: {{{COMMAND}, result: {{json: x, regex: x}}}}",
            "needs either json .* or regex, not both",
        ),
        (
            f"objective: {{{COMMAND}, result: {{regex: x, key: x}}}}",
            "c:1: objective.result: key names a number in a JSON file; with regex it would do nothing",
        ),
        (
            f"objective: {{{COMMAND}, result: {{jsn: x}}}}",
            "unknown key 'objective.result.jsn'; did you mean 'json'",
        ),
        (f"objective: {{{COMMAND}, environment: {{'A=B': x}}}}", "c:1: objective: environment: 'A=B'"),
        (f"objective: {{{COMMAND}}}\nlanguage: {{model: same}}", "c:2: language: model: same is the model"),
        (f"objective: {{{COMMAND}}}\nlanguage: 5", "c:2: language: "),
        (
            f"objective: {{{COMMAND}}}\nstandard: {{rank: 8}}",
            "c:2: standard: a config needs a value for every",
        ),
        (f"objective: {{{COMMAND}}}\nstandard: {{lr: 8}}", "c:2: standard: the space has no knob 'lr'"),
        ("data: {train: x}", "c:1: model: field required"),
        ("model: x", "c:1: data: field required"),
        ("model: x\ndata: {train: x}\nstandard:", "c:3: standard: needs values"),
    ],
)
def test_the_section_is_checked_when_the_file_is_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text, "c")


@pytest.mark.parametrize("result", [None, {}, {"key": "eval.loss"}, {"key": "eval.loss", "json": None}])
def test_the_file_of_the_result_is_result_json_unless_another_is_named(
    tmp_path: Path, result: dict[str, Any] | None
) -> None:
    script = (
        "import json, sys; "
        "json.dump({'value': 1.0, 'eval': {'loss': 2.0}}, open(sys.argv[4] + '/result.json', 'w'))"
    )
    outcome = run(objective(tmp_path, script, result=result), tmp_path)
    assert outcome.value == (2.0 if result else 1.0)


def test_a_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("no-such-program", "./train.sh"):
        with pytest.raises(ConfigError, match=f"there is no program '{name}' that can be run"):
            objective(tmp_path, command=[name, *KNOBS])
    (tmp_path / "train.sh").write_text("#!/bin/sh\necho 3\n")
    (tmp_path / "train.sh").chmod(0o755)
    assert (
        run(objective(tmp_path, command=["./train.sh", *KNOBS], result={"regex": "\\d"}), tmp_path).value == 3
    )


def test_python_is_found_where_no_environment_is_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = objective(tmp_path, command=["python", "-c", "print(3)", *KNOBS], result={"regex": "\\d"})
    assert run(found, tmp_path).value == 3


def test_own_trainers_need_no_model_and_any_knobs_will_do(tmp_path: Path) -> None:
    text = (
        "objective: {command: 'train {learning_rate} {epochs}', direction: minimize}\n"
        "space: {base: empty, knobs: {learning_rate: {values: [1, 2]}, epochs: {values: [1, 2]}}}\n"
    )
    config = parse_config(text)
    assert config.language.model == "none"
    assert config.standard is None
    assert parse_config(dump_config(config)) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert "data:" not in dump_config(config)
    with_model = parse_config(f"{text}model: org/base\n")
    assert with_model.language.model == "same"
    assert parse_config(dump_config(with_model)) == with_model


def test_what_the_page_shows_is_valid(tmp_path: Path) -> None:
    page = (EXAMPLE.parent.parent / "docs" / "your-own-trainer.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL)
    configs = [parse_config(text) for language, text in blocks if language == "yaml"]
    assert len(configs) == 10
    first, *_ = (text for language, text in blocks if language == "python")
    for language, text in blocks:
        if language == "python":
            compile(text, "page", "exec")
    (tmp_path / "training.py").write_text(first)
    outcome = run(objective(tmp_path, function="training.py:train", direction="minimize"), tmp_path)
    assert outcome.value == pytest.approx(-((1e-5 - 3e-4) ** 2))
    assert outcome.metrics["examples"] == 100.0


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{'eval_loss': 1.25, 'eval_runtime': 3.1, 'epoch': 1.0}", "1.25"),
        ("{'eval_loss': '1.25', 'epoch': '1'}", "1.25"),  # as newer versions of transformers print it
        ("{'eval_loss': nan, 'epoch': 1.0}", "nan"),
    ],
)
def test_the_pattern_of_the_page_reads_what_trainers_print(line: str, found: str) -> None:
    page = (EXAMPLE.parent.parent / "docs" / "your-own-trainer.md").read_text(encoding="utf-8")
    (pattern,) = re.findall(r'regex: "(.*eval_loss.*)"', page)
    match = re.search(pattern, line)
    assert match is not None
    assert match[1] == found


# -- whole searches ---------------------------------------------------------------------------------


def example(folder: Path, fail: str = "", **changes: Any) -> Path:
    """The example of the repository in a folder of its own."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("run"), dirs_exist_ok=True)
    content = yaml.safe_load((folder / "loracle.yaml").read_text())
    if fail:
        content["objective"]["command"] += f" --run {{number}} --fail {fail}"
    return write_config(folder / "loracle.yaml", content, changes)


def left_over(run: Path) -> list[int]:
    """Processes of the example that live: those with the run's folder among their arguments, and sleepers."""
    named = subprocess.run(["pgrep", "-f", str(run)], capture_output=True, text=True).stdout.split()
    slept = [re.findall(r"started (\d+)", log.read_text()) for log in run.glob("trials/*/log.txt")]
    assert any(slept)
    pids = [int(pid) for pid in (*named, *(pid for found in slept for pid in found))]
    return [] if gone(pids) else pids


def test_a_search_survives_each_failure_of_its_command(said: Callable[..., str], tmp_path: Path) -> None:
    path = example(
        tmp_path,
        "1:crash,2:memory,3:nan,4:hang,5:segfault,6:kill,7:once-crash,8:once-kill",
        objective={"time_limit": 8},
        search={"trials": 12},
    )
    doctor = said("doctor", path)
    assert "trainer" in doctor
    assert "python train.py --rank {rank}" in doctor
    assert "180 candidates" in doctor
    said("tune", path, "--workers", "2")

    config, space = open_run(path)
    history = read_history(config.output, space)
    assert len(history.counted) == 12
    kinds = {
        t.number: str(t.outcome.failure.kind) for t in history.finished if t.outcome and t.outcome.failure
    }
    assert {number: kinds.get(number) for number in range(1, 9)} == {
        1: "crashed",
        2: "out_of_memory",
        3: "diverged",
        4: "timeout",
        5: "crashed",
        6: "lost",
        7: None,
        8: None,
    }
    attempts = {t.number for t in history.finished if t.outcome and t.outcome.metrics.get("attempts") == 2}
    assert {1, 5, 6, 7, 8} <= attempts
    assert left_over(config.output) == []

    final = json.loads((config.output / "final" / "winner" / "provenance.json").read_text())
    assert (final["phase"], final["fraction"]) == ("final", 1.0)
    report = (config.output / "report.md").read_text()
    assert "| cost |" in report
    for said_of in ("1 out of memory. Trial 2: ", "1 timeout. Trial 4: "):
        assert f"- Failed trials: {said_of}" in report
    assert re.search(r"- Failed trials: \d+ diverged\. Trial 3: ", report)  # what two workers try varies
    assert "- Failed trials: 2 crashed. Trial 1: the command ended with exit code" in report
    assert "- Failed trials: 1 lost. Trial 6: the command was killed" in report
    best = yaml.safe_load((config.output / "best.yaml").read_text())
    assert subprocess.run(best["command"], shell=True, cwd=tmp_path, capture_output=True).returncode == 0
    shown = json.loads(said("show", path, "--json"))
    assert shown["trials"][4]["failure"]["kind"] == "timeout"
    assert shown["trials"][4]["score"] is None


def test_ctrl_c_ends_the_command_and_the_same_line_continues(
    said: Callable[..., str], tmp_path: Path
) -> None:
    path = example(tmp_path, "2:hang", search={"trials": 4}, standard=None, execution={"workers": 1})
    command = [sys.executable, "-m", "loracle", "tune", str(path)]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log = tmp_path / "run" / "trials" / "0002" / "log.txt"
    end = time.monotonic() + PATIENCE
    while not (log.exists() and "started" in log.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130
    assert errors.splitlines()[-1].startswith("loracle: stopped")
    assert left_over(tmp_path / "run") == []
    output = said("tune", path)
    assert "cost" in output
    assert "no standard settings to compare it with" in output
    config, space = open_run(path)
    trials = read_history(config.output, space).trials
    assert trials[2].interrupted
    assert trials[3].index == trials[2].index
    assert len(trials) == 5


@pytest.mark.slow  # waits
def test_a_command_that_says_nothing_for_long_is_lost(said: Callable[..., str], tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "for i in range(10): time.sleep(0.5); int(sys.argv[1]) and print(i)\n"
        "print('value', 1)"
    )
    content = {
        "objective": {
            "command": [sys.executable, "-c", script, "{talks}"],
            "result": {"regex": r"value (\d)"},
            "direction": "maximize",
        },
        "space": {"base": "empty", "knobs": {"talks": {"values": [0, 1]}}},
        "search": {"trials": 2},
        "execution": {"stall_limit": 2},
    }
    path = tmp_path / "loracle.yaml"
    path.write_text(yaml.safe_dump(content))
    said("tune", path)
    rows = json.loads(said("show", path, "--json"))["trials"]
    found = {row["config"]["talks"]: (row["score"], row["failure"]) for row in rows}
    assert found[1] == (1.0, None)
    assert found[0][0] is None
    assert found[0][1]["kind"] == "lost"


def test_a_trainer_without_phases_keeps_the_winner_of_the_search(
    said: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def train(config):\n"
        "    return 1 - abs(config['learning_rate'] - 1e-4) * 1e3 + config['epochs'] / 100\n"
    )
    knobs = {
        "learning_rate": {"values": [1e-5, 1e-4, 1e-3], "scale": "log10"},
        "epochs": {"values": [1, 2, 3]},
    }
    content = {
        "objective": {"function": "mine.py:train", "direction": "maximize"},
        "space": {"base": "empty", "knobs": knobs},
        "search": {"trials": 9, "seed_configs": [{"learning_rate": 1e-3, "epochs": 1}]},
        "standard": {"learning_rate": 2e-5, "epochs": 1},  # need not be in the space
        "execution": {"workers": 0},
    }
    path = tmp_path / "loracle.yaml"
    path.write_text(yaml.safe_dump(content))
    printed = json.loads(said("tune", path, "--json"))
    assert printed["winner"]["config"] == {"learning_rate": 1e-4, "epochs": 3}
    assert printed["winner"]["test_value"] == pytest.approx(1.03)
    assert printed["standard"]["test_value"] == pytest.approx(0.93)
    assert not (tmp_path / "run" / "final" / "winner").exists()
    report = (tmp_path / "run" / "report.md").read_text()
    assert "a value of 1.03 against 0.93 (one run each" in report
    assert "was not run again" in report
    config, space = open_run(path)
    assert space.config(read_history(config.output, space).trials[0].index)["epochs"] == 1
    assert "built-in trainer" in said("proxy", path, refused=True)
    assert "best.yaml" in said("export", path, tmp_path / "out", refused=True)


def test_a_full_disk_ends_a_run_with_one_line(said: Callable[..., str], tmp_path: Path) -> None:
    path = example(tmp_path, search={"trials": 3})
    text = path.read_text().replace(
        "python train.py", "python -c \"import sys; sys.exit('No space left on device')\""
    )
    path.write_text(text)
    errors = said("tune", path, refused=True)
    assert re.search(r"^loracle: .*No space left on device; .*", errors, flags=re.MULTILINE)
