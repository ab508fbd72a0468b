"""What else should be quick, each against something of known size in the same run.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --out benchmarks/results/speed.json

* `import loracle`, against starting Python.
* `loracle --help` and `loracle show`, in processor time, against importing Optuna, which holds the trials.
* Which of 5,775 candidates fit into memory, looked at before every trial, against one proposal.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def about(*more: str) -> dict[str, Any]:
    """Date, machine and versions, of `more` packages too, for what is written."""
    packages = ("loracle", "torch", "transformers", "peft", "numpy", *more)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, one thread",
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
    }


def best(work: Callable[[], Any], rounds: int = 7) -> float:
    """Seconds of the fastest of some rounds, as other work on the machine only slows."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def importing() -> dict[str, float]:
    def start(program: str) -> float:
        return best(lambda: subprocess.run([sys.executable, "-c", program], check=True))

    bare, loaded = start("pass"), start("import loracle")
    return {"python": bare, "with_loracle": loaded, "ratio": loaded / bare}


def commands() -> dict[str, float]:
    run = Path(__file__).parent.parent / "tests" / "recorded" / "run_begun_before"

    def seconds(*arguments: str) -> float:
        """Processor time, user and system, of the fastest of some processes."""
        found = []
        for _ in range(7):
            before = os.times()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            after = os.times()
            spent = after.children_user + after.children_system
            found.append(spent - before.children_user - before.children_system)
        return min(found)

    optuna = seconds("-c", "import optuna")
    helped, shown = seconds("-m", "loracle", "--help"), seconds("-m", "loracle", "show", str(run))
    return {
        "import_optuna": optuna,
        "help": helped,
        "show": shown,
        "help_ratio": helped / optuna,
        "show_ratio": shown / optuna,
    }


def choosing() -> dict[str, float]:
    from memory import make_data
    from micro_batch import make_llama

    from loracle import default_space
    from loracle.config.settings import TrainingConfig
    from loracle.records.trial import History, Outcome, Trial
    from loracle.search.presets import get_preset
    from loracle.search.propose import propose
    from loracle.training.memory.counting import build_memory_model
    from loracle.training.memory.plan import Observation

    space = default_space()
    model = build_memory_model(make_llama(32, 2), TrainingConfig(), make_data(8, 32, 8))
    learnt = model.learn([Observation(1e6 * n, 1.2e6 * n) for n in range(1, 31)])
    random = np.random.default_rng(0)
    (first,) = propose(space, History(()), get_preset("default"), seed=0)  # the usual settings, at no cost
    chosen = [first, *random.choice(space.candidates, 29, replace=False)]
    history = History(tuple(Trial(n, int(i), Outcome(float(random.normal()))) for n, i in enumerate(chosen)))
    fits = best(lambda: learnt.fits(space))
    proposal = best(lambda: propose(space, history, get_preset("default"), seed=0))
    return {"fits": fits, "proposal": proposal, "ratio": fits / proposal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = {"import": importing(), "commands": commands(), "memory": choosing()}
    print(f"import loracle / starting Python  {found['import']['ratio']:.2f}")
    print(f"loracle --help / import optuna    {found['commands']['help_ratio']:.2f}")
    print(f"loracle show / import optuna      {found['commands']['show_ratio']:.2f}")
    print(f"what fits into memory / proposal  {found['memory']['ratio']:.4f}")
    if arguments.out:
        content = {**about(), **found}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
