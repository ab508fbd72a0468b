"""Our search and that of `oumi tune`, trial by trial on the same trainings: who is where after how many?

    export LORACLE_OUMI=.../bin/python            # see oumi_process.py
    python benchmarks/oumi_tune.py run --on own --seeds 20
    python benchmarks/oumi_tune.py run --on demo --seeds 3
    python benchmarks/oumi_tune.py memory         # what a trial that runs out of memory does to each
    python benchmarks/oumi_tune.py show

`own` are the landscapes of `landscape_data.py`, on which our searches are those of `search.py`; `demo` is
`loracle demo`, where every config that either search asks for is trained, once. oumi draws the learning rate
and dropout from ranges and everything else from lists, as its own example does, with its usual sampler (TPE,
which it does not seed: a second run differs); the training is that of the nearest config of the grid. `run`
adds to a log, leaves out what is there, and can be stopped at any time. `show` prints the tables and writes
`results/oumi.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landscape_data import Landscape, load_landscapes
from other_process import OtherProcess
from search import about, observe, read_log, regret
from search_methods import FACTORY, LoracleMethod, Start, table_space

from loracle.config.loading import load_config
from loracle.config.settings import RunConfig, SpaceConfig, build_space
from loracle.records.space import SearchSpace
from loracle.records.standard_settings import STANDARD
from loracle.records.trial import FailureKind
from loracle.run.tune import tune
from loracle.search.presets import PRESETS

RESULTS = Path(__file__).parent / "results"
LOG = RESULTS / "oumi.jsonl"
TRAININGS = RESULTS / "oumi-demo.jsonl"  # configs of the demo and what they scored
TRIALS = 30
JUDGED = (5, 10, 15, 20, 30)

Judge = Callable[[int], float | None]  # of what is recommended
Search = Callable[[int], tuple[list[int], dict[int, int], Judge]]  # of a seed
Value = Callable[[int], float | str | None]  # of a config; None: it diverged


def oumi_settings(space: SearchSpace, trials: int) -> dict[str, Any]:
    """The space as a user of oumi writes it, see configs/recipes/smollm/tuning/135m/tune.yaml there."""
    values = {knob.name: [float(v) for v in knob.values] for knob in space}  # type: ignore[arg-type]

    def choices(numbers: Sequence[float]) -> dict[str, Any]:
        return {"type": "categorical", "choices": [int(n) for n in numbers if n == int(n)]}

    def between(kind: str, numbers: Sequence[float]) -> dict[str, Any]:
        return {"type": kind, "low": min(numbers), "high": max(numbers)}

    alphas = sorted({rank * ratio for rank in values["rank"] for ratio in values["alpha_ratio"]})
    return {
        "n_trials": trials,
        "tuning_study_name": None,
        "evaluation_metrics": ["score"],
        "evaluation_direction": ["maximize"],
        "tunable_training_params": {
            "learning_rate": between("loguniform", values["learning_rate"]),
            "per_device_train_batch_size": choices(values["batch_size"]),
        },
        "tunable_peft_params": {
            "lora_r": choices(values["rank"]),
            "lora_alpha": choices(alphas),
            "lora_dropout": between("uniform", values["dropout"]),
        },
    }


def nearest(space: SearchSpace, chosen: dict[str, float]) -> int:
    """Index of the candidate next to what oumi chose, on each knob's own scale."""
    wanted = {**chosen, "alpha_ratio": chosen["alpha"] / chosen["rank"]}
    positions = []
    for knob in space:
        numbers = np.array([float(v) for v in knob.values])  # type: ignore[arg-type]
        there = wanted[knob.name]
        if str(knob.scale).startswith("log"):
            numbers, there = np.log(numbers), math.log(there)
        positions.append(int(np.abs(numbers - there).argmin()))
    return int(np.ravel_multi_index(tuple(positions), space.shape))


class Oumi(OtherProcess):
    """`oumi tune` in a process of its own."""

    def __init__(self) -> None:
        super().__init__("LORACLE_OUMI", "oumi_process.py")

    def tune(self, space: SearchSpace, value: Value, trials: int) -> tuple[list[int], list[Any]]:
        """Configs and values of one tuning in their order; fewer than `trials` where it ended early."""
        tried: list[int] = []
        values: list[Any] = []
        self.say(oumi_settings(space, trials))
        while chosen := self.hear():
            tried.append(nearest(space, chosen))
            values.append(value(tried[-1]))
            self.say(values[-1])
        return tried, values


def best_observed(tried: Sequence[int], values: Sequence[float | None]) -> int:
    """What oumi names at the end: the trial with the best value; the first, where none has one."""
    known = [-math.inf if value is None else value for value in values]
    return tried[int(np.argmax(known))]


def search_oumi(oumi: Oumi, space: SearchSpace, value: Value) -> tuple[list[int], dict[int, int]]:
    """Configs in their order, and what is recommended after how many trials."""
    tried, values = oumi.tune(space, value, TRIALS)
    if len(tried) != TRIALS:
        raise RuntimeError(f"oumi ended after {len(tried)} trials")
    return tried, {n: best_observed(tried[:n], values[:n]) for n in JUDGED}


def search_default(start: Start, value: Value) -> tuple[list[int], dict[int, int]]:
    """The same of preset `default`, with the prior that ships: the demo is nothing that it was fitted to."""
    method = LoracleMethod(start, PRESETS["default"])
    tried, found = [], {}
    for n in range(1, TRIALS + 1):
        tried.append(method.ask())
        given = value(tried[-1])
        method.tell(tried[-1], given if isinstance(given, float) else None)
        if n in JUDGED:
            found[n] = method.recommend()
    return tried, found


class Demo:
    """The trainings of `loracle demo`, each made once and kept."""

    def __init__(self) -> None:
        with as_file(files("loracle").joinpath("demo")) as folder:
            self.config = load_config(Path(folder) / "config.yaml")
        self.space = build_space(self.config.space)
        self.known = {row["index"]: row["value"] for row in _lines(TRAININGS)}

    @cached_property
    def objective(self) -> Any:
        from landscapes import prepare_process

        from loracle.training.objective import TrainingObjective

        prepare_process()
        return TrainingObjective.from_config(self.config)

    def value(self, index: int) -> float | None:
        """Exact match on validation; the same seed for every training, as in a run."""
        if index not in self.known:
            with tempfile.TemporaryDirectory() as folder:
                outcome = self.objective.run(self.space.config(index), seed=0, folder=Path(folder))
            if outcome.failure is not None and outcome.failure.kind is not FailureKind.DIVERGED:
                raise RuntimeError(f"{index}: {outcome.failure}")
            self.known[index] = outcome.value
            _add(TRAININGS, {"index": index, "value": outcome.value, "seconds": round(outcome.seconds, 2)})
        return self.known[index]


def run(arguments: argparse.Namespace) -> None:
    """Runs what is missing."""
    torch.set_num_threads(1)
    done = {(row["on"], row["method"], row["seed"]) for row in _lines(LOG)}
    end = time.monotonic() + 60 * arguments.minutes
    oumi = Oumi()
    jobs = _on_demo(oumi) if arguments.on == "demo" else _on_own(oumi)
    for seed, (name, method, search) in product(range(arguments.seeds), jobs):
        if (name, method, seed) not in done and time.monotonic() < end:
            tried, found, judge = search(seed)
            row = {"on": name, "method": method, "seed": seed, "tried": tried, "found": found}
            _add(LOG, row | {"judged": {n: judge(index) for n, index in found.items()}})
            print(f"{time.strftime('%H:%M:%S')} {name}, {method}, seed {seed}", flush=True)
    oumi.close()


def _on_demo(oumi: Oumi) -> list[tuple[str, str, Search]]:
    """Both methods on the demo, judged by the score of what is recommended."""
    demo = Demo()
    space = demo.space
    landscape = Landscape(
        *("demo", "demo", "rows", space, space.candidates, 0.0, "exact_match", 1500, None),
        surface=lambda: np.zeros(len(space.candidates)),
    )
    return [
        (
            *("demo", "default"),
            lambda seed: (*search_default(Start(landscape, space, FACTORY, seed), demo.value), demo.value),
        ),
        ("demo", "oumi tune", lambda seed: (*search_oumi(oumi, space, demo.value), demo.value)),
    ]


def _on_own(oumi: Oumi) -> list[tuple[str, str, Search]]:
    """oumi on our landscapes, judged by regret. Ours on them stands in `results/search.json`."""

    def job(landscape: Landscape) -> tuple[str, str, Search]:
        def search(seed: int) -> tuple[list[int], dict[int, int], Judge]:
            trained: Counter[int] = Counter()

            def value(index: int) -> float | None:
                trained[index] += 1  # each training of a config has noise of its own
                return observe(landscape, index, seed, trained[index] - 1)

            return *search_oumi(oumi, table_space(landscape), value), partial(regret, landscape)

        return landscape.name, "oumi tune", search

    return [job(landscape) for landscape in load_landscapes(("own",))]


# -- out of memory ----------------------------------------------------------------------------------


def memory(arguments: argparse.Namespace) -> None:
    """The third of ten trials runs out of memory: how many trials there are in the end, in both."""
    count = iter(range(1, 1000))

    def value(index: int) -> float | str:
        return "out of memory" if next(count) == 3 else 0.5

    oumi = Oumi()
    tried, _ = oumi.tune(build_space(SpaceConfig()), value, 10)
    found = {"asked_for": 10, "oumi": len(tried), "oumi_status": oumi.close(), "loracle": 0}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mine.py").write_text(_THIRD_HAS_NO_MEMORY, encoding="utf-8")
        config = RunConfig.model_validate(
            {
                "objective": {
                    "function": "mine.py:train",
                    "direction": "maximize",
                    "working_folder": folder,
                },
                "standard": dict(STANDARD),
                "output": f"{folder}/run",
                "search": {"trials": 10},
            }
        )
        result = tune(config)
        found["loracle"] = len(result.history.succeeded)
        found["loracle_failures"] = [
            str(trial.outcome.failure.kind)
            for trial in result.history.trials
            if trial.outcome is not None and trial.outcome.failure is not None
        ]
    print(found)
    _add(LOG, {"on": "memory", "method": "both", "seed": 0} | found)


_THIRD_HAS_NO_MEMORY = """
from pathlib import Path

CALLS = Path(__file__).with_name("calls")


def train(config):
    calls = int(CALLS.read_text()) if CALLS.exists() else 0
    CALLS.write_text(str(calls + 1))
    if calls == 2:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return 0.5
"""


# -- tables -----------------------------------------------------------------------------------------


def show(arguments: argparse.Namespace) -> None:
    """Prints the tables and writes `results/oumi.json`."""
    rows = _lines(LOG)
    ours = [row for row in read_log() if (row["method"], row["regime"]) == ("default", FACTORY)]
    rows += _as_rows(ours, {row["on"] for row in rows})
    for on, title in ((_is_own, "own landscapes, regret"), (_is_demo, "demo, exact match short of the best")):
        if not any(map(on, rows)):
            continue
        print(f"\n{title}\n\n| method | {' | '.join(f'{n} trials' for n in JUDGED)} |")
        print("|---|" + "---|" * len(JUDGED))
        for method in ("default", "oumi tune"):
            chosen = [row for row in rows if on(row) and row["method"] == method]
            if chosen:
                cells = " | ".join(
                    _cell([_short(row["judged"][str(n)], on) for row in chosen]) for n in JUDGED
                )
                print(f"| {method} ({len(chosen)} searches) | {cells} |")
        print(_half(rows, on))
    kept = [row for row in rows if "tried" in row or row["on"] == "memory"]
    content = {"about": about("optuna"), "oumi": _theirs(), "rows": kept, "demo": _lines(TRAININGS)}
    (RESULTS / "oumi.json").write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _theirs() -> dict[str, str]:
    """Versions in oumi's environment."""
    program = "from importlib.metadata import version as v; print(*map(v, ['oumi', 'optuna', 'torch']))"
    said = subprocess.run([os.environ["LORACLE_OUMI"], "-c", program], capture_output=True, text=True)
    return dict(zip(("oumi", "optuna", "torch"), said.stdout.split(), strict=True))


def _as_rows(ours: Sequence[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """Our searches as `search.py` keeps them, a row a checkpoint, as rows of this program."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in ours:
        if row["landscape"] in names and row["n"] in JUDGED:
            key = row["landscape"], row["seed"]
            new = {"on": key[0], "method": "default", "seed": key[1], "judged": {}}
            found.setdefault(key, new)["judged"][str(row["n"])] = row["regret"]
    return list(found.values())


def _half(rows: Sequence[dict[str, Any]], on: Callable[[dict[str, Any]], bool]) -> str:
    """Ours after half the trials less theirs after all, of the same landscape and seed."""
    by = {(row["on"], row["seed"], row["method"]): row["judged"] for row in rows if on(row)}
    pairs = [
        _short(by[name, seed, "default"]["15"], on) - _short(theirs["30"], on)
        for (name, seed, method), theirs in by.items()
        if method == "oumi tune" and (name, seed, "default") in by
    ]
    if not pairs:
        return ""
    draws = np.random.default_rng(0).choice(pairs, (10_000, len(pairs))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    worse = sum(pair > 0 for pair in pairs)
    return (
        f"\nOurs after 15 less theirs after 30: {np.mean(pairs):+.3f} ({low:+.3f} to {high:+.3f}), "
        f"{len(pairs)} pairs, worse in {worse}"
    )


def _is_own(row: dict[str, Any]) -> bool:
    return row["on"] not in ("demo", "memory")


def _is_demo(row: dict[str, Any]) -> bool:
    return bool(row["on"] == "demo")


def _short(judged: float | None, on: Callable[[dict[str, Any]], bool]) -> float:
    """Regret; of the demo, how far the score is from the best that any search found."""
    if on is _is_own:
        assert judged is not None
        return judged
    best = max(row["value"] for row in _lines(TRAININGS) if row["value"] is not None)
    return float(best - (judged or 0.0))


def _cell(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({np.median(values):.3f})"


def _lines(path: Path) -> list[dict[str, Any]]:
    """Rows that are in git, and those of the log since."""
    stored = RESULTS / "oumi.json"
    part = "rows" if path == LOG else "demo"
    rows = list(json.loads(stored.read_text(encoding="utf-8"))[part]) if stored.exists() else []
    new = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return rows + [row for row in map(json.loads, new) if row not in rows]


def _add(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--on", choices=("own", "demo"), default="own")
    runner.add_argument("--seeds", type=int, default=20)
    runner.add_argument("--minutes", type=float, default=math.inf)
    runner.set_defaults(action=run)
    commands.add_parser("memory").set_defaults(action=memory)
    commands.add_parser("show").set_defaults(action=show)
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    main()
