"""The demo as it ships beside the same search without a budget: what they cost, and what they find.

    OMP_NUM_THREADS=1 python benchmarks/demo_cost.py              # twenty minutes on one core
    OMP_NUM_THREADS=1 python benchmarks/demo_cost.py thorough     # one of the runs anew

`without`: 30 trials, each on 1,500 examples and scored on all 300 validation items, as the demo was before.
`ships`: the demo's own config, so the default of `search.budget` ends the search.
`thorough`: the same with that preset, so 30 trials.
The final trainings of winner and standard settings are no part of the cost of the search. Writes
`results/demo_cost.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from search import about

import loracle

FOLDER = Path(loracle.__file__).parent / "demo"
OUTPUT = Path(__file__).parent / "results" / "demo_cost.json"
DATA = ("train", "validation", "test")
RUNS = ("without", "ships", "thorough")


def config(name: str, folder: Path) -> Path:
    """The demo's config with absolute paths; see above."""
    content = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
    content["model"] = str(FOLDER / content["model"])
    content["data"] |= {part: str(FOLDER / content["data"][part]) for part in DATA}
    content["output"] = str(folder / name)
    if name == "without":
        content["search"] = {"trials": 30}
        content["data"]["proxy"] = 0.25
    if name == "thorough":
        content["search"] = {"preset": "thorough"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def run(name: str, folder: Path) -> dict[str, Any]:
    """One whole run, and what is known of it."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "loracle", "tune", str(config(name, folder)), "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    row = {"run": name, "seconds": round(time.perf_counter() - began), "stopped": found["stopped"]}
    row |= {"cost": found["cost"], "config": found["winner"]["config"]}
    return row | {side: found[side]["score"] for side in ("winner", "standard")}


def main() -> None:
    """Runs all, or those that are named, prints a table and writes the results."""
    wanted = sys.argv[1:] or RUNS
    known = {}
    if set(wanted) != set(RUNS):
        known = {row["run"]: row for row in json.loads(OUTPUT.read_text(encoding="utf-8"))["runs"]}
    with tempfile.TemporaryDirectory() as folder:
        known |= {name: run(name, Path(folder)) for name in wanted}
    rows = [known[name] for name in RUNS]
    for row in rows:
        cost = row["cost"]
        tokens = cost["trained"] + cost["read"] + cost["generated"]
        print(
            f"{row['run']:8} {cost['trainings']:6.2f} trainings, {tokens:9,} tokens, {row['seconds']:4} s"
            f", test {row['winner']:.1%} (standard {row['standard']:.1%}); {row['stopped']}"
        )
    tokens = [sum(row["cost"][kind] for kind in ("trained", "read", "generated")) for row in rows]
    share = tokens[1] / tokens[0]
    print(f"the demo takes {share:.2f} of the tokens")
    content = {"about": about("transformers", "peft"), "share": round(share, 4), "runs": rows}
    OUTPUT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
