"""Does the surrogate know how sure it is? Share of new values that its 80 % intervals hold beforehand.

    python benchmarks/calibration.py --seeds 5

Runs the default search as far as `search.py` does. At every trial from the seventh, the chosen config's
interval (belief and noise, in transformed units) is compared with the value that then comes. That value is
brought to the same units by the transform of the history: linear above its median, along its steps below.
Trials that fail have no value and are not judged. Calibrated: 70 to 90 %.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from landscape_data import Floats, Landscape, load_landscapes
from scipy.stats import norm
from search import about, checkpoints, observe
from search_methods import FACTORY, LoracleMethod, Start, ensemble, table_space

from loracle.search.ensemble import fit_ensemble
from loracle.search.outputs import transform_outputs
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import describe

FIRST, LEVEL = 6, 0.8
OUTPUT = Path(__file__).parent / "results" / "calibration.json"


def in_units_of(history: Floats, transformed: Floats, value: float) -> float:
    """A new value in the units of a transformed history."""
    known, first = np.unique(history, return_index=True)
    units = transformed[first]
    if value <= known[-1] or len(known) < 2:
        return float(np.interp(value, known, units))
    upper = known >= np.median(history)
    rise = (units[upper][-1] - units[upper][0]) / max(known[upper][-1] - known[upper][0], 1e-12)
    return float(units[-1] + rise * (value - known[-1]))


def coverage(landscape: Landscape, seed: int) -> list[bool]:
    """Whether each new value was inside its interval."""
    start = Start(landscape, table_space(landscape), FACTORY, seed)
    preset = ensemble(start)
    settings = preset.surrogate
    assert isinstance(settings, EnsembleSettings)
    method = LoracleMethod(start, preset)
    numbers = describe(start.space)
    inside = []
    tried: list[int] = []
    told: list[float] = []  # NaN: failed
    for n in range(min(checkpoints(landscape)[-1], len(landscape.candidates))):
        index = method.ask()
        value = observe(landscape, index, seed)
        values = np.array(told)
        failed = np.isnan(values)
        if n >= FIRST and value is not None and not failed.all():
            y = transform_outputs(values, failed, settings.output)
            rows = np.searchsorted(start.space.candidates, tried)
            fitted = fit_ensemble(settings, numbers, rows, y)
            row = int(np.searchsorted(start.space.candidates, index))
            belief = fitted.belief()
            noise = sum(
                w * float(np.exp(m.theta[4])) for w, m in zip(fitted.weights, fitted.members, strict=True)
            )
            sd = belief.caution * np.sqrt(float(belief.sd[row]) ** 2 + noise)
            away = abs(in_units_of(values[~failed], y[~failed], value) - float(belief.mean[row]))
            inside.append(bool(away <= norm.ppf(0.5 + LEVEL / 2) * sd))
        method.tell(index, value)
        tried.append(index)
        told.append(np.nan if value is None else value)
    return inside


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sources", default="own,synthetic,table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[bool]] = {}
    for landscape in load_landscapes(arguments.sources.split(",")):
        if landscape.source == "synthetic" and ":low:" not in landscape.name:
            continue
        for seed in range(arguments.seeds):
            key = landscape.source if landscape.source == "table" else landscape.name
            found.setdefault(key, []).extend(coverage(landscape, seed))
        print(f"{landscape.name:<60} {100 * np.mean(found[key] or [np.nan]):5.1f} %", flush=True)
    content = {
        "about": about() | {"level": LEVEL, "seeds": arguments.seeds},
        "coverage": {name: [float(np.mean(x)), len(x)] for name, x in found.items() if x},
    }
    OUTPUT.write_text(json.dumps(content, indent=2) + "\n")
    everything = [one for inside in found.values() for one in inside]
    print(f"all: {100 * np.mean(everything):.1f} % of {len(everything)}")


if __name__ == "__main__":
    main()
