"""HEBO in an environment of its own: it needs numpy below 1.25, which nothing else here installs beside.

    python -m venv hebo
    hebo/bin/pip install HEBO==0.3.6 numpy==1.24.4 torch==2.13.0 scipy==1.11.4 pandas==2.0.3 \
        matplotlib==3.8.4 scikit-learn==1.3.2 gpytorch==1.11 linear_operator==0.5.2 GPy==1.13.2 \
        contourpy==1.2.1 catboost==1.2.7
    export LORACLE_HEBO=$PWD/hebo/bin/python

`search_methods.py` runs this file with that interpreter and speaks to it by lines of JSON: first the sizes of
the knobs and a seed; then `{}` asks, answered by positions, and `{"at": positions, "cost": number}` tells.
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library prints
    from hebo.design_space.design_space import DesignSpace
    from hebo.optimizers.hebo import HEBO

    about = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    np.random.seed(about["seed"])
    torch.manual_seed(about["seed"])
    knobs = [f"k{i}" for i in range(len(about["sizes"]))]
    space = DesignSpace().parse(
        [
            {"name": k, "type": "int", "lb": 0, "ub": size - 1}
            for k, size in zip(knobs, about["sizes"], strict=True)
        ]
    )
    optimizer = HEBO(space, scramble_seed=about["seed"])
    for line in sys.stdin:
        said = json.loads(line)
        if said:
            optimizer.observe(pd.DataFrame([said["at"]], columns=knobs), np.array([[said["cost"]]]))
            continue
        positions = optimizer.suggest(1)[knobs].iloc[0]
        answers.write(json.dumps([int(position) for position in positions]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
