"""Is a second seed of the best two configs worth its price? Replays of searches on recorded landscapes.

    python benchmarks/replication.py run --seeds 96     # a quarter of an hour
    python benchmarks/replication.py show

A search of the default preset on a recorded landscape (`landscapes/*.csv.gz`, no emulator; its prior has not
seen the landscape's family) scores its trials on validation items with the noise of a training's seed, as in
`interval_coverage.py`. After 8, 15 and 30 trials its best two configs are compared, paired on those items.
Where they lie within noise, both are trained again with one or two more seeds, whose noise and own part of
each item are drawn anew, and the mean of the seeds chooses. The same number of trainings could go on with the
search instead. What is compared is the recorded value of the config that comes of it, less that of the first,
in units of the landscape: from its median to its best value.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interval_coverage import TRAINING, VALIDATION, Items
from landscape_data import Landscape, load_landscapes
from search import about
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.records.trial import History
from loracle.search.propose import ranking
from loracle.training.intervals import paired_difference

OUTPUT = Path(__file__).parent / "results" / "replication.json"
CHECKPOINTS, SEEDS = (8, 15, 30), (1, 2)
FIRST_SEED = 100
_AGAIN = 7919  # streams of the trainings with further seeds


def searched(landscape: Landscape, seed: int, trials: int) -> tuple[LoracleMethod, dict[int, float]]:
    """A search, and what each config's training was worth, with the noise of its seed, by index."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    method = LoracleMethod(start, ensemble(start))
    items, noise = Items(landscape, seed, VALIDATION), np.random.default_rng([seed, TRAINING])
    seen: dict[int, float] = {}
    for _ in range(trials):
        index = method.ask()
        value, told = landscape.value(index), None
        if not np.isnan(value):
            seen[index] = trained(landscape, value, noise)
            told = items.score(index, seen[index])
        method.tell(index, told)
    return method, seen


def trained(landscape: Landscape, value: float, noise: np.random.Generator) -> float:
    """What one training of a config of this value is worth."""
    found = value + landscape.noise_sd * float(noise.normal())
    return found if landscape.metric == "loss" else float(np.clip(found, 0, 1))


def choices(landscape: Landscape, seed: int) -> Iterator[dict[str, Any]]:
    """What each way of choosing would have come to, at each checkpoint."""
    most = max(CHECKPOINTS) + 2 * max(SEEDS)
    method, seen = searched(landscape, seed, most)
    space, items = table_space(landscape), Items(landscape, seed, VALIDATION)
    unit = float(np.nanmax(landscape.values) - np.nanmedian(landscape.values))

    def ranked(n: int) -> list[int]:
        return ranking(space, History(method.history.trials[:n]), method.preset, seed=seed)

    for n in CHECKPOINTS:
        pair = ranked(n)[:2]
        if len(pair) < 2:
            continue
        told = [items.results(index, seen[index]) for index in pair]
        metric = "loss" if items.of_loss else "exact_match"
        found = paired_difference(told[0], told[1], metric)
        assert found is not None
        within = found[1] <= 0 <= found[2]
        first = landscape.value(pair[0])
        row: dict[str, Any] = {"landscape": landscape.name.removesuffix(":rows"), "seed": seed, "n": n}
        row["within"] = bool(within)
        for more in SEEDS:
            chosen = _by_mean(landscape, items, pair, seen, (seed, n), more) if within else pair[0]
            row[f"seeds_{more}"] = round((landscape.value(chosen) - first) / unit, 5)
            row[f"trials_{2 * more}"] = round((landscape.value(ranked(n + 2 * more)[0]) - first) / unit, 5)
        yield row


def _by_mean(
    landscape: Landscape,
    items: Items,
    pair: Sequence[int],
    seen: dict[int, float],
    stream: tuple[int, int],
    more: int,
) -> int:
    noise = np.random.default_rng([*stream, _AGAIN])
    means = []
    for index in pair:
        scores = [items.score(index, seen[index])]
        for again in range(more):
            value = trained(landscape, landscape.value(index), noise)
            scores.append(items.score(index, value, again=_AGAIN + again))
        means.append(float(np.mean(scores)))
    return pair[int(np.argmax(means))]


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each checkpoint and number of seeds: mean gain of either use of the trainings, and of their
    difference with its standard error, over the searches whose best two were within noise."""
    found = []
    for n in dict.fromkeys(row["n"] for row in rows):
        own = [row for row in rows if row["n"] == n]
        within = [row for row in own if row["within"]]
        for more in SEEDS:
            seeds, trials = (
                np.array([row[key] for row in within]) for key in (f"seeds_{more}", f"trials_{2 * more}")
            )
            difference = seeds - trials
            found.append(
                {
                    "n": n,
                    "searches": len(own),
                    "within": len(within),
                    "seeds": more,
                    "gain_of_seeds": float(seeds.mean()),
                    "gain_of_trials": float(trials.mean()),
                    "difference": float(difference.mean()),
                    "error": float(difference.std(ddof=1) / np.sqrt(len(within))),
                    "better": int((seeds > 0).sum()),
                    "worse": int((seeds < 0).sum()),
                }
            )
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "show"])
    parser.add_argument("--seeds", type=int, default=96)
    arguments = parser.parse_args(given)
    if arguments.action == "run":
        rows = []
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            for landscape in load_landscapes(["rows"]):
                rows += choices(landscape, seed)
        lines = ",\n".join(json.dumps(row) for row in rows)
        OUTPUT.write_text(f'{{"about": {json.dumps(about("scipy"))},\n"rows": [\n{lines}\n]}}\n')
    for row in summary(json.loads(OUTPUT.read_text())["rows"]):
        print(json.dumps({key: round(x, 4) if isinstance(x, float) else x for key, x in row.items()}))


if __name__ == "__main__":
    main()
