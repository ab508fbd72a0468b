"""How fast output of an own command is read: its log, its last result, bars and losses.

Each kind of output is made once as a file and printed by `cat`, first into `cat > /dev/null`, then into
Loracle. What counts is the ratio of the two, measured in the same run, best of three; the rest of the table
is what this machine gave. A log stays below 3.1 MB, which is checked.

    python benchmarks/output.py --megabytes 1000 --out benchmarks/results/output.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from loracle.config.loading import parse_config
from loracle.own_trainer.call import Call
from loracle.own_trainer.command import Command

LOG = 3_100_000  # bytes, at most
KINDS: dict[str, tuple[Callable[[int], str], str]] = {  # name: (line i, pattern)
    "lines of 100, pattern with a word": (lambda i: f"{i:>92} words.\n", r"accuracy: (\S+)"),
    "lines of 100, pattern without": (lambda i: f"{i:>92} words.\n", r"^[a-z]+ (\d+\.\d+)$"),
    "lines of 2": (lambda i: "x\n", r"accuracy: (\S+)"),
    "bars": (
        lambda i: f"\r {i % 5000}/5000 [00:01<00:02, 3.1it/s] loss={1 / (i + 1):.4f}",
        r"accuracy: (\S+)",
    ),
    "results on every line": (lambda i: f"step {i} accuracy: 0.{i % 1000:03}\n", r"accuracy: (\S+)"),
    "no line ends": (lambda i: "abcdefghijklmnopqrstuvwxyz" * 10, r"accuracy: (\S+)"),
}


def write(path: Path, line: Callable[[int], str], megabytes: int) -> int:
    """Some 20 MB of lines, again and again, and a result at the end; returns its size in bytes."""
    block, i = [], 0
    size = 0
    while size < 20_000_000:
        block.append(line(i))
        size += len(block[-1])
        i += 1
    text = "".join(block).encode()
    with path.open("wb") as file:
        for _ in range(max(1, round(megabytes * 1e6 / len(text)))):
            file.write(text)
        file.write(b"\naccuracy: 0.75\nabc 0.75\n")
    return path.stat().st_size


def seconds_of_cat(path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["sh", "-c", 'cat "$0" | cat > /dev/null', str(path)], check=True)
    return time.perf_counter() - began


def seconds_of_loracle(path: Path, pattern: str, folder: Path) -> float:
    text = json.dumps(
        {
            "objective": {
                "command": ["cat", str(path)],
                "result": {"regex": pattern},
                "direction": "maximize",
                "environment": {"UNUSED": "{x}"},
            },
            "space": {"base": "empty", "knobs": {"x": {"values": [1]}}},
        }
    )
    settings = parse_config(text).objective
    assert settings is not None
    command = Command(settings)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    began = time.perf_counter()
    found = command(Call({"x": 1}, 0, folder, "search", 1.0, lambda step, total, loss: None))
    seconds = time.perf_counter() - began
    assert getattr(found, "result", None) == 0.75, found
    assert (folder / "log.txt").stat().st_size < LOG
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=200, help="of output")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "output")
        for name, (line, pattern) in KINDS.items():
            size = write(path, line, arguments.megabytes)
            cat = min(seconds_of_cat(path) for _ in range(3))
            ours = min(seconds_of_loracle(path, pattern, Path(place, "trial")) for _ in range(3))
            speed, reference = size / ours / 1e6, size / cat / 1e6
            rows.append({"kind": name, "ratio": ours / cat, "mb_per_s": speed, "cat_mb_per_s": reference})
            print(
                f"{name:<34} {ours / cat:6.1f} times cat {speed:7.0f} MB/s   cat {reference:6.0f}", flush=True
            )
    if arguments.out:
        content = {"command": " ".join(sys.argv), "megabytes": arguments.megabytes, "rows": rows}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
