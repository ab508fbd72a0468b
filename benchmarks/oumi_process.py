"""`oumi tune` in an environment of its own: its pins (torch, transformers, Optuna) are not ours.

    python -m venv oumi && oumi/bin/pip install 'oumi[tune]==0.9'
    export LORACLE_OUMI=$PWD/oumi/bin/python

`oumi_tune.py` runs this file with that interpreter and speaks to it by lines of JSON: for each tuning its
settings first; then it prints what a trial is to be trained with, as `oumi.train.train` is given it, and
reads what the training gave. All is oumi's own code but that one function, which answers from the other side.
"""

import json
import sys
import tempfile
from typing import Any

import torch


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints
    import oumi.tune
    from oumi.core.configs import TuningConfig, TuningParams

    def trained(config: Any, **_: Any) -> dict[str, float]:
        chosen = {
            "learning_rate": config.training.learning_rate,
            "batch_size": config.training.per_device_train_batch_size,
            "rank": config.peft.lora_r,
            "alpha": config.peft.lora_alpha,
            "dropout": config.peft.lora_dropout,
        }
        print(json.dumps(chosen), file=answers, flush=True)
        value = json.loads(sys.stdin.readline())
        if value == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return {"score": float("nan") if value is None else value}

    oumi.tune.train = trained
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            tuning = TuningParams(**json.loads(line), output_dir=folder)
            oumi.tune.tune(TuningConfig(tuning=tuning))  # ends the process where it raises
        print(json.dumps(None), file=answers, flush=True)


if __name__ == "__main__":
    main()
