"""Passwords and other secrets: in no message, in no file; and the same command goes on."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_study import SPACE

from loracle.config.loading import load_config
from loracle.errors import ConfigError, LoracleError
from loracle.run.storage.opening import open_study, read_history
from loracle.run.tune import tune, work
from loracle.text import secrets as secret

URLS = [
    "postgresql://me:hunter2@127.0.0.1:1/x",
    "postgresql://me:hun/ter2@127.0.0.1:1/x",
    "postgresql://me:hunter2@hunter2@127.0.0.1:1/x",
    "postgresql://me:hun?ter2@127.0.0.1:1/x",
    "postgresql://me:hun#ter2@127.0.0.1:1/x",
    "postgresql://me:hunter2/127.0.0.1/x",
    "postgresql://me:hunter2@127.0.0.1:hunter2/x",
    "postgresql://me@127.0.0.1:1/x?password=hunter2",
    "postgresql://127.0.0.1:1/x?user=me&password=hun%74er2",
    "postgresql://me@127.0.0.1:1/x?password=hunter2@",
    "postgresql://me@127.0.0.1:1/x?sslmode=hunter2",
    "postgresql://me@127.0.0.1:1/x?hunter2",
    "postgresql://me@127.0.0.1:1/x?passwd=hunter2",
    "postgresql+psycopg2://me:hun%74er2@127.0.0.1:1/x",
    "postgresql+unknown://me:hunter2@127.0.0.1:1/x",
    "postgres://me:hunter2@127.0.0.1:1/x",
    "mysql://me:hunter2@host/x",
    "postgresql:me:hunter2@127.0.0.1/x",
    "postgresql:/me:hunter2@127.0.0.1/x",
    "host=127.0.0.1 port=1 password=hunter2 dbname=x",
    "password='hunter2' host=127.0.0.1",
    "me:hunter2@127.0.0.1/x",
    "sqlite:///no/such/folder/x.db?password=hunter2",
    "sqlite://me:hunter2@host/x",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("opens", [open_study, read_history])
def test_no_message_about_a_storage_shows_a_password(
    url: str, opens: Callable[..., object], tmp_path: Path
) -> None:
    with pytest.raises(LoracleError) as error:
        opens(tmp_path, SPACE, url)
    message = str(error.value)
    assert "\n" not in message
    for part in ("hunter2", "ter2", "hun", "hun%74er2"):
        assert part not in message
    assert str(error.value.__cause__) == "None"  # nor a traceback, should anybody print one


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=6))
def test_any_password_is_masked_and_left_out_of_files(password: str) -> None:
    for url in (
        f"postgresql://me:{password}@host:5432/name",
        f"postgresql://me@host/name?password={password}",
        f"postgresql:me:{password}@host",
        f"host=host password={password}",
    ):
        for text in (secret.shown(url), secret.recorded(url), secret.scrubbed(f'no host "{url}"', url)):
            assert password not in text.replace("***", "")


def test_what_helps_to_find_a_database_is_shown() -> None:
    shown = secret.shown("postgresql://me:pw@db.example:5432/trials?sslmode=require&password=pw")
    assert shown == "postgresql://me:***@db.example:5432/trials?sslmode=***&password=***"
    assert secret.shown("sqlite:////home/me/trials.db") == "sqlite:////home/me/trials.db"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (
            "postgresql://me:pw@h:5432/n?sslmode=require&password=pw",
            "postgresql://me@h:5432/n?sslmode=require",
        ),
        ("postgresql://me:${PW}@h/n?passfile=/f", "postgresql://me:${PW}@h/n?passfile=/f"),
        ("postgresql://me:literal@${HOST}/n", "postgresql://me@${HOST}/n"),
        ("${LORACLE_STORAGE}", "${LORACLE_STORAGE}"),
        ("sqlite:////home/me/trials.db", "sqlite:////home/me/trials.db"),
    ],
)
def test_a_file_keeps_references_but_no_password(url: str, kept: str) -> None:
    assert secret.recorded(url) == kept


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        *(("HF_TOKEN", "x", True), ("WANDB_API_KEY", "x", True), ("AWS_SECRET_ACCESS_KEY", "x", True)),
        *(("PGPASSWORD", "x", True), ("db_password", "x", True), ("DATABASE_URL", "pg://me:x@host/n", True)),
        *(("MAX_TOKENS", "512", False), ("MONKEY", "1", False), ("AUTHOR", "me", False)),
        *(("TOKENIZERS_PARALLELISM", "false", False), ("HF_HOME", "/data", False)),
    ],
)
def test_secrets_are_told_by_name_and_form(name: str, value: str, hidden: bool) -> None:
    assert secret.is_secret(name, value) is hidden
    assert (secret.recorded_value(name, value) == value) is not hidden


# -- a whole run ------------------------------------------------------------------------------------

SCRIPT = """
import os, sys
assert os.environ["API_TOKEN"] == "hunter2", os.environ["API_TOKEN"]
assert os.environ["MODE"] == "{fast}"
print("value", float(sys.argv[1]))
"""


@pytest.fixture
def secret_run(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        (tmp_path / "train.py").write_text(SCRIPT)
        content = {
            "objective": {
                "command": [sys.executable, "train.py", "{x}"],
                "result": {"regex": r"value (\S+)"},
                "direction": "maximize",
                "environment": {"API_TOKEN": "hunter2", "MODE": "{{fast}}"},
            },
            "space": {"base": "empty", "knobs": {"x": {"values": [1, 2, 3, 4]}}},
            "search": {"trials": 2},
            "execution": {"workers": 0},
        }
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


def test_secret_variables_are_in_no_file_and_the_same_command_goes_on(
    secret_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_run()
    assert len(tune(load_config(path)).history.succeeded) == 2
    run = path.parent / "run"
    written = [file for file in run.rglob("*") if file.is_file()]
    assert not [file for file in written if b"hunter2" in file.read_bytes()]
    assert stat.S_IMODE((run / "config.yaml").stat().st_mode) == 0o600
    kept = yaml.safe_load((run / "config.yaml").read_text())["objective"]["environment"]
    assert kept == {"API_TOKEN": "${API_TOKEN}", "MODE": "{{fast}}"}
    path = secret_run(search={"trials": 3})
    assert len(tune(load_config(path)).history.succeeded) == 3
    # From the recorded file the value comes from the variable, and nothing runs without it.
    with pytest.raises(ConfigError, match=r"API_TOKEN: the environment variable API_TOKEN is not set"):
        tune(load_config(run / "config.yaml").model_copy(update={"output": run}))
    monkeypatch.setenv("API_TOKEN", "hunter2")
    recorded = load_config(run / "config.yaml").model_copy(update={"output": run})
    more = recorded.search.model_copy(update={"trials": 4})
    result = tune(recorded.model_copy(update={"search": more}))
    assert len(result.history.succeeded) == len(result.history.trials) == 4


def test_a_config_may_name_a_variable_in_place_of_a_storage(
    secret_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = secret_run(execution={"workers": 0, "storage": "${MY_DATABASE}"})
    with pytest.raises(ConfigError, match=r"execution\.storage: the environment variable MY_DATABASE is not"):
        tune(load_config(path))
    monkeypatch.setenv("MY_DATABASE", f"sqlite:///{tmp_path}/trials.db")
    tune(load_config(path))
    assert (tmp_path / "trials.db").exists()
    assert "${MY_DATABASE}" in (tmp_path / "run" / "config.yaml").read_text()
    command = [sys.executable, "-m", "loracle", "show", str(tmp_path / "run")]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0


@pytest.mark.parametrize("run", [tune, work])
def test_nothing_is_kept_of_a_storage_that_was_refused(
    run: Callable[..., object], secret_run: Callable[..., Path]
) -> None:
    path = secret_run(execution={"workers": 0, "storage": "postgresql://me:hunter2@127.0.0.1:1/x"})
    with pytest.raises(LoracleError) as error:
        run(load_config(path))
    assert "hunter2" not in str(error.value)
    written = [file for file in (path.parent / "run").rglob("*") if file.is_file()]
    assert [file.name for file in written if file.name == "config.yaml"] == []
    assert not [file for file in written if b"hunter2" in file.read_bytes()]


def test_secrets_in_a_command_are_in_no_file_and_the_run_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nassert 'sk-hunter2' in sys.argv and 'DB_PASSWORD=hunter2' in sys.argv\n"
        "print('value', sys.argv[1])\n"
    )
    secrets = "--api-key sk-hunter2 DB_PASSWORD=hunter2 --auth-token=hunter2 https://me:hunter2@host/x"
    path = tmp_path / "config.yaml"
    content: dict[str, Any] = {
        "objective": {
            "command": f"{sys.executable} train.py {{rank}} {secrets} --pad-token pad",
            "result": {"regex": "value (.*)"},
            "direction": "maximize",
        },
        "space": {"base": "empty", "knobs": {"rank": {"values": [1, 2, 4, 8]}}},
        "search": {"trials": 2},
        "execution": {"workers": 0, "storage": f"sqlite:///{tmp_path}/x.db"},
    }
    for trials in (2, 3):
        content["search"]["trials"] = trials
        path.write_text(yaml.safe_dump(content))
        result = tune(load_config(path))
        assert len(result.history.succeeded) == trials
    run = result.folder
    for file in (*run.rglob("*"), tmp_path / "x.db"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes(), file
    assert "--pad-token pad" in (run / "config.yaml").read_text().replace("\n", " ").replace("  ", " ")
    with pytest.raises(ConfigError, match="a secret in it was not recorded"):
        tune(load_config(run / "config.yaml").model_copy(update={"output": tmp_path / "other"}))
