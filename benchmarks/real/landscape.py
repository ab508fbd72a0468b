"""The trainings of `programme.py` as landscapes, as in `benchmarks/landscapes`, and searches on them.

    python benchmarks/real/programme.py pack      # benchmarks/landscapes/real: one table a task
    python benchmarks/real/programme.py replay    # methods on the packed tables, 20 seeds each

A table holds every training of a task with seed 0: the spread configs of `proxy` and `full`, and the trials
of all searches. `origin` says whose a row is: `spread`, or the method that chose it. Searches dwell on good
configs, so `spread` rows alone tell how common those are. `curve`: the loss of each step, in nats a token.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from landscape_data import by_config, read_rows, real_landscapes
from landscapes import COLUMNS, RESULTS, design
from programme import (
    DESIGN_SEED,
    N_CONFIGS,
    PEERS,
    PRESETS,
    SEEDS,
    Part,
    run_folder,
)
from scipy.stats import spearmanr
from search import search
from search_methods import FACTORY
from speed import about
from tasks import SIZES, TASKS, Task

from loracle import default_space
from loracle.text.files import write_atomically

FOLDER = RESULTS / "real"
REPLAY = RESULTS.parent / "results" / "real-replay.json"
REAL_COLUMNS = (*COLUMNS, "tokens", "origin", "curve")
METHODS = ("default", "numeric", "hand", "list", "random", "tpe-3", "tpe", "gp_sampler-3", "botorch")
REPLAYS = 20  # seeds of a method

Row = dict[str, Any]


# -- packing ----------------------------------------------------------------------------------------


def measured(task: Task) -> Iterator[Row]:
    """Every training of a task that is there, the spread ones first."""
    for kind, fraction in (("full", 1.0), ("proxy", None)):
        for number in range(N_CONFIGS):
            if (found := Part(task.name, kind, str(number)).read()) is not None:
                yield _row(task, found, "spread", fraction)
    for preset in PRESETS:
        for path in sorted(run_folder(task.name, preset, SEEDS[0]).glob("trials/*/outcome.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            log = (path.parent / "log.txt").read_text(encoding="utf-8").splitlines()
            curve = [float(line.split("\t")[1]) for line in log if line[0].isdigit()]
            yield _row(task, {**found, "curve": curve}, preset)
    for peer in PEERS:
        log_file = Part(task.name, "peer", peer, SEEDS[0]).path.with_suffix(".jsonl")
        if log_file.exists():
            for line in log_file.read_text(encoding="utf-8").splitlines():
                yield _row(task, json.loads(line), peer)


def _row(task: Task, found: Mapping[str, Any], origin: str, fraction: float | None = None) -> Row:
    """A row of the table; `fraction` None: of the data that the metrics state."""
    metrics = found["metrics"]
    failure = found["failure"]
    if isinstance(failure, Mapping):
        failure = failure["kind"]
    if fraction is None:
        fraction = metrics.get("n_examples", 200.0) / SIZES["train"]
    row: Row = {
        "task": task.name,
        "family": "gemma-3-270m",
        **found["config"],
        "fraction": round(fraction, 4),
        "seed": SEEDS[0],
        "value": "" if found["value"] is None else f"{found['value']:.6g}",
        "metric": task.metric,
        "failure": failure or "",
        "seconds": f"{found['seconds']:.1f}",
        "origin": origin,
        "curve": " ".join(f"{loss:.4g}" for loss in found["curve"]),
    }
    for name, value in metrics.items():
        if name in (*COLUMNS, "tokens") and name not in row:
            row[name] = f"{value:.6g}"
    return row


def pack() -> None:
    """Writes the tables that have rows, and how they were made."""
    FOLDER.mkdir(exist_ok=True)
    tasks: dict[str, Any] = {}
    for task in TASKS.values():
        rows = list(measured(task))
        base = Part(task.name, "base", "model").read()
        if not rows or base is None:
            continue
        text = io.StringIO()
        writer = csv.DictWriter(text, REAL_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
        (FOLDER / f"{task.name}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
        tasks[task.name] = {
            "skill": task.skill,
            "metric": task.metric,
            "material": task.material,
            "licence": task.licence,
            "untrained_value": base["validation"]["value"],
            "n_train": SIZES["train"],
            "n_validation": SIZES["validation"],
            "rows": len(rows),
            "rows_by_origin": {
                o: sum(r["origin"] == o for r in rows) for o in {r["origin"]: 0 for r in rows}
            },
            "full": sum(row["fraction"] == 1.0 for row in rows),
            "seconds": round(sum(float(row["seconds"]) for row in rows)),
        }
    content = {
        **about("scipy"),
        "program": "benchmarks/real/programme.py",
        "model": "Gemma 3 270M (from Q4_K_M), bfloat16; 268M parameters, 18 layers, width 640",
        "knobs": {knob.name: list(knob.values) for knob in default_space()},
        "design": {
            "sequence": "scrambled Sobol",
            "seed": DESIGN_SEED,
            "indices": ",".join(map(str, design(default_space(), N_CONFIGS, DESIGN_SEED))),
        },
        "tasks": tasks,
    }
    write_atomically(FOLDER / "provenance.json", json.dumps(content, indent=1) + "\n")


# -- what they say ----------------------------------------------------------------------------------


def packed(folder: Path = FOLDER) -> dict[str, list[dict[str, str]]]:
    """The rows of every packed task."""
    if not (folder / "provenance.json").exists():
        return {}
    stated = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    return {task: read_rows(task, folder) for task in stated["tasks"]}


def ranks(task: str, rows: Sequence[Mapping[str, str]]) -> Row | None:
    """How the proxy ranks the spread configs against all data; None where fewer than 4 have both."""
    space = default_space()
    spread = [row for row in rows if row["origin"] == "spread"]
    full = by_config(space, [row for row in spread if float(row["fraction"]) == 1.0])
    proxy = by_config(space, [row for row in spread if float(row["fraction"]) < 1.0])
    standard = design(space, 1, DESIGN_SEED)[0]
    worst = -np.inf  # of a training that failed
    pairs = np.array(
        [[np.nan_to_num(by[i][0], nan=worst) for by in (proxy, full)] for i in full if i in proxy]
    )
    if len(pairs) < 4:
        return None
    upper = pairs[pairs[:, 1] >= np.median(pairs[:, 1])]
    chosen = pairs[np.argmax(pairs[:, 0])]
    return {
        "task": task,
        "configs": len(pairs),
        "spearman": float(spearmanr(pairs).statistic),
        "spearman_better_half": float(spearmanr(upper).statistic),
        "standard": full[standard][0],
        "best": float(pairs[:, 1].max()),
        "chosen_by_proxy": float(chosen[1]),
        "standard_on_proxy": proxy[standard][0],
        "best_on_proxy": float(np.nanmax([values[0] for values in proxy.values()])),
        "better_than_standard": float(np.mean(pairs[:, 1] > full[standard][0])),
    }


def replay() -> list[Row]:
    """Searches on each packed table, each method started its own way; a row a search and checkpoint."""
    found = []
    for surface in real_landscapes():
        for method in METHODS:
            for seed in range(REPLAYS):
                for row in search(surface, FACTORY, method, seed):
                    found.append({name: row[name] for name in ("landscape", "method", "seed", "n", "regret")})
    return found


def store_replay() -> None:
    """Runs all replays and writes their rows."""
    rows = [json.dumps(row, separators=(",", ":")) for row in replay()]
    lines = ",\n".join(rows)
    write_atomically(
        REPLAY, f'{{"about": {json.dumps(about("optuna", "botorch"))},\n"rows": [\n{lines}\n]}}\n'
    )


def replay_table() -> list[Row]:
    """Mean regret and its standard error over seeds, a row for each table, method and number of trials."""
    if not REPLAY.exists():
        return []
    rows = json.loads(REPLAY.read_text(encoding="utf-8"))["rows"]
    groups: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        by_trials = groups.setdefault((row["landscape"], row["method"]), {})
        by_trials.setdefault(row["n"], []).append(row["regret"])
    return [
        {
            "landscape": name,
            "method": method,
            **{
                f"after_{n}": f"{np.mean(found):.3f} ± {np.std(found) / np.sqrt(len(found)):.3f}"
                for n, found in by_trials.items()
            },
        }
        for (name, method), by_trials in groups.items()
    ]
