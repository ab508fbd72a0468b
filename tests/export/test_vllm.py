"""The command for vLLM has vLLM's own names, and only what it can serve is exported."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from loracle.errors import StudyError
from loracle.export import export


def serve_parser() -> argparse.ArgumentParser:
    """The arguments that are used, as vllm/engine/arg_utils.py and vllm/entrypoints declare them (0.33)."""
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("model_tag")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-lora-rank", type=int, choices=(1, 8, 16, 32, 64, 128, 256, 320, 512))
    parser.add_argument("--max-loras", type=int)
    parser.add_argument("--lora-modules", nargs="+")
    parser.add_argument("--tokenizer")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float", "float16", "float32", "half"))
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run, without checksums, whose saved adapter says something else of itself."""

    def change(**settings: Any) -> Path:
        copy = tmp_path / "changed"
        shutil.copytree(run, copy, dirs_exist_ok=True)
        for noted in copy.glob("final/*/checksums.json"):
            noted.unlink()
        path = copy / "best" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return copy

    return change


def command(folder: Path) -> argparse.Namespace:
    last = (folder / "serve.sh").read_text().splitlines()[-1]
    words = shlex.split(last.removeprefix("exec vllm serve ").removesuffix(' "$@"'))
    return serve_parser().parse_args(words)


def test_the_command_parses_and_finds_its_adapter(run: Path, tmp_path: Path, tiny_model: Path) -> None:
    made = export(run, tmp_path / "out", "vllm")
    found = command(tmp_path / "out")
    assert (found.model_tag, found.enable_lora, found.max_lora_rank) == (str(tiny_model), True, 8)
    name, _, folder = found.lora_modules[0].partition("=")
    assert (name, (tmp_path / "out" / folder / "adapter_model.safetensors").exists()) == ("tuned", True)
    assert (tmp_path / "out" / found.tokenizer / "tokenizer.json").exists()
    assert found.dtype == "float32"
    assert any("rank 4 takes the slots of --max-lora-rank 8" in note for note in made.notes)


@pytest.mark.parametrize(("rank", "slots"), [(1, 1), (9, 16), (256, 256), (257, 320), (512, 512)])
def test_ranks_take_the_next_larger_slots(
    changed: Callable[..., Path], tmp_path: Path, rank: int, slots: int
) -> None:
    export(changed(r=rank), tmp_path / "out", "vllm")
    assert command(tmp_path / "out").max_lora_rank == slots


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 513}, "up to rank 512, and this one has 513"),
        ({"use_dora": True}, "no DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"init_lora_weights": "pissa"}, "begin with pissa"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_and_nothing_is_written(
    changed: Callable[..., Path], tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyError, match=f"{said}.*export --to merged"):
        export(changed(**settings), tmp_path / "out", "vllm")
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_no_more_tokens_are_asked_for_than_the_model_reads(run: Path, tmp_path: Path) -> None:
    """The tiny model reads 128; vLLM refuses to start with more."""
    copy = tmp_path / "long"
    shutil.copytree(run, copy)
    path = copy / "best" / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["sft"]["max_length"] = 512  # the default of data.max_length
    path.write_text(yaml.safe_dump(recipe))
    export(copy, tmp_path / "out", "vllm")
    assert command(tmp_path / "out").max_model_len == 128
