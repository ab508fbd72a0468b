"""What a user's beliefs are worth to a search, and what wrong ones cost.

    OMP_NUM_THREADS=1 python benchmarks/beliefs.py --seeds 4 --out benchmarks/results/beliefs.json

Every search is `default` as it comes, with a prior that has not seen the landscape's family, without beliefs
and with some of these:

* `rate`: `learning_rate: around V`, where V is the middle of the best 2 % of configs.
* `rate off`: half a decade beside it, above or below by seed.
* `rate wrong`: at that end of the range which is farther from it.
* `both`, `both wrong`: the same, and `rank: around V` of the best config, or the farther end.
* `good`: two of the best 5 % are called good; `good wrong`: two of the worse half are.
* `bad`: two of the worse half are called bad; `bad wrong`: the best two are.

On trainings of our own (`rows`; how much weight beliefs have was chosen on 18 of these searches), of a
pretrained model (`real`), and on tables of others (`table`), which had no part in it. Differences of regret
from the search without beliefs, paired, with 95 % intervals from draws of landscapes and of their seeds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_data import Landscape, load_landscapes
from search import about, replayed
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space
from search_report import interval

from loracle.records.space import SearchSpace, UserBeliefs
from loracle.search.presets import with_beliefs

SOURCES = ("rows", "real", "table")
JUDGED = (2, 3, 5, 10)  # trials
NONE = "none"


@dataclass(frozen=True)
class Truth:
    """What is known of a landscape: its configs, the best first."""

    space: SearchSpace
    order: np.ndarray

    @classmethod
    def of(cls, landscape: Landscape) -> Truth:
        values = np.where(np.isnan(landscape.values), -np.inf, landscape.values)
        return cls(table_space(landscape), landscape.candidates[np.argsort(-values, kind="stable")])

    def configs(self, places: np.ndarray) -> list[dict[str, Any]]:
        return [dict(self.space.config(int(self.order[place]))) for place in places]

    def middle(self, name: str, share: float) -> float:
        """Of the best so many."""
        best = self.configs(np.arange(max(1, int(share * len(self.order)))))
        return math.exp(np.median([math.log(config[name]) for config in best]))

    def farthest(self, name: str, value: float) -> float:
        """The end of a knob's range that is farther from a value."""
        low, high = self.space[name].numbers[[0, -1]]
        return float(low if value / low > high / value else high)


def kinds(landscape: Landscape, seed: int) -> Iterator[tuple[str, UserBeliefs]]:
    """Beliefs about a landscape; none about a knob that has one value there."""
    truth, random = Truth.of(landscape), np.random.default_rng([seed, 11])
    names = [knob.name for knob in truth.space.knobs if len(knob.values) > 1]
    right, wrong = {}, {}
    if "learning_rate" in names:
        rate = truth.middle("learning_rate", 0.02)
        off = rate * math.sqrt(10) ** random.choice([-1, 1])
        right["learning_rate"] = f"around {rate}"
        wrong["learning_rate"] = f"around {truth.farthest('learning_rate', rate)}"
        yield "rate", UserBeliefs.of(right)
        yield "rate off", UserBeliefs.of({"learning_rate": f"around {off}"})
        yield "rate wrong", UserBeliefs.of(wrong)
    if "rank" in names:
        (best,) = truth.configs(np.arange(1))
        right["rank"] = f"around {best['rank']}"
        wrong["rank"] = f"around {truth.farthest('rank', best['rank'])}"
        yield "both", UserBeliefs.of(right)
        yield "both wrong", UserBeliefs.of(wrong)
    n = len(truth.order)
    good = truth.configs(random.choice(max(2, n // 20), 2, replace=False))
    worse = truth.configs(random.choice(np.arange(n // 2, n), 2, replace=False))
    yield "good", UserBeliefs.of({}, good=good)
    yield "good wrong", UserBeliefs.of({}, good=worse)
    yield "bad", UserBeliefs.of({}, bad=worse)
    yield "bad wrong", UserBeliefs.of({}, bad=truth.configs(np.arange(2)))


def search(landscape: Landscape, beliefs: UserBeliefs, seed: int) -> dict[int, float]:
    """Regret of the config to use after so many trials."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    method = LoracleMethod(start, with_beliefs(ensemble(start), beliefs))
    return {n: round(found, 5) for n, found in replayed(landscape, method, seed, JUDGED).items()}


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By source and kind: mean regret and its difference from none, with its interval."""
    none = {(row["landscape"], row["seed"]): row["regret"] for row in rows if row["beliefs"] == NONE}
    found = []
    for source in SOURCES:
        for kind in dict.fromkeys(row["beliefs"] for row in rows):
            for n in JUDGED:
                by_landscape = defaultdict(list)
                for row in rows:
                    if row["source"] == source and row["beliefs"] == kind and n in row["regret"]:
                        before = none[row["landscape"], row["seed"]][n]
                        by_landscape[row["landscape"]].append((row["regret"][n], row["regret"][n] - before))
                if by_landscape:
                    parts = [np.array(pairs) for pairs in by_landscape.values()]
                    mean, low, high = interval([part[:, 1] for part in parts])
                    level = float(np.mean([part[:, 0].mean() for part in parts]))
                    numbers = {"regret": level, "difference": mean, "low": low, "high": high}
                    plain = {name: round(value, 4) for name, value in numbers.items()}
                    found.append({"source": source, "beliefs": kind, "trials": n, **plain})
    return found


def show(summary: list[dict[str, Any]]) -> None:
    for source in SOURCES:
        own = [row for row in summary if row["source"] == source]
        if own:
            print(f"\n{source}\n\n| beliefs | " + " | ".join(f"{n} trials" for n in JUDGED) + " |")
            print("|---" * (1 + len(JUDGED)) + "|")
        for kind in dict.fromkeys(row["beliefs"] for row in own):
            cells = [
                f"{row['regret']:.3f}"
                if kind == NONE
                else f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
                for row in own
                if row["beliefs"] == kind
            ]
            print(f"| {kind} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for landscape in load_landscapes(tuple(arguments.sources.split(","))):
        for seed in range(arguments.seeds):
            for kind, beliefs in ((NONE, UserBeliefs()), *kinds(landscape, seed)):
                names = {"source": landscape.source, "landscape": landscape.name, "seed": seed}
                rows.append(names | {"beliefs": kind, "regret": search(landscape, beliefs, seed)})
        print(f"{landscape.name}: {len(rows)} searches so far", flush=True)
    summary = table(rows)
    show(summary)
    if arguments.out:
        content = {**about(), "seeds": arguments.seeds, "table": summary}
        searches = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        text = json.dumps(content, indent=1).removesuffix("\n}")
        arguments.out.write_text(f'{text},\n "rows": [\n{searches}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
