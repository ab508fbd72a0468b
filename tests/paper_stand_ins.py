"""Stand-ins for what the configs of `examples/paper` download: datasets and models of the same names and
columns, tiny and made here, in folders that `datasets` and `transformers` read in the place of the hub's."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from architectures import SIZES
from places import ROOT
from small_tokenizers import taught
from transformers import AutoConfig, AutoModelForCausalLM

PAPER = ROOT / "examples" / "paper"
MODELS = {
    "meta-llama/Llama-2-7b-hf": "llama",
    "mistralai/Mistral-7B-v0.1": "mistral",
    "google/gemma-7b": "gemma",
    "Qwen/Qwen2-7B-Instruct": "qwen2",
}
SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)

Row = dict[str, Any]


def script(name: str, folder: Path = PAPER) -> ModuleType:
    """A program of the folder, as a module."""
    spec = spec_from_file_location(f"paper_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(folder: Path) -> Path:
    """Copies `examples/paper` into the folder, with models beside the configs, and datasets in `hub`."""
    paper = Path(shutil.copytree(PAPER, folder / "paper", ignore=shutil.ignore_patterns("data", "runs")))
    for name, kind in MODELS.items():
        _save_model(folder / "models" / name, kind)
    for kind in ("math", "code", "conversation"):
        for owner in {name.partition("/")[0] for name in MODELS}:
            os.symlink(folder / "models" / owner, paper / kind / owner)
    for dataset, content in datasets().items():
        _save_dataset(folder / "hub" / dataset, content)
    return paper


@contextmanager
def judge() -> Iterator[str]:
    """The address of an endpoint like OpenAI's, which rates by the length of what it reads."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = f"Rating: {1 + len(asked['messages'][-1]['content']) % 10}"
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _save_model(folder: Path, kind: str) -> None:
    prompt = (PAPER / "prompt.yaml").read_text(encoding="utf-8")
    numbers = ["rank=128\nalpha=16384\ndropout=0.05\nbatch_size=256\nlearning_rate=5e-05"] * 50
    tokenizer = taught([prompt, *numbers], 600)
    sizes = SIZES | {"max_position_embeddings": 4096, "vocab_size": len(tokenizer)}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes, **ends, pad_token_id=None, initializer_range=0.2)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _save_dataset(folder: Path, configs: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
    described = []
    for config, splits in configs.items():
        files = []
        for split, rows in splits.items():
            path = folder / config / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files.append({"split": split, "path": f"{config}/{split}.jsonl"})
        described.append({"config_name": config, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': described})}---\n")


def datasets() -> dict[str, dict[str, dict[str, list[Row]]]]:
    """Rows by dataset, config and split, with the columns of the real ones."""
    return {
        "meta-math/MetaMathQA": {"default": {"train": [_metamath(i) for i in range(40)]}},
        "openai/gsm8k": {
            "main": {"test": [_gsm8k(i) for i in range(40)], "train": [_gsm8k(i) for i in range(40, 100)]}
        },
        "EleutherAI/hendrycks_math": {
            subject: {"test": [_math(subject, i) for i in range(6)]} for subject in SUBJECTS
        },
        "m-a-p/CodeFeedback-Filtered-Instruction": {"default": {"train": [_feedback(i) for i in range(50)]}},
        "openai/openai_humaneval": {"openai_humaneval": {"test": [_humaneval(i) for i in range(8)]}},
        "google-research-datasets/mbpp": {
            "sanitized": {
                split: [_mbpp(4 * start + i) for i in range(4)]
                for start, split in enumerate(("train", "validation", "test", "prompt"))
            }
        },
        "WizardLMTeam/WizardLM_evol_instruct_V2_196k": {
            "default": {"train": [_wizard(i) for i in range(40)]}
        },
        "HuggingFaceH4/mt_bench_prompts": {"default": {"train": [_bench(i) for i in range(16)]}},
    }


def _metamath(i: int) -> Row:
    return {
        "type": "GSM_AnsAug",
        "query": f"Tom has {i} apples and buys 2. How many has he?",
        "original_question": f"Tom has {i} apples and buys 2. How many has he?",
        "response": f"He has {i} + 2 = {i + 2}.\n#### {i + 2}\nThe answer is: {i + 2}",
    }


def _gsm8k(i: int) -> Row:
    return {
        "question": f"Ann has {i} pens and loses 1.",
        "answer": f"<<{i}-1={i - 1}>>{i - 1} are left.\n#### {i - 1}",
    }


def _math(subject: str, i: int) -> Row:
    solution = rf"It is $\boxed{{\frac{{{i}}}{{7}}}}$ in {subject}."
    return {
        "problem": f"What is {i}/7 in {subject}?",
        "level": "Level 1",
        "type": subject,
        "solution": solution,
    }


def _feedback(i: int) -> Row:
    return {
        "query": f"Write a function that adds {i}.",
        "answer": f"```python\ndef add(x):\n    return x + {i}\n```",
        "resource": "made here",
        "lang": "python" if i % 5 else "rust",
    }


def _humaneval(i: int) -> Row:
    return {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def plus_{i}(x):\n    """Add {i}."""\n',
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
        "entry_point": f"plus_{i}",
    }


def _mbpp(i: int) -> Row:
    return {
        "source_file": "made here",
        "task_id": i,
        "prompt": f"Write a function to multiply by {i}.",
        "code": f"def times(x):\n    return x * {i}",
        "test_imports": ["import math"],
        "test_list": [f"assert times(2) == {2 * i}", f"assert times(0) == math.floor({0})"],
    }


def _wizard(i: int) -> Row:
    turns = (("human", f"Say the number {i} in words."), ("gpt", f"The number {i} it is."))
    return {"idx": f"made-{i}", "conversations": [{"from": who, "value": said} for who, said in turns]}


def _bench(i: int) -> Row:
    return {
        "prompt": [f"Write about the number {i}.", "Now shorter."],
        "prompt_id": i,
        "category": "writing" if i < 8 else "math",
        "reference": [] if i < 8 else [f"It is {i}.", "It is."],
    }
