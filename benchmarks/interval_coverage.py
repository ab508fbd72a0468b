"""Does the stated 95 % interval of the winner's gain hold the truth? Replays of the whole procedure.

    python benchmarks/interval_coverage.py run --replays 100     # some minutes
    python benchmarks/interval_coverage.py show

A replay takes a recorded landscape (`landscapes/*.csv.gz`, the trained configs, no emulator), searches it
with the default preset, where every trial is scored on validation items and carries the noise of its
training's seed, and compares the recommended config with the standard settings on test items, as
`loracle tune` does: the paired bootstrap of `training/intervals.py`. The truth is the difference of the two
recorded values.

Recorded are scores, not items, so items are drawn: an answer is right where a normal variable, half of whose
variance belongs to the item and is the same for all configs, lies below the quantile of the recorded accuracy
(binomial noise, paired); an item's loss is the recorded loss times a gamma variable of the item (shape 2) and
a log-normal one of config and item (0.3). The prior has not seen the landscape's family.

Beside it, what an interval on the validation items would have held: those by which the winner was chosen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from landscape_data import Landscape, load_landscapes
from scipy.stats import norm
from search import about
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.config.metrics import metric_of
from loracle.records.space import with_alpha
from loracle.records.standard_settings import STANDARD
from loracle.report.findings.beliefs import understand
from loracle.training.intervals import paired_difference

OUTPUT = Path(__file__).parent / "results" / "interval_coverage.json"
ITEMS, TRIALS = 300, 15
SHARED = 0.5  # of the variance of what decides an answer: that of the item
SHAPE, SPREAD = 2.0, 0.3  # of an item's loss
VALIDATION, TEST, TRAINING = 0, 1, 2  # streams


class Items:
    """Items of a split, the same for all configs of a replay."""

    def __init__(self, landscape: Landscape, seed: int, stream: int) -> None:
        self.of_loss = landscape.metric == "loss"
        self._key = (seed, stream)
        generator = np.random.default_rng([*self._key, 0])
        self._shared = (
            generator.gamma(SHAPE, 1 / SHAPE, ITEMS) if self.of_loss else generator.normal(size=ITEMS)
        )

    def results(self, index: int, value: float, again: int | None = None) -> list[dict[str, Any]]:
        """Per-item results of a config whose true score is `value`; `again`: of a training with another seed,
        whose own part of each item is another."""
        stream = [*self._key, 1 + index] if again is None else [*self._key, again, 1 + index]
        own = np.random.default_rng(stream).normal(size=ITEMS)
        if self.of_loss:
            losses = -value * self._shared * np.exp(SPREAD * own - SPREAD**2 / 2)
            return [{"index": i, "loss": float(loss), "tokens": 10} for i, loss in enumerate(losses)]
        latent = np.sqrt(SHARED) * self._shared + np.sqrt(1 - SHARED) * own
        right = latent < norm.ppf(np.clip(value, 0, 1))
        return [{"index": i, "correct": bool(one)} for i, one in enumerate(right)]

    def score(self, index: int, value: float, again: int | None = None) -> float:
        """What a trial says; the arguments are those of `results`."""
        results = self.results(index, value, again)
        return float(np.mean([-one["loss"] if self.of_loss else one["correct"] for one in results]))


def replay(landscape: Landscape, seed: int) -> dict[str, Any] | None:
    """One search and its comparison; None where the standard settings are recommended, or failed."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    method = LoracleMethod(start, ensemble(start))
    validation, test = (Items(landscape, seed, stream) for stream in (VALIDATION, TEST))
    noise = np.random.default_rng([seed, TRAINING])
    seen: dict[int, float] = {}
    for _ in range(TRIALS):
        index = method.ask()
        value = landscape.value(index)
        told = None
        if not np.isnan(value):
            trained = value + landscape.noise_sd * float(noise.normal())
            seen[index] = trained if validation.of_loss else float(np.clip(trained, 0, 1))
            told = validation.score(index, seen[index])
        method.tell(index, told)
    winner, standard = method.recommend(), nearest(landscape, with_alpha(STANDARD))
    if winner == standard or np.isnan(landscape.value(standard)):
        return None
    metric = "loss" if test.of_loss else "exact_match"
    truth = landscape.value(winner) - landscape.value(standard)
    found = paired_difference(
        test.results(winner, landscape.value(winner)),
        test.results(standard, landscape.value(standard)),
        metric,
        seed=seed,
    )
    chosen = paired_difference(
        validation.results(winner, seen.get(winner, landscape.value(winner))),
        validation.results(standard, seen.get(standard, landscape.value(standard))),
        metric,
        seed=seed,
    )
    assert found is not None
    assert chosen is not None
    raw = validation.score(winner, seen[winner])
    believed = understand(method.start.space, method.history, method.preset, seed, metric, winner)
    assert believed is not None
    assert believed.chosen is not None
    of_winner = metric_of(metric).read(believed.chosen.believed)  # a value again
    unit = float(np.nanmax(landscape.values) - np.nanmedian(landscape.values))
    return {
        "landscape": landscape.name.removesuffix(":rows"),
        "seed": seed,
        "truth": round(truth, 5),
        "stated": [round(x, 5) for x in found],
        "held": holds(found, truth),
        "held_in_validation": holds(chosen, truth),
        "optimism": round(chosen[0] - truth, 5),
        "too_good": round((raw - landscape.value(winner)) / unit, 5),
        "too_good_as_believed": round((of_winner - landscape.value(winner)) / unit, 5),
    }


def holds(interval: tuple[float, float, float], truth: float) -> bool:
    """Whether it holds the truth; its ends are shares of whole items, and belong to it."""
    _, low, high = interval
    return low - 1e-9 <= truth <= high + 1e-9


def nearest(landscape: Landscape, config: dict[str, Any]) -> int:
    """The recorded config nearest to some settings, by the coordinates of the space."""
    space = landscape.space
    wanted = space.coordinates(np.array([space.nearest({name: config[name] for name in space.names})]))
    there = space.coordinates(landscape.candidates)
    return int(landscape.candidates[int(np.argmin(((there - wanted) ** 2).sum(axis=1)))])


def replays(n: int, landscapes: Sequence[Landscape]) -> Iterator[dict[str, Any]]:
    """So many replays that compared two configs, evenly over the landscapes."""
    seeds = dict.fromkeys((landscape.name for landscape in landscapes), 0)
    done = 0
    while done < n:
        for landscape in landscapes:
            found = None
            while found is None and done < n:
                found = replay(landscape, seeds[landscape.name])
                seeds[landscape.name] += 1
            if found is not None:
                done += 1
                yield found


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """What was held, in a few lines."""
    lines = []
    names = list(dict.fromkeys(row["landscape"] for row in rows))
    for name in [*names, None]:
        own = [row for row in rows if name in (None, row["landscape"])]
        held, chosen = (sum(row[key] for row in own) for key in ("held", "held_in_validation"))
        lines.append(f"{name or 'all':12} {len(own):4} replays: {held} held, {chosen} on validation items")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "show"])
    parser.add_argument("--replays", type=int, default=100)
    arguments = parser.parse_args(given)
    if arguments.action == "run":
        rows = []
        for row in replays(arguments.replays, load_landscapes(["rows"])):
            rows.append(row)
            print(json.dumps(row), flush=True)
        settings = {"items": ITEMS, "trials": TRIALS, "shared": SHARED, "shape": SHAPE, "spread": SPREAD}
        lines = ",\n".join(json.dumps(row) for row in rows)
        OUTPUT.write_text(f'{{"about": {json.dumps(about("scipy") | settings)},\n"rows": [\n{lines}\n]}}\n')
    print(summary(json.loads(OUTPUT.read_text())["rows"]))


if __name__ == "__main__":
    main()
