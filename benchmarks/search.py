"""How good is the recommended config after 10, 20 and 30 trials? All methods, all landscapes, paired seeds.

    python benchmarks/search.py run --methods numeric,tpe --landscapes synthetic --seeds 20 --jobs 2
    python benchmarks/search.py show

`run` adds to `results/search.jsonl`, leaves out what is there already, and can be stopped at any time. `show`
prints tables and writes `results/search.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import search_report as report
import torch
from landscape_data import Landscape, load_landscapes, synthetic_landscapes
from search_methods import FACTORY, SAME_SEEDS, Method, Start, methods, table_space

HERE = Path(__file__).parent
LOG = HERE / "results" / "search.jsonl"
FIGURES = HERE.parent / "docs" / "figures"
SOURCES = ("own", "rows", "real", "table", "synthetic")
KEYS = ("landscape", "regime", "method", "seed", "n")
LARGE, SMALL = (3, 5, 10, 15, 20, 25, 30), (3, 5, 8)  # trials at which the recommendation is judged


def checkpoints(landscape: Landscape) -> tuple[int, ...]:
    """Small tables are judged after fewer trials."""
    return LARGE if len(landscape.candidates) >= 60 else SMALL


def observe(landscape: Landscape, index: int, seed: int, before: int = 0) -> float | None:
    """A noisy value; the same config has the same noise for every method of a seed. None: it failed.

    `before` counts earlier trainings of the config: each has its own noise.
    """
    value = landscape.value(index)
    if np.isnan(value):
        return None
    key = [seed, index, before] if before else [seed, index]
    return value + landscape.noise_sd * float(np.random.default_rng(key).normal())


def regret(landscape: Landscape, index: int) -> float:
    """Normalised simple regret: 0 is the best candidate, 1 the median one."""
    return float(landscape.regrets[landscape.place(index)])


def replayed(landscape: Landscape, method: Method, seed: int, checked: Sequence[int]) -> dict[int, float]:
    """Regret of what a method recommends after so many trials, as far as there are candidates."""
    found = {}
    for n in range(1, min(max(checked), len(landscape.candidates)) + 1):
        index = method.ask()
        method.tell(index, observe(landscape, index, seed))
        if n in checked:
            found[n] = regret(landscape, method.recommend())
    return found


def search(landscape: Landscape, regime: str, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """One search; a row at every checkpoint."""
    start = Start(landscape, table_space(landscape), regime, seed)
    method = methods([name])[name](start)
    wasted = dict(zip(landscape.candidates.tolist(), landscape.wasted.tolist(), strict=True))
    began, spent, trained = time.perf_counter(), 0, Counter[int]()
    last = min(checkpoints(landscape)[-1], len(landscape.candidates))
    for n in range(1, last + 1):
        index = method.ask()
        method.tell(index, observe(landscape, index, seed, trained[index]))
        trained[index] += 1
        spent += wasted[index]
        if n in checkpoints(landscape):
            yield {
                "landscape": landscape.name,
                "regime": regime,
                "method": name,
                "seed": seed,
                "n": n,
                "regret": round(regret(landscape, method.recommend()), 6),
                "wasted": spent / n,
                "seconds": round(time.perf_counter() - began, 2),
            }


def _work(job: tuple[str, str, str, int]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    name, regime, method, seed = job
    return list(search(_LANDSCAPES[name], regime, method, seed))


_LANDSCAPES: dict[str, Landscape] = {}


def read_log() -> list[dict[str, Any]]:
    """All rows so far; a line cut off by a kill is left out. Without a log, the rows that are in git."""
    if not LOG.exists():
        stored = LOG.with_suffix(".json")
        return list(json.loads(stored.read_text())["rows"]) if stored.exists() else []
    rows = []
    for line in LOG.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def store(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """Writes `search.json`: a row a line, without what no table needs."""
    lines = []
    for row in rows:
        short = {name: row[name] for name in KEYS} | {"regret": round(row["regret"], 4)}
        if row["n"] in (LARGE[-1], SMALL[-1]) and "wasted" in row:
            short["wasted"] = round(row["wasted"], 4)
        lines.append(json.dumps(short, separators=(",", ":")))
    content = ",\n".join(lines)
    LOG.with_suffix(".json").write_text(f'{{"about": {json.dumps(about)},\n"rows": [\n{content}\n]}}\n')


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing."""
    further = synthetic_landscapes(seeds=[int(seed) for seed in arguments.formulas.split(",") if seed])
    chosen = [
        landscape
        for landscape in [*load_landscapes(SOURCES), *further]
        if any(
            landscape.name.startswith(part) if part not in SOURCES else landscape.source == part
            for part in arguments.landscapes.split(",")
        )
    ]
    _LANDSCAPES.update({landscape.name: landscape for landscape in chosen})
    for landscape in chosen:
        _ = landscape.values  # fitted once, before the processes split
    done = {(r["landscape"], r["regime"], r["method"], r["seed"]) for r in read_log()}
    jobs = [
        (landscape.name, regime, method, seed)
        for seed in range(arguments.seeds)
        for landscape in chosen
        for method in arguments.methods.split(",")
        for regime in arguments.regimes.split(",")
        if (landscape.name, regime, method, seed) not in done
    ]
    print(f"{len(jobs)} searches to do on {len(chosen)} landscapes")
    LOG.parent.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    with context.Pool(arguments.jobs) as pool, LOG.open("a") as log:
        for i, rows in enumerate(pool.imap_unordered(_work, jobs), 1):
            log.write("".join(json.dumps(row) + "\n" for row in rows))
            log.flush()
            if i % 50 == 0:
                print(f"{i} of {len(jobs)}", flush=True)


def about(*packages: str) -> dict[str, Any]:
    """Date, machine and versions, for what is written."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("loracle", "torch", *packages)},
    }


def show(arguments: argparse.Namespace) -> None:
    """Prints tables of regret, rank, paired differences and waste; writes the rows and two figures."""
    rows = sorted(read_log(), key=lambda row: [row[name] for name in KEYS])
    if LOG.exists() and rows:
        store(rows, about("optuna", "botorch"))
    results = report.Results(rows)
    grids, short = ("own", "synthetic"), (3, 5, 8)
    for regime in (SAME_SEEDS, FACTORY):
        for groups in (grids, ("own",), ("synthetic",), ("noise",), ("more",), ("rows",)):
            print(report.table(results, regime, groups, (10, 20, 30), report.MAIN))
        print(report.table(results, regime, ("table",), short, report.MAIN))
        for groups in (grids, ("rows",)):
            print(report.advantage_table(results, regime, 30, groups))
        print(report.advantage_table(results, regime, 8, ("table",)))
        worse = [
            *report.worse_than_random(results, regime, 30),
            *report.worse_than_random(results, regime, 8),
        ]
        print(f"{regime}: default worse than random beyond noise: {', '.join(worse) or 'nowhere'}\n")
        if arguments.by_landscape:
            for n in (10, 30):
                print(report.by_landscape(results, regime, n, report.MAIN))
    for groups in (grids, ("rows",)):
        print(report.wasted_table(rows, groups))
    others = sorted({row["method"] for row in rows} - set(report.MAIN))
    print(report.table(results, SAME_SEEDS, ("rows",), (10, 20, 30), ("default", "paper", *others)))
    if rows and not arguments.no_figures:
        report.figures(results, FIGURES)


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--methods", default="random,tpe,gp_sampler,botorch,smac,numeric")
    runner.add_argument("--landscapes", default="own,table,synthetic", help="sources or beginnings of names")
    runner.add_argument("--formulas", default="", help="seeds of further formulas, such as 1,2")
    runner.add_argument("--regimes", default=f"{SAME_SEEDS},{FACTORY}")
    runner.add_argument("--seeds", type=int, default=20)
    runner.add_argument("--jobs", type=int, default=1)
    runner.set_defaults(action=run)
    shower = commands.add_parser("show")
    shower.add_argument("--by-landscape", action="store_true")
    shower.add_argument("--no-figures", action="store_true")
    shower.set_defaults(action=show)
    arguments = parser.parse_args(given)
    arguments.action(arguments)


if __name__ == "__main__":
    main()
