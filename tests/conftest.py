"""Shared fixtures: a tiny causal language model with a character tokenizer, made here, and small datasets."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a test process has one core, and what it starts

import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from small_tokenizers import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loracle.cli import main
from loracle.config.settings import RunConfig
from loracle.training.model.base_model import Base, load_base

torch.set_num_threads(1)
# No test asserts a time: hypothesis would, with 200 ms for an example.
settings.register_profile("loracle", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loracle")

Loracle = Callable[..., tuple[int, str, str]]


def save_tiny_model(folder: Path, **changes: Any) -> Path:
    """Saves a random Llama of two layers with its tokenizer."""
    tokenizer = make_tokenizer()
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny causal language model; read it only."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The tiny model as trials use it; every training must leave it as it was."""
    data = {"train": tmp_path_factory.mktemp("unused") / "none.jsonl"}
    return load_base(RunConfig.model_validate({"model": str(tiny_model), "data": data, "device": "cpu"}))


Rows = Sequence[Mapping[str, Any]]


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[[str, Rows], Path]:
    """Writes rows as a JSONL file of the given name."""

    def write(name: str, rows: Rows) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def copy_rows(n: int, length: int = 3, letters: str = "abcd", seed: int = 0) -> list[dict[str, str]]:
    """An easy task: `copy:abc=` -> `abc`. Rows are distinct."""
    chooser = random.Random(seed)
    words = set()
    while len(words) < n:
        words.add("".join(chooser.choice(letters) for _ in range(chooser.randint(1, length))))
    return [{"prompt": f"copy:{word}=", "completion": word} for word in sorted(words)]


def write_config(path: Path, content: Mapping[str, Any], changes: Mapping[str, Any]) -> Path:
    """Writes a config; a section that changes keeps its other keys."""
    whole = dict(content)
    for key, value in changes.items():
        whole[key] = whole.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a finished run. A test that changes something in it takes a copy, or puts it back."""
    from finished_runs import finish  # which needs this file

    return finish(tmp_path_factory.mktemp("finished"), tiny_model)


@pytest.fixture
def run_config(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Writes a config of a run that takes about a second, and its data; keyword arguments change it."""

    def write(**changes: Any) -> Path:
        rows = copy_rows(60)
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        content: dict[str, Any] = {
            "model": str(tiny_model),
            "device": "cpu",
            "threads": 1,
            "data": {"train": "train.jsonl", "proxy": 0.5, "proxy_minimum": 10, "max_length": 32},
            "space": {
                "base": "empty",
                "knobs": {
                    "rank": {"values": [2, 4, 8], "scale": "log2"},
                    "alpha_ratio": {"values": [1, 4], "scale": "log2"},
                    "dropout": {"values": [0.0, 0.1]},
                    "batch_size": {"values": [4, 8], "scale": "log2"},
                    "learning_rate": {"values": [1e-4, 1e-3, 1e-2], "scale": "log10"},
                },
            },
            "scoring": {"metric": "loss"},
            "language": {"model": "none"},
            "search": {"trials": 5, "seed": 3},
            "execution": {"workers": 0},  # isolated workers have tests of their own
        }
        return write_config(tmp_path / "config.yaml", content, changes)

    return write


@pytest.fixture
def loracle(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Loracle:
    """Runs the command in this process; gives its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loracle", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        return int(ended.value.code or 0), out, errors

    return run


@pytest.fixture
def said(loracle: Loracle) -> Callable[..., str]:
    """Runs the command; gives what it prints, or its messages where it is to be refused."""

    def run(*arguments: object, refused: bool = False) -> str:
        code, out, errors = loracle(*arguments)
        assert code == (2 if refused else 0), errors
        return errors if refused else out

    return run
