"""When can a search end before its last trial? Replays of searches, and every rule on the same ones.

    OMP_NUM_THREADS=1 python benchmarks/stopping.py run --seeds 16     # an hour on one core
    python benchmarks/stopping.py show

A search of the default preset, its prior without the landscape's family, goes on for 30 trials. After each it
is kept how far the config that would be used then is from the best (normalised regret: 0 is the best, 1 the
median candidate), and what the belief says of going on. A rule stops at the first trial, from the eighth or
the twelfth on, at which its number is below a threshold, once or three times in a row; so all rules, at all
thresholds, are judged by the same searches. Tasks of our own are scored on items, with the noise of a
training's seed (`interval_coverage.py`); formulas and the table with their noise.

`gain`: the largest expected improvement over what has been tried; `remaining`: the mean, over functions drawn
from the belief, of the best candidate's distance from the config that would be used; `bound`: the highest
upper bound of 2 deviations less the best lower bound (Makarova et al. 2022). Each is in units of the noise
that the belief gives a score. Controls: `trials`, a number that is fixed before; `patience`, so many trials
without another config to use.

`show` writes `results/stopping.json`: trials saved against regret lost, for all rules; and of each rule the
setting that saves most at a loss of at most .005 on the even seeds, judged on the odd ones, beside the fixed
number of trials that has the same mean.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interval_coverage import TRAINING, VALIDATION, Items
from landscape_data import Landscape, load_landscapes
from replication import trained
from search import about, observe, regret
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.report.findings.score_scale import ScoreScale
from loracle.run.stopping import prospects
from loracle.search.ensemble import Ensemble
from loracle.search.observations import row_of, untried
from loracle.search.propose import Beliefs, ranking

OUTPUT = Path(__file__).parent / "results" / "stopping.json"
TRIALS, FIRST, FIRST_SEED = 30, 3, 200
_SMALLEST = 45  # candidates of a table: of fewer, thirty trials are nearly all
KEYS = ("regret", "gain", "bound", "remaining", "noise", "slope", "leader")


def chosen_landscapes() -> list[Landscape]:
    """Those on which thirty trials are a part of the candidates."""
    all_of_them = load_landscapes(["rows", "own", "real", "table", "synthetic"])
    return [one for one in all_of_them if len(one.candidates) >= _SMALLEST]


def replay(landscape: Landscape, seed: int) -> dict[str, Any]:
    """One search to its end, and what was known after each of its trials from the third on."""
    space = table_space(landscape)
    start = Start(landscape, space, FACTORY, seed)
    method = LoracleMethod(start, ensemble(start))
    of_items = landscape.source in ("rows", "own")
    items, noise = Items(landscape, seed, VALIDATION), np.random.default_rng([seed, TRAINING])
    found: dict[str, list[float]] = {name: [] for name in KEYS}
    for n in range(1, TRIALS + 1):
        index = method.ask()
        value, told = landscape.value(index), None
        if not np.isnan(value):
            told = (
                items.score(index, trained(landscape, value, noise))
                if of_items
                else observe(landscape, index, seed)
            )
        method.tell(index, told)
        if n >= FIRST:
            for name, number in known(landscape, method).items():
                found[name].append(float(f"{number:.4g}"))
    name = landscape.name
    return {"landscape": name, "family": landscape.family, "source": landscape.source, "seed": seed} | found


def known(landscape: Landscape, method: LoracleMethod) -> dict[str, float]:
    """What the belief says of going on, and the regret of what would be used now."""
    space, history = method.start.space, method.history
    if not history.succeeded:
        nothing = dict.fromkeys(KEYS, float("inf"))
        return nothing | {"noise": 0.0, "regret": regret(landscape, method.recommend()), "leader": -1.0}
    beliefs = Beliefs.of(space, history, method.preset, None, method.start.seed)
    assert isinstance(beliefs.surrogate, Ensemble)
    tried = np.unique(beliefs.observations.rows)
    free = np.flatnonzero(untried(space, history))
    belief = beliefs.surrogate.belief()
    leader = ranking(space, history, method.preset, seed=method.start.seed)[0]
    gain, remaining = prospects(beliefs.surrogate, free, tried, row_of(space, leader))
    upper, lower = belief.mean + 2 * belief.sd, belief.mean - 2 * belief.sd
    scale = ScoreScale.of(beliefs.y, beliefs.observations.values, "value")
    return {
        "regret": regret(landscape, leader),
        "gain": gain,
        "bound": float(upper.max() - lower[tried].max()),
        "remaining": remaining,
        "noise": beliefs.surrogate.noise,
        "slope": scale.slope,
        "leader": float(leader),
    }


def replays(seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """All searches, seed by seed."""
    for seed in seeds:
        for landscape in chosen_landscapes_once():
            yield replay(landscape, seed)


_KEPT: list[Landscape] = []


def chosen_landscapes_once() -> list[Landscape]:
    """The same, with fitted emulators."""
    if not _KEPT:
        _KEPT.extend(chosen_landscapes())
    return _KEPT


# -- rules --------------------------------------------------------------------------------------------

Rule = Callable[[dict[str, Any]], int]  # from a search to the trial after which it ends
THRESHOLDS = {
    "gain": (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3),
    "remaining": (0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.6, 2.0),
    "bound": (1.5, 2.0, 2.5, 3.0, 4.0, 5.0),
}
ALLOWED = 0.005  # regret that may be lost, on the mean


def rules() -> Iterator[tuple[str, dict[str, Any], Rule]]:
    """Names, settings, and what they do."""
    for name, thresholds in THRESHOLDS.items():
        for least in (8, 12):
            for again in (1, 3):
                for threshold in thresholds:
                    settings = {"threshold": threshold, "least": least, "again": again}
                    yield name, settings, below(name, **settings)
    for count in (3, 5, 8, 10, 12, 15):
        yield "patience", {"count": count}, patience(count)
    for count in range(8, 31):
        yield "trials", {"count": count}, fixed(count)


def below(name: str, threshold: float, least: int, again: int) -> Rule:
    """Ends where a number has been below a threshold so often in a row."""

    def ends(row: dict[str, Any]) -> int:
        run = 0
        for n, (number, noise) in enumerate(zip(row[name], row["noise"], strict=True), start=FIRST):
            run = run + 1 if number < threshold * noise else 0
            if n >= least and run >= again:
                return n
        return TRIALS

    return ends


def patience(count: int) -> Rule:
    """Ends after so many trials without another leader."""

    def ends(row: dict[str, Any]) -> int:
        run, leaders = 0, row["leader"]
        for n in range(1, len(leaders)):
            run = run + 1 if leaders[n] == leaders[n - 1] else 0
            if n + FIRST >= 8 and run >= count:
                return n + FIRST
        return TRIALS

    return ends


def fixed(count: int) -> Rule:
    """Ends after so many trials."""
    return lambda row: count


def judged(rule: Rule, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean trials, and the mean regret that is lost against 30, with its standard error over searches."""
    ends = [rule(row) for row in rows]
    lost = [row["regret"][n - FIRST] - row["regret"][-1] for n, row in zip(ends, rows, strict=True)]
    error = float(np.std(lost, ddof=1) / np.sqrt(len(lost)))
    numbers = {"trials": float(np.mean(ends)), "lost": float(np.mean(lost)), "error": error}
    return {name: round(number, 4) for name, number in numbers.items()}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each rule the setting chosen on even seeds, on the odd ones; and as many trials, fixed before."""
    even, odd = ([row for row in rows if row["seed"] % 2 == half] for half in (0, 1))
    best: dict[str, tuple[dict[str, Any], Rule, float]] = {}
    for name, settings, rule in rules():
        there = judged(rule, even)
        if there["lost"] <= ALLOWED and (name not in best or there["trials"] < best[name][2]):
            best[name] = (settings, rule, there["trials"])
    found = []
    for name, (settings, rule, _) in best.items():
        there = judged(rule, odd)
        as_much = judged(fixed(round(there["trials"])), odd)
        found.append({"rule": name, **settings, **there, "fixed_lost": as_much["lost"]})
    return found


def by_source(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every rule at every setting, on all searches and on those of each source."""
    for source in ("all", *dict.fromkeys(row["source"] for row in rows)):
        own = [row for row in rows if source in ("all", row["source"])]
        for name, settings, rule in rules():
            yield {"source": source, "rule": name, **settings, **judged(rule, own)}


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "show"])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--log", type=Path, default=OUTPUT.with_suffix(".jsonl"))
    arguments = parser.parse_args(given)
    if arguments.action == "run":
        with arguments.log.open("a") as log:
            for row in replays(range(FIRST_SEED, FIRST_SEED + arguments.seeds)):
                log.write(json.dumps(row) + "\n")
                log.flush()
        return
    if arguments.log.exists():
        searches = [json.loads(line) for line in arguments.log.read_text().splitlines()]
        content = {"about": about("scipy"), "searches": len(searches), "summary": summary(searches)}
        lines = ",\n".join(json.dumps(row) for row in by_source(searches))
        head = json.dumps(content)[:-1]
        OUTPUT.write_text(f'{head},\n"frontier": [\n{lines}\n]}}\n')
    for row in json.loads(OUTPUT.read_text())["summary"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
