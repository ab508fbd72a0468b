"""What the parts of `programme.py` say, as `benchmarks/results/real.json` and as tables.

    python benchmarks/real/programme.py report
    python benchmarks/real/programme.py budgets
    python benchmarks/real/programme.py again

Differences on test are paired by item, with 95 % intervals. `cost` is what a search trained in trainings: the
tokens of all its trials over those of one full training. `cost_in_time` has the seconds of the trials, their
scoring on validation included, over those of one full training and its scoring on test. `trainings` is the
cost as Loracle tells it: tokens trained on, read and written, over those of a full training with its scoring.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape import packed, ranks, replay_table
from programme import (
    BUDGET,
    BUDGET_SEEDS,
    CHECKPOINTS,
    N_TRIALS,
    PEERS,
    PRESETS,
    ROOT,
    SEEDS,
    Part,
    run_folder,
    verdict_file,
)
from speed import about
from tasks import SIZES, TASKS

from loracle.text.files import write_atomically

RESULTS = ROOT / "benchmarks" / "results" / "real.json"

Row = dict[str, Any]


# -- searches ---------------------------------------------------------------------------------------


def task_rows() -> Iterator[Row]:
    """One row for each search and number of trials: base, standard and winner on test."""
    for task in TASKS.values():
        base = Part(task.name, "base", "model").read()
        for preset in PRESETS:
            for seed in SEEDS:
                for n_trials in CHECKPOINTS:
                    found = _found(run_folder(task.name, preset, seed), n_trials)
                    row = {"task": task.name, "metric": task.metric, "preset": preset, "trials": n_trials}
                    if found is not None:
                        yield {**row, "seed": seed, "base": base and base["test"]["value"], **found}


def budget_rows(kind: str = "budget") -> Iterator[Row]:
    """One row for each search with a budget, of parts of a kind; `trials` are as many as fitted in."""
    for task in TASKS.values():
        base = Part(task.name, "base", "model").read()
        for seed in BUDGET_SEEDS:
            folder = run_folder(task.name, kind, seed)
            found = _found(folder, N_TRIALS)
            if found is None:
                continue
            after = json.loads(verdict_file(folder, N_TRIALS).read_text(encoding="utf-8"))
            row = {"task": task.name, "metric": task.metric, "preset": "default", "budget": BUDGET}
            n = len(list(folder.glob("trials/*/outcome.json")))
            row |= {"trials": n, "seed": seed, "base": base and base["test"]["value"]}
            yield {**row, **found, "trainings": after["cost"]["trainings"]}


def store_beside(part: str) -> None:
    """Puts later searches beside what is stored: those with a budget (`budgets`, `smaller`), or with 10 and
    30 trials (`again`). Rows of the same task, preset, trials and seed are replaced, others stay."""
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    kinds = {"budgets": "budget", "smaller": "smaller"}
    rows = list(budget_rows(kinds[part]) if part in kinds else task_rows())
    base = {row["task"]: row["base"] for row in content["tasks"]}
    now = about("optuna")
    rows = [row | {"base": base[row["task"]], "date": now["date"]} for row in rows]

    def key(row: Row) -> tuple[Any, ...]:
        return row["task"], row["preset"], row["seed"], None if part in kinds else row["trials"]

    new = {key(row) for row in rows}
    before = content.get(part, {"rows": []})["rows"]
    rows = sorted([*(row for row in before if key(row) not in new), *rows], key=lambda row: str(key(row)))
    content[part] = {**now, "rows": rows}
    write_atomically(RESULTS, json.dumps(content, indent=1) + "\n")
    columns = ("task", "trials", "seed", "standard", "winner", "relative_gain")
    print_table(rows, (*columns, "difference_low", "difference_high", "cost", "seconds", "failed"))


def _found(folder: Path, n_trials: int) -> Row | None:
    """What a search had found after so many trials; None where it is not so far."""
    kept = verdict_file(folder, n_trials)
    if not kept.exists():
        return None
    after = json.loads(kept.read_text(encoding="utf-8"))
    standard, winner = after["standard"]["test_value"], after["winner"]["test_value"]
    outcomes = sorted(folder.glob("trials/*/outcome.json"))[:n_trials]  # interrupted trials have none
    trials = [json.loads(path.read_text(encoding="utf-8")) for path in outcomes]
    full = after["standard"]["metrics"]
    return {
        "standard": standard,
        "winner": winner,
        "config": after["winner"]["config"],
        "relative_gain": (winner - standard) / abs(standard) if standard else None,
        "difference": after["difference"]["mean"],
        "difference_low": after["difference"]["low"],
        "difference_high": after["difference"]["high"],
        "cost": sum(t["metrics"].get("tokens", 0.0) for t in trials) / full["tokens"],
        "seconds": sum(t["seconds"] for t in trials),
        "failed": sum(t["failure"] is not None for t in trials),
        "verdict": after["standing"],
    }


def peer_rows() -> Iterator[Row]:
    """One row for each live search of others: the best of its trials on validation, and that one on test."""
    for task in TASKS:
        for name in PEERS:
            for seed in SEEDS:
                found = Part(task, "peer", name, seed).read()
                if found is None:
                    continue
                for n_trials in CHECKPOINTS:
                    values = [t["value"] for t in found["trials"][:n_trials] if t["value"] is not None]
                    row = {"task": task, "method": name, "seed": seed, "trials": n_trials}
                    final = found["final"]["value"] if n_trials == len(found["trials"]) else None
                    yield row | {"best_validation": max(values), "test": final}


# -- all of it --------------------------------------------------------------------------------------


def report() -> None:
    """Writes the results and prints their tables."""
    content = {
        **about("optuna"),
        "model": "Gemma 3 270M (from Q4_K_M), bfloat16",
        "sizes": SIZES,
        "tasks": list(task_rows()),
        "budgets": {**about("optuna"), "rows": list(budget_rows())},
        "peers": list(peer_rows()),
        "proxy": [found for task, rows in packed().items() if (found := ranks(task, rows))],
        "replay": replay_table(),
    }
    write_atomically(RESULTS, json.dumps(content, indent=1) + "\n")
    columns = ("task", "preset", "trials", "seed", "base", "standard", "winner", "relative_gain", "cost")
    print_table(content["tasks"], (*columns, "difference_low", "difference_high", "seconds", "failed"))
    print_table(content["peers"], ("task", "method", "seed", "trials", "best_validation", "test"))
    for name in ("proxy", "replay"):
        print_table(content[name], list(content[name][0]) if content[name] else ())


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A Markdown table."""
    if not rows:
        return
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return "" if value is None else str(value)
