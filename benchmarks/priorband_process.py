"""PriorBand of NePS in an environment of its own, whose pins are not ours.

    python -m venv neps
    neps/bin/pip install neural-pipeline-search==0.17.0 botorch==0.12.0
    export LORACLE_NEPS=$PWD/neps/bin/python

`priorband.py` runs this file with that interpreter and speaks to it by lines of JSON: `{"sizes": of the
knobs, "prior": positions, "epochs": of a full training, "seed": number}` begins a search; `{}` asks, answered
by `{"trial": number, "epoch": to train to, "at": positions}`; `{"value": value}` tells of what was asked
last; a value of null has failed.
"""

import json
import random
import sys
import warnings

warnings.filterwarnings("ignore")


def begin(about):
    import neps
    import numpy as np
    import torch

    random.seed(about["seed"])
    np.random.seed(about["seed"])
    torch.manual_seed(about["seed"])
    knobs = {
        f"k{i}": neps.Integer(lower=0, upper=size - 1, prior=place, prior_confidence="medium")
        for i, (size, place) in enumerate(zip(about["sizes"], about["prior"], strict=True))
        if size > 1
    }
    fidelity = {"epoch": neps.IntegerFidelity(lower=1, upper=about["epochs"])}
    space = type("Space", (neps.PipelineSpace,), knobs | fidelity)
    return neps.AskAndTell(neps.algorithms.priorband(space(), eta=3))


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints
    optimizer = trial = sizes = None
    for line in sys.stdin:
        said = json.loads(line)
        if "sizes" in said:
            optimizer, sizes = begin(said), said["sizes"]
        elif "value" in said:
            failed = said["value"] is None
            told = ValueError("diverged") if failed else {"objective_to_minimize": -said["value"]}
            optimizer.tell(trial.metadata.id, told)
        else:
            trial = optimizer.ask()
            at = [int(trial.config.get(f"k{i}", 0)) for i in range(len(sizes))]
            number = int(str(trial.metadata.id).partition("_")[0])
            answers.write(json.dumps({"trial": number, "epoch": trial.config["epoch"], "at": at}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
