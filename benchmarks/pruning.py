"""What does `LoraclePruner` stop, and what does it save? Recorded learning curves of a real model, replayed.

    python benchmarks/pruning.py      # seconds; writes results/pruning.json

The spread rows of `landscapes/real` (Gemma 3 270M, 25 configs of the whole space on each of two tasks) have
the loss of every step. All come in a random order, as in random search, and report after each tenth of their
training the mean loss of that tenth. The best is that of the highest score. The pruner itself decides
(`LoraclePruner.is_wreck`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from landscape_data import OWN, REAL_TASKS, read_rows
from search import about

from loracle.search.optuna_sampler.pruner import LoraclePruner

OUTPUT = Path(__file__).parent / "results" / "pruning.json"
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5)
PARTS, SEARCHES = 10, 500


def curves(task: str) -> tuple[list[dict[int, float]], list[float]]:
    """Reports by tenth, and the score at the end, of each config."""
    reports, values = [], []
    for row in read_rows(task, OWN / "real"):
        losses = np.array([float(x) for x in row["curve"].split()])
        if float(row["fraction"]) < 1 and row["origin"] == "spread" and len(losses) >= PARTS:
            parts = np.array_split(losses, PARTS)
            reports.append({i: float(part.mean()) for i, part in enumerate(parts, start=1)})
            values.append(float(row["value"]) if row["value"] else -1.0)
    return reports, values


def replay(task: str, factor: float) -> dict[str, Any]:
    """All searches on a task."""
    reports, values = curves(task)
    pruner, good = LoraclePruner(factor), float(np.quantile(values, 0.75))
    stopped = of_the_best = saved = worse = 0
    for seed in range(SEARCHES):
        order = np.random.default_rng(seed).permutation(len(values))
        incumbent: int | None = None
        for i in order:
            best = {} if incumbent is None else reports[incumbent]
            end = next((t for t in range(1, PARTS) if _stops(pruner, reports[i], t, best)), PARTS)
            saved += PARTS - end
            stopped += end < PARTS
            of_the_best += end < PARTS and values[i] >= good
            if end == PARTS and (incumbent is None or values[i] > values[incumbent]):
                incumbent = int(i)
        assert incumbent is not None
        worse += values[incumbent] < max(values[i] for i in order)
    n = SEARCHES * len(values)
    shares = {"stopped": stopped / n, "of_the_best": of_the_best / max(stopped, 1)}
    found = {"task": task, "factor": factor, "configs": len(values)}
    rounded = {name: round(x, 4) for name, x in {"saved": saved / (n * PARTS), **shares}.items()}
    return found | rounded | {"worse": worse / SEARCHES}


def _stops(pruner: LoraclePruner, reports: dict[int, float], step: int, best: dict[int, float]) -> bool:
    return pruner.is_wreck({at: x for at, x in reports.items() if at <= step}, best, minimize=True)


def main() -> None:
    """Entry point."""
    rows = [replay(task, factor) for task in REAL_TASKS for factor in FACTORS]
    lines = ",\n".join(map(json.dumps, rows))
    OUTPUT.write_text(f'{{"about": {json.dumps(about("optuna"))},\n"rows": [\n{lines}\n]}}\n')
    print(lines)


if __name__ == "__main__":
    main()
