"""Stands for a training script: flags in, `result.json` out. Each optimizer has its own learning rate."""

import argparse
import json
import math
from pathlib import Path

TEMPLATES = {"plain": 0.55, "polite": 0.5, "steps": 0.7}
BEST_RATES = {"adamw": 1e-3, "lion": 1e-4}

parser = argparse.ArgumentParser()
parser.add_argument("--template", choices=TEMPLATES, required=True)
parser.add_argument("--optimizer", choices=BEST_RATES, required=True)
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--out", type=Path, required=True)
given = parser.parse_args()

distance = math.log10(given.lr / BEST_RATES[given.optimizer])
value = TEMPLATES[given.template] - 0.1 * distance**2 + 0.05 * (given.optimizer == "lion")
(given.out / "result.json").write_text(json.dumps({"value": value}))
