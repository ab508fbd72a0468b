"""How does your Optuna sampler do on measured LoRA trainings, beside others? A table of regret.

    python benchmarks/leaderboard.py --sampler optuna.samplers:TPESampler
    python benchmarks/leaderboard.py --sampler my_module:make --sampler my_module:Other --seeds 5
    python benchmarks/leaderboard.py --peers      # searches of the others anew, results/leaderboard.json

`module:name` is a sampler's class or a function that makes one; it is called with `seed=` where it takes it.
A study asks it for rank, alpha_ratio, dropout, batch_size and learning_rate over their ranges (those that
vary, logarithmic but for dropout), and the answer is the noisy score of the nearest config that was trained
and not yet asked for, or a failed trial. Judged is the config with the best score so far, by its normalised
regret without noise: 0 is the best config of a landscape, 1 the median one. Landscapes are those of
`landscapes/README.md`: `own`, the five tasks of small models, `real`, Gemma 3 270M; and `table`, those of
others, where their folder is there, with 3 to 8 trials. Means are over landscapes, 95 % intervals over
landscapes and seeds.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from expert_methods import HandMethod, ListMethod
from landscape_data import Landscape, load_landscapes
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from search import about, observe, regret
from search_methods import FACTORY, LoracleMethod, Method, Start, _Observed, ensemble, table_space
from search_report import interval

from loracle.records.space import Knob
from loracle.text.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "leaderboard.json"
GROUPS = {"own": "rows", "real": "real", "table": "table"}  # of landscapes, by their source
TRIALS = {"own": (3, 5, 8, 10, 20, 30), "real": (3, 5, 8, 10, 20, 30), "table": (3, 5, 8)}
LORACLE = "Loracle"

Found = dict[str, Any]  # landscape, method, seed, and the regret after each of the group's numbers of trials
Make = Callable[[int], BaseSampler]


class SamplerMethod(_Observed):
    """An Optuna sampler that is asked for the knobs over their ranges."""

    def __init__(self, start: Start, make: Make) -> None:
        super().__init__(start)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(direction="maximize", sampler=make(start.seed))
        self.asked: optuna.Trial | None = None

    def choose(self) -> int:
        self.asked = self.study.ask()
        config = {knob.name: _suggest(self.asked, knob) for knob in self.space}
        return self.nearest_open(self.space.nearest(config))

    def tell(self, index: int, value: float | None) -> None:
        super().tell(index, value)
        assert self.asked is not None
        state = optuna.trial.TrialState.FAIL if value is None else None
        self.study.tell(self.asked, value, state=state)


def _suggest(trial: optuna.Trial, knob: Knob) -> float:
    values = [float(value) for value in knob.values]
    low, high = min(values), max(values)
    if low == high:
        return low
    if knob.name in ("rank", "batch_size"):
        return trial.suggest_int(knob.name, int(low), int(high), log=True)
    return trial.suggest_float(knob.name, low, high, log=knob.scale != "linear")


PEERS: dict[str, Callable[[Start], Method]] = {
    LORACLE: lambda start: LoracleMethod(start, ensemble(start)),  # its prior has not seen the family
    "sweep by hand": HandMethod,
    "fixed list of five": ListMethod,
    "TPE, 3 random first": lambda start: SamplerMethod(
        start, lambda seed: TPESampler(n_startup_trials=3, seed=seed)
    ),
    "random": lambda start: SamplerMethod(start, lambda seed: RandomSampler(seed=seed)),
}


def named(text: str) -> Make:
    """A maker of samplers by `module:name`.

    Raises:
        ValueError: there is no such thing, or it makes no sampler.
    """
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ValueError(f"--sampler {text}: write module:name, such as optuna.samplers:TPESampler")
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise ValueError(f"--sampler {text}: cannot import {module} ({error})") from None
    except AttributeError:
        raise ValueError(f"--sampler {text}: {module} has no {name}") from None
    if not callable(found):
        raise ValueError(f"--sampler {text}: {name} is neither a class nor a function")

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made = found(seed=seed) if "seed" in inspect.signature(found).parameters else found()
        if not isinstance(made, BaseSampler):
            raise ValueError(f"--sampler {text}: it makes a {type(made).__name__}, not an Optuna sampler")
        return made

    try:
        make(0)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"--sampler {text}: making it fails with {_short(error)}") from None
    return make


def replay(landscape: Landscape, group: str, name: str, maker: Callable[[Start], Method], seed: int) -> Found:
    """One search.

    Raises:
        RuntimeError: the method failed; says where.
    """
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    regrets, n = [], 0
    try:
        method = maker(start)
        for n in range(1, TRIALS[group][-1] + 1):
            index = method.ask()
            method.tell(index, observe(landscape, index, seed))
            if n in TRIALS[group]:
                regrets.append(round(regret(landscape, method.recommend()), 4))
    except Exception as error:
        raise RuntimeError(
            f"{name} failed on {landscape.name}, seed {seed}, trial {n}: {_short(error)}"
        ) from error
    return {"group": group, "landscape": landscape.name, "method": name, "seed": seed, "regrets": regrets}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def chosen(on: Sequence[str]) -> Iterator[tuple[str, Landscape]]:
    """Groups and landscapes that are named: groups, or beginnings of names."""
    for group, source in GROUPS.items():
        for landscape in load_landscapes([source]):
            if group in on or any(landscape.name.startswith(one) for one in on if one not in GROUPS):
                yield group, landscape


def table(found: Sequence[Found], group: str) -> str:
    """Regret of every method of a group after each number of trials, on the seeds that all have."""
    rows = [row for row in found if row["group"] == group]
    names = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["method"], row["landscape"], row["seed"]): row["regrets"] for row in rows}
    places = sorted({row["landscape"] for row in rows})
    shared = [
        (
            place,
            [s for s in sorted({row["seed"] for row in rows}) if all((m, place, s) in cells for m in names)],
        )
        for place in places
    ]
    shared = [(place, seeds) for place, seeds in shared if seeds]
    trials = TRIALS[group]
    head = (
        f"{group}: {len(shared)} landscapes, {max(len(seeds) for _, seeds in shared)} seeds; mean regret\n\n"
    )
    lines = [
        "| method | " + " | ".join(f"{n} trials" for n in trials) + " |",
        "|---" * (1 + len(trials)) + "|",
    ]
    for less in ("", LORACLE) if LORACLE in names else ("",):
        for name in names:
            if name == less:
                continue
            texts = []
            for i in range(len(trials)):
                parts = [
                    np.array([cells[name, p, s][i] - (cells[less, p, s][i] if less else 0.0) for s in seeds])
                    for p, seeds in shared
                ]
                mean, low, high = interval(parts)
                sign = "+" if less else ""
                texts.append(f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})")
            lines.append(f"| {name}{f' less {less}' if less else ''} | {' | '.join(texts)} |")
    return head + "\n".join(lines) + "\n"


def stored() -> list[Found]:
    """Searches of the others that are in git."""
    return list(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]) if RESULTS.exists() else []


def store(rows: Sequence[Found]) -> None:
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_atomically(RESULTS, f'{{"about": {json.dumps(about("optuna"))},\n"rows": [\n{text}\n]}}\n')


def run(makers: dict[str, Callable[[Start], Method]], on: Sequence[str], seeds: int) -> Iterator[Found]:
    """All searches of some methods."""
    for group, landscape in chosen(on):
        for name, maker in makers.items():
            for seed in range(seeds):
                yield replay(landscape, group, name, maker, seed)


def main(given: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sampler", action="append", default=[], help="module:name, may be repeated")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--on", default="own,real,table", help="groups, or beginnings of names")
    parser.add_argument("--peers", action="store_true", help="run the others anew, and store them")
    arguments = parser.parse_args(given)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sys.path.insert(0, "")  # modules of the folder that this is called in
    on = arguments.on.split(",")
    try:
        makers = {text: named(text) for text in arguments.sampler}
        if not list(chosen(on)):
            raise ValueError(f"--on {arguments.on}: there are {', '.join(GROUPS)}, and names of landscapes")
        if arguments.peers:
            store(list(run(PEERS, on, arguments.seeds)))
        own = {name: lambda start, make=make: SamplerMethod(start, make) for name, make in makers.items()}
        found = list(run(own, on, arguments.seeds))
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    here = {landscape.name for _, landscape in chosen(on)}
    everything = found + [row for row in stored() if row["landscape"] in here]
    for group in dict.fromkeys(row["group"] for row in everything):
        print(table(everything, group))


if __name__ == "__main__":
    main()
