"""The documentation builds as a site, loads nothing from elsewhere, and what it shows works."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Loracle, copy_rows
from places import ROOT

from loracle.cli import app
from loracle.config.loading import parse_config

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MODEL = "Qwen/Qwen3-0.6B"
NOT_OURS = ("pip install", "cd ", "ollama ")
CONFIG = {"model": "model: org/base", "data": "data: {train: train.jsonl}"}


def blocks(page: Path, *languages: str) -> Iterator[tuple[str, str]]:
    """Language and text of code blocks, in their order."""
    found = re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return ((language, text) for language, text in found if language in languages)


def command_lines(page: Path) -> list[list[str]]:
    """Arguments of each line that calls loracle, after the name of the program."""
    lines = [line for _, text in blocks(page, "bash") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("loracle ")]


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material comes with the extra `dev`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "WARNING" not in done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:)?//|<link[^>]*stylesheet[^>]*https?://"
    )
    assert [page.parent.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))] == []
    commands = (tmp_path / "site" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "loracle verdict" in commands
    assert "loracle tune" in commands
    assert "expected improvement" not in commands
    api = (tmp_path / "site" / "python" / "index.html").read_text(encoding="utf-8")
    assert "LoracleSampler" in api
    assert "Raises" in api


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f": {page.name}\n" not in menu] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_a_page_shows_are_understood(page: Path) -> None:
    program = typer.main.get_command(app)
    for arguments in command_lines(page):
        name, *rest = arguments
        command = program.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, rest, resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_that_a_page_shows_are_valid(page: Path) -> None:
    """A block is a config, or some sections of one."""
    for _, text in blocks(page, "yaml"):
        if text.startswith("version:"):  # a prompt, which has tests of its own
            continue
        there = set(re.findall(r"^(\w+):", text, flags=re.MULTILINE))
        missing = [line for key, line in CONFIG.items() if not there & {key, "objective"}]
        parse_config("\n".join([*missing, text]))


@pytest.mark.slow
def test_the_tutorial_runs_from_its_first_block_to_its_last(
    tmp_path: Path, tiny_model: Path, loracle: Loracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny model in the place of a real one, and two trials."""
    monkeypatch.chdir(tmp_path)
    ran, printed = [], io.StringIO()
    for language, text in blocks(DOCS / "tutorial.md", "python", "bash", "yaml"):
        if language == "yaml":
            small = text.replace(MODEL, str(tiny_model))
            more = "device: cpu\nthreads: 1\nsearch: {trials: 2}\n"
            Path("loracle.yaml").write_text(small + more)
        elif language == "python":
            with redirect_stdout(printed):
                exec(compile(text, "tutorial.md", "exec"), {})
        else:
            for line in filter(None, text.splitlines()):
                if line.startswith(NOT_OURS):
                    continue
                arguments = shlex.split(line.replace(MODEL, str(tiny_model)), comments=True)[1:]
                code, out, errors = loracle(*arguments)
                assert code in ((0, 3, 4) if arguments[0] == "verdict" else (0,)), errors
                ran.append((arguments[0], out))
    said = dict(ran)
    assert list(said) == ["init", "data", "doctor", "tune", "verdict", "show", "export"]
    assert said["verdict"].strip() in said["tune"]
    assert "\nFROM ./model\n" in Path("for-ollama/Modelfile").read_text()
    assert "Sort: red blue green" in printed.getvalue()
    (notebook,) = (text for _, text in blocks(DOCS / "report.md", "python"))
    names: dict[str, Any] = {}
    exec(compile(notebook, "report.md", "exec"), names)
    assert len(names["run"].trials) == 2


BEFORE = """
import sys
from pathlib import Path

import optuna
import torch
from peft import LoraConfig, get_peft_model
from ray import tune
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import loracle
from loracle import LoracleSampler

model, config = sys.argv[1], loracle.load_config(Path(sys.argv[2]))
rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(4, 20, (16, 8))]
OPTIONS = dict(max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no")

def objective(trial):
    return (trial.suggest_float("lr", 1e-5, 1e-2, log=True) - 1e-3) ** 2

def make_model(rank=8):
    lora = LoraConfig(r=rank, target_modules=["q_proj"])
    return get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)

def make_trainer(config):
    options = TrainingArguments("trainer", learning_rate=config["learning_rate"], **OPTIONS)
    return Trainer(make_model(config["r"]), options, train_dataset=rows, eval_dataset=rows)

def hp_space(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)}

def train(config):
    tune.report({"loss": config["lr"]})

trainer = Trainer(
    None, TrainingArguments("t", **OPTIONS), train_dataset=rows, eval_dataset=rows,
    model_init=lambda trial: make_model(),
)
"""


@pytest.mark.slow
def test_the_python_of_other_peoples_code_runs(
    tmp_path: Path, tiny_model: Path, run_config: Callable[..., Path]
) -> None:
    """In a process of its own, because those libraries warn; with fewer trials."""
    pytest.importorskip("ray")
    config = run_config(search={"trials": 1, "seed": 0})
    text = "\n".join([BEFORE, *(block for _, block in blocks(DOCS / "inside-your-code.md", "python"))])
    text = re.sub(r"trials=\d\d", "trials=2", text)
    assert text.count("trials=2") == 3
    command = [sys.executable, "-c", f"{text}\nprint('runs:', found.params, len(study.trials))"]
    done = subprocess.run(
        [*command, str(tiny_model), str(config)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"runs: .*learning_rate.* 2\n", done.stdout)
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


# What the page calls of Unsloth, which needs a GPU: arguments as in models/loader.py and models/llama.py of
# unsloth 2026.10.9, made of transformers and PEFT.
UNSLOTH = """
import os

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

class FastLanguageModel:
    @staticmethod
    def from_pretrained(
        model_name="", max_seq_length=2048, dtype=None, load_in_4bit=True, load_in_8bit=False,
        load_in_16bit=False, full_finetuning=False, token=None, device_map="sequential",
        rope_scaling=None, fix_tokenizer=True, trust_remote_code=False,
        use_gradient_checkpointing="unsloth", resize_model_vocab=None, revision=None, random_state=3407,
    ):
        folder = os.environ["TINY_MODEL"]
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    @staticmethod
    def get_peft_model(
        model, r=16, target_modules="all-linear", lora_alpha=16, lora_dropout=0.0, bias="none",
        layers_to_transform=None, layers_pattern=None, use_gradient_checkpointing="unsloth",
        random_state=3407, max_seq_length=2048, use_rslora=False, modules_to_save=None,
        init_lora_weights=True, loftq_config={},
    ):
        numbers = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout}
        return get_peft_model(model, LoraConfig(target_modules=target_modules, **numbers))
"""


@pytest.mark.slow
def test_the_function_for_unsloth_runs_in_a_search(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("trl")
    (function,) = (
        text for _, text in blocks(DOCS / "your-own-trainer.md", "python") if "from unsloth" in text
    )
    on_cpu = function.replace('report_to="none",', 'report_to="none", use_cpu=True, bf16=False,')
    assert on_cpu != function
    (tmp_path / "training.py").write_text(on_cpu, encoding="utf-8")
    (tmp_path / "unsloth.py").write_text(UNSLOTH, encoding="utf-8")
    rows = "".join(json.dumps(row) + "\n" for row in copy_rows(60))
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    text = "objective: {function: training.py:train, direction: minimize}\nsearch: {trials: 2}\noutput: run\n"
    (tmp_path / "loracle.yaml").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "loracle", "tune", "loracle.yaml", "--json"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "TINY_MODEL": str(tiny_model),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0 < json.loads(done.stdout)["winner"]["score"] < 10


def test_the_metrics_that_a_page_shows_are_metrics() -> None:
    function, letters = (text for _, text in blocks(DOCS / "metrics.md", "python"))
    names: dict[str, Any] = {}
    exec(compile(function, "metrics.md", "exec"), names)
    assert names["keyword_share"](["a b", "c"], ["a x", "c"], [{}, {}]) == [0.5, 1.0]
    exec(compile(letters, "metrics.md", "exec"), names)
    assert names["LetterOverlap"]().judge("abc", "bcd") == pytest.approx(2 / 3)
