"""Fetches the public data of the published experiment and writes the files that the configs here name.

    python examples/paper/prepare.py math code conversation

Needs `pip install datasets` and access to the hub (or its cache). Writes `data/KIND/SPLIT.jsonl` beside this
file. The published code chooses by test items that it also reports; here those that a search chooses by
(`validation`) and those that the final trainings are scored on (`test`) are disjoint.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import load_dataset

FOLDER = Path(__file__).parent / "data"
TRAIN = 100_000  # rows, the first ones
# What the published trainer (PiSSA's, after Stanford Alpaca) asks with.
PROMPT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
MATH = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)

Row = dict[str, Any]


def pair(asked: str, answer: str, **more: str) -> Row:
    return {"prompt": PROMPT.format(asked), "completion": answer, **more}


def split(rows: Iterable[Row], every: int) -> tuple[list[Row], list[Row]]:
    """One of `every` rows to choose by, at equal distances, and the others to report on."""
    rows = list(rows)
    chosen = range(every - 1, len(rows), every)
    return [rows[i] for i in chosen], [row for i, row in enumerate(rows) if i not in chosen]


def math() -> dict[str, list[Row]]:
    """MetaMathQA; of the test items of GSM8K and MATH one of ten to choose by: 131 and 500, as published."""
    train = load_dataset("meta-math/MetaMathQA", split="train")
    gsm8k = split(map(_of_gsm8k, load_dataset("openai/gsm8k", "main", split="test")), 10)
    competition = (load_dataset("EleutherAI/hendrycks_math", name, split="test") for name in MATH)
    hard = split((_of_math(row) for part in competition for row in part), 10)
    return {
        "train": [pair(row["query"], row["response"]) for row in first(train, TRAIN)],
        "validation": gsm8k[0] + hard[0],
        "test": gsm8k[1] + hard[1],
    }


def _of_gsm8k(row: Row) -> Row:
    solution = re.sub(r"<<.*?>>", "", row["answer"])
    return pair(row["question"], f"{solution}\nThe answer is: {solution.rpartition('#### ')[2]}")


def _of_math(row: Row) -> Row:
    return pair(row["problem"], f"{row['solution']}\nThe answer is: {boxed(row['solution'])}")


def boxed(solution: str) -> str:
    r"""What is in the last \boxed{...} or \fbox{...} of a solution, or behind a \boxed without braces."""
    rest = re.split(r"\\(?:boxed|fbox)", solution)[-1]
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    depth = 0
    for i, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:i]
    raise ValueError(f"no end of \\boxed in {solution!r}")


def code() -> dict[str, list[Row]]:
    """Python of CodeFeedback; HumanEval in halves; MBPP by its own splits."""
    train = load_dataset("m-a-p/CodeFeedback-Filtered-Instruction", split="train")
    python = (row for row in train if row["lang"] == "python")
    human = split(map(_of_humaneval, load_dataset("openai/openai_humaneval", split="test")), 2)
    basic = {
        name: list(map(_of_mbpp, load_dataset("google-research-datasets/mbpp", "sanitized", split=name)))
        for name in ("train", "validation", "test")
    }
    validation, test = human[0] + basic["train"] + basic["validation"], human[1] + basic["test"]
    return {
        "train": [pair(row["query"], row["answer"]) for row in first(python, TRAIN)],
        "tests": [{"prompt": row["prompt"], "tests": row.pop("tests")} for row in validation + test],
        "validation": validation,
        "test": test,
    }


def _of_humaneval(row: Row) -> Row:
    asked = f"Complete this Python function.\n\n```python\n{row['prompt']}```"
    answer = f"```python\n{row['prompt']}{row['canonical_solution']}```"
    return pair(asked, answer, tests=f"{row['test']}\ncheck({row['entry_point']})\n")


def _of_mbpp(row: Row) -> Row:
    asked = f"{row['prompt']} Your code should pass this test:\n\n{row['test_list'][0]}"
    tests = "\n".join([*row["test_imports"], *row["test_list"]])
    return pair(asked, f"```python\n{row['code']}\n```", tests=f"{tests}\n")


def conversation() -> dict[str, list[Row]]:
    """WizardLM-Evol-Instruct; first turns of MT-Bench, half of each category to choose by."""
    train = load_dataset("WizardLMTeam/WizardLM_evol_instruct_V2_196k", split="train")
    bench = split(map(_of_bench, load_dataset("HuggingFaceH4/mt_bench_prompts", split="train")), 2)
    return {
        "train": list(first((pair(*turns(row["conversations"])) for row in train), TRAIN)),
        "validation": bench[0],
        "test": bench[1],
    }


def _of_bench(row: Row) -> Row:
    return pair(row["prompt"][0], (row["reference"] or [""])[0] or "No reference.")


def turns(conversation: list[dict[str, str]]) -> tuple[str, str]:
    """Question and answer of a conversation of two turns."""
    asked, answer = (turn["value"] for turn in conversation[:2])
    return asked, answer


def first(rows: Iterable[Row], n: int) -> Iterator[Row]:
    """The first rows that have something on both sides."""
    kept = 0
    for row in rows:
        if kept == n:
            return
        if all(value for value in row.values() if isinstance(value, str)):
            kept += 1
            yield row


KINDS = {"math": math, "code": code, "conversation": conversation}


def write(kind: str, folder: Path = FOLDER) -> None:
    """Writes the files of a kind."""
    (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, rows in KINDS[kind]().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / kind / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{folder / kind / name}.jsonl: {len(rows):,} rows")


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(KINDS)
    if unknown or len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} {' '.join(f'[{kind}]' for kind in KINDS)}")
    for kind in sys.argv[1:]:
        write(kind)
