"""PASHA of Syne Tune in an environment of its own: later versions of the library have it no more.

    python -m venv syne-tune
    syne-tune/bin/pip install syne-tune==0.13.0
    export LORACLE_SYNE_TUNE=$PWD/syne-tune/bin/python

`cost.py` runs this file with that interpreter and speaks to it by lines of JSON: first the sizes of the
knobs, the epochs of a full training and a seed; then `{}` asks, answered by `{"trial": number, "at":
positions}`, which is a new one or goes on, and `{"trial": number, "epoch": from 1, "value": value}` tells,
answered by whether it goes on; a value of null has failed.
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints
    from datetime import UTC, datetime

    from syne_tune.backend.trial_status import Trial
    from syne_tune.config_space import randint
    from syne_tune.optimizer.baselines import PASHA
    from syne_tune.optimizer.scheduler import SchedulerDecision

    about = json.loads(sys.stdin.readline())
    knobs = [f"k{i}" for i in range(len(about["sizes"]))]
    scheduler = PASHA(
        {k: randint(0, size - 1) for k, size in zip(knobs, about["sizes"], strict=True)},
        metric="score",
        mode="max",
        resource_attr="epoch",
        max_t=about["epochs"],
        grace_period=1,
        reduction_factor=3,
        random_seed=about["seed"],
    )
    trials = {}
    for line in sys.stdin:
        said = json.loads(line)
        if not said:
            found = scheduler.suggest(len(trials))
            number = len(trials) if found.spawn_new_trial_id else found.checkpoint_trial_id
            if number not in trials:
                trials[number] = Trial(number, found.config, datetime.now(UTC))
                scheduler.on_trial_add(trials[number])
            answer = {"trial": number, "at": [int(trials[number].config[k]) for k in knobs]}
        else:
            trial = trials[said["trial"]]
            if said["value"] is None:
                scheduler.on_trial_error(trial)
                answer = False
            else:
                told = {"score": said["value"], "epoch": said["epoch"]}
                goes_on = scheduler.on_trial_result(trial, told) == SchedulerDecision.CONTINUE
                if said["epoch"] == about["epochs"]:
                    scheduler.on_trial_complete(trial, told)
                    goes_on = False
                answer = goes_on
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
