"""What the best configs of past runs are worth to a search that tries them first, and what wrong ones cost.

    python benchmarks/past.py run --seeds 10 --jobs 2
    python benchmarks/past.py show

Every search is `default` as it comes, with a prior that has not seen the landscape's family, on the
trainings of our own (`rows`) or on formulas. After the standard settings it tries the best one, or three, of
a past of 24 trainings drawn by seed, which is one of:

* `proxy`: the same task on 10 % of the data (rows); the formula with noise of 0.03.
* `sibling`: another task and base model, on all of its data (rows); another formula of the structure.
* `shuffled`: `proxy` with its values dealt out anew.
* `reversed`: `proxy` with the sign turned over, so that its worst are tried. A run refuses what says its
  direction; this is what comes of a file that says it wrongly.

`run` adds to `results/past.jsonl` and leaves out what is there. `show` prints the table and writes
`results/past.json`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_data import Landscape, by_config, load_landscapes, read_rows, synthetic
from search import about, replayed
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.run.past.candidates import PastTrials
from loracle.search.propose import seed_indices

HERE = Path(__file__).parent
LOG = HERE / "results" / "past.jsonl"
N_PAST = 24
JUDGED = (3, 5, 10)  # trials
KINDS = (
    "none",
    *(f"{kind}, {most}" for kind in ("proxy", "sibling", "shuffled", "reversed") for most in (1, 3)),
)

Pairs = list[tuple[int, float]]


def search(landscape: Landscape, kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """One search with one kind of past; a row at every judged trial."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    preset = ensemble(start)
    if kind != "none":
        what, _, most = kind.partition(", ")
        known = seed_indices(start.space, preset.seed_configs)
        there = set(landscape.candidates.tolist())
        past = [(index, value) for index, value in past_of(landscape, what, seed) if index in there]
        trials = PastTrials(tuple(index for index, _ in past), tuple(value for _, value in past))
        best = [index for index in trials.best_first if index not in known][: int(most)]
        configs = (dict(start.space.config(index)) for index in best)
        preset = replace(preset, seed_configs=(*preset.seed_configs, *configs))
    method = LoracleMethod(start, preset)
    for n, found in replayed(landscape, method, seed, JUDGED).items():
        yield {"landscape": landscape.name, "past": kind, "seed": seed, "n": n, "regret": round(found, 6)}


def past_of(landscape: Landscape, kind: str, seed: int) -> Pairs:
    """The past results of a search, by kind."""
    drawn = np.random.default_rng([seed, 5])
    if kind == "sibling":
        return _drawn(_sibling(landscape), drawn)
    pairs = _drawn(_proxies(landscape, seed), drawn)
    if kind == "shuffled":
        dealt = drawn.permutation(len(pairs))
        return [(index, pairs[i][1]) for (index, _), i in zip(pairs, dealt, strict=True)]
    return [(index, -value) for index, value in pairs] if kind == "reversed" else pairs


def _drawn(pairs: Pairs, drawn: np.random.Generator) -> Pairs:
    return [pairs[i] for i in drawn.permutation(len(pairs))[:N_PAST]]


def _proxies(landscape: Landscape, seed: int) -> Pairs:
    """The same task at another fidelity."""
    if landscape.source == "rows":
        rows = [row for row in read_rows(_task(landscape)) if float(row["fraction"]) != 1.0]
        return _rows(landscape, rows)
    return _noisy(landscape, seed)


def _sibling(landscape: Landscape) -> Pairs:
    """Another task on the same grid."""
    if landscape.source == "rows":
        names = sorted(name for name, one in _LANDSCAPES.items() if one.source == "rows")
        other = _LANDSCAPES[names[(names.index(landscape.name) + 1) % len(names)]]
        return _rows(other, [row for row in read_rows(_task(other)) if float(row["fraction"]) == 1.0])
    _, structure, _, number = landscape.name.split(":")
    return _noisy(synthetic(structure, "low", int(number) + 1), 0)  # type: ignore[arg-type]


def _task(landscape: Landscape) -> str:
    return landscape.name.removesuffix(":rows")


def _rows(landscape: Landscape, rows: list[dict[str, str]]) -> Pairs:
    found = by_config(landscape.space, rows)
    return [(index, float(values[0])) for index, values in sorted(found.items())]


def _noisy(landscape: Landscape, seed: int) -> Pairs:
    random = np.random.default_rng([seed, 7])
    some = random.choice(len(landscape.candidates), 10 * N_PAST, replace=False)
    values = landscape.values[some] + 0.03 * random.normal(size=len(some))
    return list(zip(landscape.candidates[some].tolist(), values.tolist(), strict=True))


_LANDSCAPES: dict[str, Landscape] = {}


def _work(job: tuple[str, str, int]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    name, kind, seed = job
    return list(search(_LANDSCAPES[name], kind, seed))


def read_log() -> list[dict[str, Any]]:
    """All rows so far. Without a log, those that are in git."""
    if LOG.exists():
        return [json.loads(line) for line in LOG.read_text().splitlines()]
    stored = LOG.with_suffix(".json")
    return list(json.loads(stored.read_text())["rows"]) if stored.exists() else []


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing."""
    formulas = [one for one in load_landscapes(("synthetic",)) if ":low:" in one.name]
    for landscape in [*load_landscapes(("rows",)), *formulas]:
        if landscape.source in arguments.landscapes.split(","):
            _LANDSCAPES[landscape.name] = landscape
            _ = landscape.values  # fitted once, before the processes split
    done = {(row["landscape"], row["past"], row["seed"]) for row in read_log()}
    jobs = [
        (name, kind, seed)
        for seed in range(arguments.seeds)
        for name in _LANDSCAPES
        for kind in KINDS
        if (name, kind, seed) not in done
    ]
    print(f"{len(jobs)} searches to do on {len(_LANDSCAPES)} landscapes", flush=True)
    LOG.parent.mkdir(exist_ok=True)
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool, LOG.open("a") as log:
        for rows in pool.imap_unordered(_work, jobs):
            log.write("".join(json.dumps(row) + "\n" for row in rows))
            log.flush()


def show(arguments: argparse.Namespace) -> None:
    """Regret by kind of past, and its difference from none, paired, with 95 % bootstrap intervals."""
    rows = sorted(read_log(), key=lambda row: (row["landscape"], row["past"], row["seed"], row["n"]))
    if LOG.exists():
        content = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        stored = LOG.with_suffix(".json")
        stored.write_text(f'{{"about": {json.dumps(about())},\n"rows": [\n{content}\n]}}\n')
    found: dict[tuple[str, str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        group = "formulas" if row["landscape"].startswith("synthetic") else "rows"
        found[group, row["past"], row["n"]][row["landscape"], row["seed"]] = row["regret"]
    for group in ("rows", "formulas"):
        print(f"\n{group}\n\n| past | " + " | ".join(f"{n} trials" for n in JUDGED) + " |")
        print("|---" * (1 + len(JUDGED)) + "|")
        for kind in KINDS:
            cells = [_cell(found[group, kind, n], found[group, "none", n], kind) for n in JUDGED]
            print(f"| {kind} | " + " | ".join(cells) + " |")


def _cell(these: dict[tuple[str, int], float], none: dict[tuple[str, int], float], kind: str) -> str:
    keys = sorted(these.keys() & none.keys())
    if not keys:
        return ""
    mean = f"{np.mean([these[key] for key in keys]):.3f}"
    if kind == "none":
        return mean
    by_landscape = defaultdict(list)
    for key in keys:
        by_landscape[key[0]].append(these[key] - none[key])
    table = [np.array(values) for values in by_landscape.values()]
    random = np.random.default_rng(0)
    means = []
    for _ in range(2000):
        chosen = random.integers(len(table), size=len(table))
        means.append(np.mean([random.choice(table[i], len(table[i])).mean() for i in chosen]))
    low, high = np.quantile(means, [0.025, 0.975])
    difference = np.mean([values.mean() for values in table])
    return f"{mean} ({difference:+.3f}: {low:+.3f} to {high:+.3f})"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--landscapes", default="rows,synthetic")
    runner.add_argument("--seeds", type=int, default=10)
    runner.add_argument("--jobs", type=int, default=1)
    runner.set_defaults(action=run)
    commands.add_parser("show").set_defaults(action=show)
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    main()
