"""The shipped demo: its resources load, stay small, and are what the scripts of examples/demo say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from places import PACKAGE, ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from loracle.config.loading import load_config
from loracle.config.settings import build_space

DEMO = PACKAGE / "demo"
SPLITS = ("train", "validation", "test")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "demo" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_resources_are_small() -> None:
    assert (DEMO / "base" / "model.safetensors").stat().st_size < 5e6
    assert sum((DEMO / f"{name}.jsonl").stat().st_size for name in SPLITS) < 5e5


def test_splits_are_what_make_task_writes_and_share_no_prompt() -> None:
    made = script("make_task").splits()
    for name in SPLITS:
        assert rows(name) == made[name]
    prompts = [row["prompt"] for name in SPLITS for row in rows(name)]
    assert len(set(prompts)) == len(prompts)


def test_every_completion_is_the_rotated_string() -> None:
    for row in (row for name in SPLITS for row in rows(name)):
        shift, text = row["prompt"].removeprefix("rot ").removesuffix("=").split(",")
        assert row["completion"] == text[int(shift) :] + text[: int(shift)]


def test_base_model_does_what_it_was_pretrained_for_and_not_the_new_task() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    model = AutoModelForCausalLM.from_pretrained(DEMO / "base", use_safetensors=True)
    prompts = ["copy dbcae=", "rev dbcae=", "sort dbcae=", "next dbcae=", "rot 1,dbcae="]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    written = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert written[:4] == ["dbcae", "eacbd", "abcde", "ecdbf"]
    assert written[4] != "bcaed"


def test_tokenizer_is_lossless_on_the_data_and_marks_only_the_beginning() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for row in rows("test"):
        text = row["prompt"] + row["completion"]
        ids = tokenizer.encode(text)
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) == len(text) + 1
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_config_names_the_shipped_files_and_few_enough_candidates() -> None:
    config = load_config(DEMO / "config.yaml")
    assert Path(config.model) == DEMO / "base"
    assert config.data.train.is_file()
    examples = int(config.data.proxy * len(rows("train")))
    space = build_space(config.space, batch_limit=examples)
    assert 1000 <= len(space.candidates) <= 2000
    assert space.index({k: v for k, v in config.standard.items() if k != "alpha_ratio"}) in space.candidates


@pytest.mark.parametrize("name", ["copy", "reverse", "sort", "successor", "count", "add", "compare"])
def test_pretraining_examples_fit_the_tokenizer(name: str) -> None:
    import random

    pretrain = script("pretrain")
    tokenizer = pretrain.build_tokenizer()
    rng = random.Random(0)
    for _ in range(50):
        prompt, completion = getattr(pretrain, name)(rng)
        ids = tokenizer.encode(prompt + completion)
        assert tokenizer.unk_token_id not in ids
        assert not prompt.startswith("rot")


def test_pretraining_script_trains(tmp_path: Path) -> None:
    pretrain = script("pretrain")
    torch.manual_seed(0)
    tokenizer = pretrain.build_tokenizer()
    model = pretrain.build_model(tokenizer, width=32, layers=1)
    before = model.lm_head.weight.detach().clone()
    pretrain.pretrain(model, tokenizer, steps=3, batch=8, rate=1e-3, seed=0)
    assert not torch.equal(before, model.lm_head.weight)
    assert set(pretrain.exact_match(model, tokenizer, n=2, seed=0)) == {t.__name__ for t in pretrain.TASKS}
