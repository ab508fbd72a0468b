"""Does it help on a real model? Searches of three tasks on Gemma 3 270M, and their peers.

    python benchmarks/real/programme.py status            # what is done, and what is left
    python benchmarks/real/programme.py run --jobs 2      # goes on where it was stopped; hours
    python benchmarks/real/programme.py pack              # benchmarks/landscapes/real
    python benchmarks/real/programme.py replay            # other methods on these, 20 seeds; minutes
    python benchmarks/real/programme.py report            # benchmarks/results/real.json, and its tables
    python benchmarks/real/programme.py budgets           # searches with a budget, beside what is stored
    python benchmarks/real/programme.py smaller           # those with twice as many, smaller trials
    python benchmarks/real/programme.py again             # searches of a later version, beside what is stored

The parts, each a file or folder of its own in `$LORACLE_REAL_WORK` (default: `build/real`):

* `base`: the model before any training, scored on test.
* `search`: `loracle tune` with 10 trials and then with 30, winner and standard each time trained on all data
  and scored on test; `default` and `numeric`.
* `budget`: `loracle tune` with `search.budget: 1.0` and nothing else, so that all its trials together cost
  less than one full training.
* `smaller`: the same with ten trials of a tenth of a training in the place of five of a fifth.
* `peer`: random search, and Optuna's TPE with 3 random trials before its model (its own default is 10), on
  the same grid, proxy, seeds and trainer as the search; what each recommends after 30 trials is trained on
  all data and scored on test, too. Live, on the tasks of `LIVE`.
* `proxy`, `full`: a landscape, 60 configs of a Sobol sequence on the grid, trained on the proxy, and every
  third of them on all data; scored on validation.

One process a core and one thread a process; the same config and seed give the same value in every part.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fetch
import numpy as np
import tasks as real_tasks
import yaml
from tasks import TASKS, Task

sys.path.insert(0, str(Path(__file__).parent.parent))

from loracle import default_space
from loracle.config.settings import RunConfig
from loracle.records.space import Config, SearchSpace
from loracle.text.files import write_atomically

ROOT = Path(__file__).parent.parent.parent
WORK = Path(os.environ.get("LORACLE_REAL_WORK", ROOT / "build" / "real"))

N_TRIALS = 30
CHECKPOINTS = (10, N_TRIALS)  # where a search's winner is trained on all data
PRESETS = ("default", "numeric")
PEERS = ("random", "tpe-3")
LIVE = ("hyphens",)  # tasks with live peers; elsewhere they are replayed on the landscape
SEEDS = (0,)
BUDGET_SEEDS = (0, 1, 2)
BUDGET = 1.0  # full trainings
SMALLER = 0.1  # of one, for a trial
N_CONFIGS, FULL_EVERY = 60, 3
LANDSCAPES = ("hyphens", "sections")
COMMANDS = ("run", "status", "pack", "replay", "report", "budgets", "smaller", "again")
DESIGN_SEED = 12


def settings(task: Task, **changes: Any) -> dict[str, Any]:
    """The config file of a task: Loracle's defaults, but for data, metric and what the machine has."""
    scoring: dict[str, Any] = {"metric": task.metric}
    if task.choices:
        scoring["choices"] = [f" {choice}" for choice in task.choices]
    if task.longest:
        scoring["max_new_tokens"] = task.longest
    return {
        "model": str(fetch.MODEL),
        "dtype": "bfloat16",
        "threads": 1,
        "data": {name: str(task.file(name)) for name in real_tasks.SIZES},
        "scoring": scoring,
        **changes,
    }


def write_config(file: Path, config: dict[str, Any]) -> None:
    """Writes it as a config file of `loracle`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, yaml.safe_dump(config, sort_keys=False))


# -- parts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A piece of work that one process does; `name` is a preset, a peer, or the number of a config."""

    task: str
    kind: str
    name: str
    seed: int = 0

    @property
    def path(self) -> Path:
        """Where its result is once it is done."""
        return WORK / self.task / f"{self.kind}-{self.name}-{self.seed}.json"

    def read(self) -> Any:
        """The result; None where it is still to be done."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else None


def parts(names: Sequence[str]) -> list[Part]:
    """Everything, what is told first coming first."""
    found = [Part(task, "base", "model") for task in names]
    found += [
        Part(task, kind, "default", seed)
        for kind in ("budget", "smaller")
        for seed in BUDGET_SEEDS
        for task in names
    ]
    found += [Part(task, "search", "default", SEEDS[0]) for task in names]
    found += [
        Part(task, "peer", peer, seed) for seed in SEEDS for task in names if task in LIVE for peer in PEERS
    ]
    found += [Part(task, "search", "numeric", SEEDS[0]) for task in names if task in LIVE]
    found += [
        Part(task, kind, str(number))
        for number in range(N_CONFIGS)
        for task in names
        if task in LANDSCAPES
        for kind in ("proxy", "full")
        if kind == "proxy" or number % FULL_EVERY == 0
    ]
    return found


def do(part: Part) -> None:
    """Does a part and writes its result; what it had begun before is gone on with."""
    began, spent = time.time(), os.times()
    work = {
        "base": _base,
        "budget": _budget,
        "smaller": _budget,
        "search": _search,
        "peer": _peer,
        "proxy": _config,
        "full": _config,
    }
    part.path.parent.mkdir(parents=True, exist_ok=True)
    result = work[part.kind](part)
    now = os.times()
    cpu = now.user - spent.user + now.children_user - spent.children_user
    about = {**asdict(part), "seconds": round(time.time() - began, 1), "cpu_seconds": round(cpu, 1)}
    write_atomically(part.path, json.dumps({**about, **result}, indent=1) + "\n")


@cache
def trainer(task: str) -> Any:
    """The task's trainer, its model loaded; of this process."""
    from loracle.training.objective import TrainingObjective

    output = str(WORK / task / "trainer")
    # As large as trials are without a budget.
    config = settings(TASKS[task], output=output, search={"trials": N_TRIALS})
    return TrainingObjective.from_config(RunConfig.model_validate(config))


def _base(part: Part) -> dict[str, Any]:
    from loracle.training.intervals import confidence_interval
    from loracle.training.scoring import score

    own = trainer(part.task)
    found = {}
    for split in ("validation", "test"):
        scored = score(own.base, own.questions[split], own.config.scoring)
        low, high = confidence_interval(scored.items)
        found[split] = {**scored.metrics, "value": scored.value, "low": low, "high": high}
    return found


def run_folder(task: str, preset: str, seed: int) -> Path:
    """The folder of a search; `preset` is `budget` or `smaller` for one with a budget."""
    return WORK / task / f"run-{preset}-{seed}"


def verdict_file(folder: Path, n_trials: int) -> Path:
    """What `loracle tune` said after so many trials; the longer search trains another winner."""
    return folder.with_name(f"{folder.name}-{n_trials}.json")


def _search(part: Part) -> dict[str, Any]:
    folder = run_folder(part.task, part.name, part.seed)
    search = {"preset": part.name, "seed": part.seed}
    config = settings(TASKS[part.task], output=str(folder), search=search)
    file = folder.with_suffix(".yaml")
    write_config(file, config)
    for n_trials in CHECKPOINTS:
        _tune(file, n_trials)
    return {"run": str(folder)}  # holds the trials


def _budget(part: Part) -> dict[str, Any]:
    folder = run_folder(part.task, part.kind, part.seed)
    search = {"preset": part.name, "seed": part.seed, "budget": BUDGET}
    config = settings(TASKS[part.task], output=str(folder), search=search)
    if part.kind == "smaller":
        config["data"]["trial_cost"] = SMALLER
    file = folder.with_suffix(".yaml")
    write_config(file, config)
    _tune(file, N_TRIALS)  # at most
    return {"run": str(folder)}


def _tune(file: Path, n_trials: int) -> None:
    """Runs or continues the search of a config file, and keeps what it says."""
    folder = file.with_suffix("")
    kept = verdict_file(folder, n_trials)
    if kept.exists():
        return
    tune = [sys.executable, "-m", "loracle", "tune", "--json", "--trials", str(n_trials), str(file)]
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        done = subprocess.run(tune, stdout=subprocess.PIPE, stderr=log, check=False)
    if done.returncode:
        raise RuntimeError(f"{file}: `loracle tune` left with {done.returncode}, see {log.name}")
    write_atomically(kept, done.stdout.decode())


def _peer(part: Part) -> dict[str, Any]:
    """A search by others with our trainer; trials are kept as they come, and told again after a stop."""
    own, space = trainer(part.task), default_space()
    log = part.path.with_suffix(".jsonl")
    known = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    )
    peer = _make_peer(part.name, space, part.seed)
    trials: list[dict[str, Any]] = []
    for number in range(N_TRIALS):
        index = peer.ask()
        if number < len(known):
            trial = known[number]
            if trial["index"] != index:
                raise RuntimeError(f"{log}: trial {number} was {trial['index']}, now {index} is asked for")
        else:
            trial = {"index": index, **_trained(own, space.config(index), part.seed, "proxy")}
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(trial) + "\n")
        peer.tell(index, trial["value"])
        trials.append(trial)
    best = peer.recommend()
    final = _trained(own, space.config(best), part.seed, "test", items=True)
    return {"trials": trials, "recommended": best, "final": final}


def _make_peer(name: str, space: SearchSpace, seed: int) -> Any:
    from landscape_data import Landscape
    from search_methods import FACTORY, Start, methods

    landscape = Landscape(
        "live", "gemma", "own", space, space.candidates, 0.0, "", None, None, surface=lambda: np.zeros(0)
    )
    return methods([name])[name](Start(landscape, space, FACTORY, seed))


def _config(part: Part) -> dict[str, Any]:
    from landscapes import design

    space = default_space()
    index = design(space, N_CONFIGS, DESIGN_SEED)[int(part.name)]
    return {"index": index, **_trained(trainer(part.task), space.config(index), part.seed, part.kind)}


def _trained(own: Any, config: Config, seed: int, what: str, *, items: bool = False) -> dict[str, Any]:
    """One training on the proxy or on all data (`full`), or on all data and scored on test (`test`)."""
    folder = WORK / "trials" / str(os.getpid())
    if what == "test":
        outcome = own.final(config, seed=seed, folder=folder)
    else:
        outcome = own.run(config, seed=seed, folder=folder, fraction=1.0 if what == "full" else None)
    steps = [line.split("\t") for line in (folder / "log.txt").read_text().splitlines() if line[0].isdigit()]
    found = {
        "config": dict(config),
        "value": outcome.value,
        "failure": None if outcome.failure is None else str(outcome.failure.kind),
        "metrics": dict(outcome.metrics),
        "seconds": outcome.seconds,
        "parts": dict(outcome.seconds_by_part),
        "curve": [float(loss) for _, loss, *_ in steps],
    }
    if items and outcome.failure is None:
        found["items"] = [
            json.loads(line)["correct"] for line in (folder / "items.jsonl").read_text().splitlines()
        ]
    shutil.rmtree(folder)
    return found


# -- all of them ------------------------------------------------------------------------------------


def _tried(part: Part) -> tuple[Part, str | None]:
    try:
        do(part)
    except Exception as error:  # of one part; the others go on
        return part, f"{type(error).__name__}: {error}"
    return part, None


def run(chosen: Sequence[Part], jobs: int, minutes: float | None) -> None:
    """Does what is left, one process a job, until all is done or no part is begun any more."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    fetch.prepare()
    for name in dict.fromkeys(part.task for part in chosen):
        real_tasks.prepare(TASKS[name])
    left = [part for part in chosen if not part.path.exists()]
    fetch.say(f"{len(left)} of {len(chosen)} parts to do")

    def begun() -> Iterator[Part]:
        for part in left:
            if time.monotonic() < end:
                yield part

    from landscapes import prepare_process

    with multiprocessing.get_context("spawn").Pool(jobs, prepare_process) as pool:
        waiting: list[Any] = []
        source = begun()
        while True:
            while len(waiting) < jobs and (given := next(source, None)) is not None:
                waiting.append(pool.apply_async(_tried, (given,)))
            if not waiting:
                break
            for one in [one for one in waiting if one.ready()]:
                waiting.remove(one)
                part, problem = one.get()
                told = f"failed: {problem}" if problem else "done"
                fetch.say(f"{time.strftime('%H:%M:%S')} {part.task} {part.kind} {part.name} {told}")
            time.sleep(0.5)


def status(chosen: Sequence[Part]) -> None:
    """How many parts of each kind are done, and the seconds they took."""
    kinds = dict.fromkeys((part.task, part.kind) for part in chosen)
    for task, kind in kinds:
        own = [part for part in chosen if (part.task, part.kind) == (task, kind)]
        done = [result for part in own if (result := part.read()) is not None]
        seconds = sum(result["cpu_seconds"] for result in done)
        print(f"{task:10} {kind:8} {len(done):3} of {len(own):3}  {seconds:8,.0f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated")
    parser.add_argument(
        "--kinds", default="base,budget,smaller,search,peer,proxy,full", help="comma-separated"
    )
    parser.add_argument("--names", help="presets, peers or numbers of configs; comma-separated")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin nothing after so many")
    given = parser.parse_args()
    chosen = [part for part in parts(given.tasks.split(",")) if part.kind in given.kinds.split(",")]
    if given.names:
        chosen = [part for part in chosen if part.name in given.names.split(",")]
    try:
        if given.command == "run":
            run(chosen, given.jobs, given.minutes)
        status(chosen)
        if given.command == "pack":
            from landscape import pack

            pack()
        elif given.command == "replay":
            from landscape import store_replay

            store_replay()
        elif given.command == "report":
            from summary import report

            report()
        elif given.command in ("budgets", "smaller", "again"):
            from summary import store_beside

            store_beside(given.command)
    except fetch.Missing as error:
        sys.exit(f"real: {error}")


if __name__ == "__main__":
    main()
