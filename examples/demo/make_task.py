"""Writes the demo's new task: rotate a string to the left by one or two letters, `rot 2,dbcae=` -> `caedb`.

    python examples/demo/make_task.py --output loracle/demo

The base model of `pretrain.py` copies, reverses and sorts such strings, but has never seen this operation.
Every prompt is unique, within a split and across the three.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from pathlib import Path

SHORTEST, LONGEST = 4, 8  # letters of a string
SHIFTS = (1, 2)
SIZES = {"test": 500, "validation": 300, "train": 6000}  # examples


def rotate(text: str, shift: int) -> str:
    """The string with its first `shift` letters moved to the end."""
    return text[shift:] + text[:shift]


def examples(n: int, seed: int) -> list[dict[str, str]]:
    """`n` examples with unique prompts."""
    rng = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < n:
        text = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(SHORTEST, LONGEST)))
        shift = rng.choice(SHIFTS)
        found[f"rot {shift},{text}="] = rotate(text, shift)
    return [{"prompt": prompt, "completion": completion} for prompt, completion in found.items()]


def splits(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """The three splits, by name; what is drawn first is test, so a larger train changes nothing else."""
    everything = iter(examples(sum(SIZES.values()), seed))
    return {name: [next(everything) for _ in range(size)] for name, size in SIZES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the three .jsonl files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in splits(arguments.seed).items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (arguments.output / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(rows)} examples")


if __name__ == "__main__":
    main()
