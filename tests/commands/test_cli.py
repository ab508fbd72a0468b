from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Loracle, write_config
from peft import PeftConfig

from loracle import __version__
from loracle.config.loading import load_config
from loracle.text import escape


def refused(result: tuple[int, str, str]) -> str:
    """The one line on stderr of a refused command."""
    code, out, err = result
    lines = [line for line in err.strip().splitlines() if not line.startswith("reading ")]
    assert code == 2
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("loracle: ")
    return lines[0].removeprefix("loracle: ")


def change(path: Path, **changes: Any) -> Path:
    return write_config(path, yaml.safe_load(path.read_text()), changes)


# -- bad input: one line, exit code 2 -----------------------------------------------------------------


def test_wrong_key(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    path = change(run_config(), data={"trian": "x"})
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "trian" in text)
    assert refused(loracle("tune", path)) == f"{path}:{line}: unknown key 'data.trian'; did you mean 'train'?"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_device_is_one_line(run: Path) -> None:
    for command in (["show", str(run)], ["show", str(run), "--json"], ["--version"]):
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "loracle", *command], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert ended.returncode == 2
        assert (
            ended.stderr
            == "loracle: the output: No space left on device; nothing that was finished is lost\n"
        )


def test_a_path_that_the_system_cannot_spell_is_one_line(run_config: Callable[..., Path]) -> None:
    path = change(run_config(), output="läufe/eins")
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    for command in ("tune", "doctor"):
        ended = subprocess.run(
            [sys.executable, "-m", "loracle", command, str(path)],
            env=os.environ | plain,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 2
        (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("reading ")]
        assert "cannot be spelt in the encoding of this system (ascii); set PYTHONUTF8=1" in line


def test_missing_config(loracle: Loracle, tmp_path: Path) -> None:
    assert refused(loracle("tune", tmp_path / "none.yaml")).endswith(
        "none.yaml: cannot be read: No such file or directory"
    )


def test_missing_data_file(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    assert "gone.jsonl" in refused(loracle("tune", change(run_config(), data={"train": "gone.jsonl"})))


def test_malformed_jsonl_line(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    path = run_config()
    data = path.parent / "train.jsonl"
    lines = data.read_text().splitlines()
    lines[6] = '{"prompt": "copy:a=", "completion": '
    data.write_text("\n".join(lines))
    assert f"{data}:7:" in refused(loracle("tune", path))


def test_unknown_model(
    loracle: Loracle, run_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "'nobody/nothing' cannot be loaded" in refused(
        loracle("tune", change(run_config(), model="nobody/nothing"))
    )


def test_empty_split(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    path = change(run_config(), data={"validation_fraction": 0.0})
    assert "the validation split is empty" in refused(loracle("tune", path))


def test_impossible_batch(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    path = change(run_config(), space={"base": "default", "knobs": {"batch_size": {"values": [4096]}}})
    assert "impossible batch" in refused(loracle("tune", path))


def test_prompt_too_long(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    path = change(run_config(), language={"model": "same", "prompt": "lora-v1"}, search={"preset": "paper"})
    message = refused(loracle("tune", path))
    assert "the prompt is too long" in message
    assert "at most 128" in message


def test_unknown_preset_option_and_command(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    assert loracle("tune", run_config(), "--trails", 3)[0] == 2
    assert loracle("tun")[0] == 2
    assert loracle("tune", run_config(), "--trials", 0)[0] == 2


def test_no_traceback_from_the_real_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "loracle", "tune", str(tmp_path / "no.yaml")], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr == f"loracle: {tmp_path / 'no.yaml'}: cannot be read: No such file or directory\n"


def test_standard_settings_that_no_training_knows_are_refused_before_the_search(
    loracle: Loracle, run_config: Callable[..., Path]
) -> None:
    standard = {"rank": 4, "alpha": 8, "dropout": 0.0, "batch_size": 4, "learning_rate": 1e-3, "lr": 1}
    message = refused(loracle("tune", run_config(standard=standard)))
    assert "standard: training has no knob 'lr'" in message


@pytest.mark.parametrize("name", ["run [v1]", "[/x]", ":smile: [bold]b[/]", "a\u202eb"])
def test_paths_of_any_name_are_shown_whole_and_end_nothing(
    loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    path = run_config(search={"trials": 1})
    output = tmp_path / name  # a slash makes two folders, whose path has all of the name
    shown = escape.printable(str(output))
    code, out, err = loracle("tune", path, "--output", output)
    assert (code, "Traceback" in err) == (0, False)
    assert f"{shown}/report.md" in out
    assert f"{shown}/best" in out
    assert "\x1b" not in out + err
    assert "\u202e" not in out + err
    assert loracle("show", output)[0] == 0
    assert shown in loracle("doctor", output / "config.yaml")[1]
    assert shown in refused(loracle("show", output / "trials"))
    target = Path(f"{output} copy")
    code, out, _ = loracle("export", output, target)
    assert escape.printable(str(target)) in out


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "\udc80"])
def test_an_output_that_no_config_can_name_is_refused_in_one_harmless_line(
    loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    message = refused(loracle("tune", run_config(), "--output", tmp_path / name))
    assert message.startswith("output: ")
    assert not (tmp_path / name).exists()


# -- commands -----------------------------------------------------------------------------------------


def test_version_and_help(loracle: Loracle) -> None:
    assert loracle("--version")[1].strip() == __version__
    text = loracle("--help")[1]
    for command in ("init", "tune", "demo", "proxy", "show", "export", "import", "doctor", "cache"):
        assert command in text


@pytest.mark.parametrize("place", ["x.yaml", "sub/x.yaml", "../beside/x.yaml", "link/x.yaml"])
def test_init_writes_paths_that_resolve_from_where_the_file_is(
    loracle: Loracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, place: str
) -> None:
    here = tmp_path / "here"
    for folder in (here / "sub", tmp_path / "beside", tmp_path / "far" / "away"):
        folder.mkdir(parents=True)
    (here / "link").symlink_to(tmp_path / "far" / "away")
    (here / "train.jsonl").write_text("")
    (here / "base").symlink_to(tiny_model)
    monkeypatch.chdir(here)
    code, out, _ = loracle("init", place, "--model", "base", "--train", "train.jsonl")
    assert code == 0
    assert f"loracle tune {place}" in out
    config = load_config(place)
    assert config.data.train.samefile(here / "train.jsonl")
    assert Path(config.model).samefile(tiny_model)


def test_init_writes_a_config_that_is_valid_and_never_overwrites(
    loracle: Loracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    assert loracle("init", path, "--model", "org/model: x", "--train", "data/a.jsonl")[0] == 0
    config = load_config(path)
    assert config.model == "org/model: x"
    assert config.data.train == (tmp_path / "data" / "a.jsonl").resolve()
    before = path.read_text()
    assert "exists already" in refused(loracle("init", path))
    assert path.read_text() == before


def test_tune_show_export(loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path) -> None:
    path = run_config(search={"trials": 3})
    code, out, err = loracle("tune", path)
    assert code == 0
    assert "winner" in out
    assert "On the same 6 test items" in out
    (last,) = [line for line in err.splitlines() if "3/3" in line]
    cost = json.loads(loracle("verdict", path, "--json")[1])["cost"]["trainings"]
    assert f" cost {cost:.3g}  " in last

    code, out, _ = loracle("show", tmp_path / "run")
    assert code == 0
    table = [line for line in out.strip().splitlines() if not line.startswith("note ")]
    assert len(table) == 4
    shown = json.loads(loracle("show", path, "--json")[1])
    assert [row["trial"] for row in shown["trials"]] == [0, 1, 2]

    target = tmp_path / "exported"
    assert loracle("export", tmp_path / "run", target, "--to", "peft")[0] == 0
    assert PeftConfig.from_pretrained(target).peft_type == "LORA"
    assert "not an empty folder" in refused(loracle("export", tmp_path / "run", target))


def test_tune_json_is_one_object(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    code, out, _ = loracle("tune", run_config(), "--trials", 2, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["winner"]["config"].keys() >= {"rank", "alpha", "learning_rate"}
    assert found["stopped"] == "all 2 trials are done"


def test_show_and_export_without_a_run(
    loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path
) -> None:
    assert "no config.yaml" in refused(loracle("show", tmp_path))
    assert "no run here" in refused(loracle("show", run_config()))
    assert "no trained adapter yet" in refused(loracle("export", run_config(), tmp_path / "x"))


def test_doctor(loracle: Loracle, run_config: Callable[..., Path]) -> None:
    path = run_config(language={"model": "same", "prompt": "plain-v1"})
    code, out, err = loracle("doctor", path)
    assert (code, err) == (0, "")
    for name in ("device", "data", "model", "space", "prompts", "memory", "time", "output"):
        assert name in out
    told = json.loads(loracle("doctor", path, "--json")[1])["time"]
    assert (told["trials"], told["finals"]) == (5, 2)
    assert told["whole"]["low"] < told["whole"]["likely"] < told["whole"]["high"]
    assert not (path.parent / "run").exists()
    code, out, _ = loracle("doctor", change(path, model="/no/such/folder"), "--json")
    assert code == 2
    assert json.loads(out)["checks"][-1]["state"] == "bad"
    assert json.loads(out)["time"] is None


def test_cache_is_shown_and_cleared(
    loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    language = {"model": "same", "prompt": "plain-v1"}
    assert loracle("tune", run_config(language=language, search={"trials": 1, "preset": "language"}))[0] == 0
    assert "1 entries" in loracle("cache")[1]
    assert json.loads(loracle("cache", "--clear", "--json")[1])["freed"] > 0
    assert json.loads(loracle("cache", "--json")[1])["bytes"] == 0


def test_proxy(loracle: Loracle, run_config: Callable[..., Path], tmp_path: Path) -> None:
    code, out, _ = loracle("proxy", run_config(), "-k", 5, "--fractions", "0.3,0.6")
    assert code == 0
    for word in ("pearson", "spearman", "kendall", "better half", "30 %", "60 %"):
        assert word in out
    assert (tmp_path / "run" / "proxy" / "proxy.png").exists()
    assert "above 0 and below 1" in refused(loracle("proxy", run_config(), "--fractions", "2"))


def test_demo_continues_in_its_folder_with_a_config_that_was_changed(
    loracle: Loracle, run_config: Callable[..., Path]
) -> None:
    path = run_config(search={"trials": 1})
    (path.parent / ".loracle-demo").touch()
    code, out, err = loracle("demo", path.parent)
    assert code == 0
    assert f"loracle tune {path}" in err
    assert "winner" in out


@pytest.mark.slow
def test_demo_beats_the_standard_settings_by_a_fifth(loracle: Loracle, tmp_path: Path) -> None:
    code, out, err = loracle("demo", tmp_path / "demo", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["winner"]["test_value"] > 1.2 * found["standard"]["test_value"] > 0


def test_letters_that_the_terminal_lacks_end_nothing(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "loracle", "init", "naïve 数学.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "wrote na\\xefve \\u6570\\u5b66.yaml" in found.stdout
