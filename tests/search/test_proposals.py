"""Proposals stay what they were: searches recorded earlier, met again trial by trial.

Speed may be gained and bugs mended, but for the histories of a normal run the same configs are proposed and
the same beliefs held, to rounding. `recorded/proposals.json` was written by this file, run as a program with
the code before: `python tests/search/test_proposals.py`.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from places import TESTS

from loracle.language.features import FixedFeatures
from loracle.records.space import Config, Knob, SearchSpace, default_space, paper_space
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.search.presets import PRESETS, with_earlier_prior, with_parameters
from loracle.search.propose import Beliefs, propose, ranking

CHOSEN = {
    **PRESETS,
    "large": with_parameters(PRESETS["default"], 7e9),
    "earlier": with_earlier_prior(PRESETS["default"]),
}
RECORDED = TESTS / "recorded" / "proposals.json"
CHECKED = (0, 1, 2, 4, 9, 20, 40, 59)  # trials before the proposals that are met again


@dataclass(frozen=True)
class Search:
    """One search: preset, space, and how many trials it has."""

    preset: str
    space: SearchSpace
    trials: int = 60
    noise: float = 0.02
    reads: bool = False

    @property
    def features(self) -> FixedFeatures | None:
        if not self.reads:
            return None
        generator = torch.Generator().manual_seed(0)
        return FixedFeatures(torch.randn(len(self.space.candidates), 12, generator=generator))


OTHER = SearchSpace(
    (
        Knob("rank", (4, 16, 64), "log2"),
        Knob("learning_rate", (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "log10"),
        Knob("warmup", (0.0, 0.05, 0.1, 0.2)),
        Knob("beta", (0.8, 0.9, 0.99)),
    ),
    constraints=("rank * learning_rate < 0.5",),
)
SEARCHES = {
    "default": Search("default", default_space(), trials=21),
    "default, 7 billion parameters": Search("large", default_space()),
    "default, other knobs": Search("large", OTHER, trials=21),
    # As runs go on that were begun before the prior knew of a model's size.
    "earlier prior": Search("earlier", default_space()),
    "earlier prior, published space": Search("earlier", paper_space(), trials=21),
    "earlier prior, other knobs": Search("earlier", OTHER),
    "numeric": Search("numeric", default_space()),
    "numeric, other knobs": Search("numeric", OTHER, noise=0.2),
    "language": Search("language", OTHER, trials=21, reads=True),
    "paper": Search("paper", OTHER, trials=21, reads=True),
}


def score(config: Config) -> float:
    """A ridge in the step size, a preference for low dropout and middle values of other knobs."""
    step = math.log10(config["learning_rate"]) + 0.4 * math.log10(config["rank"])
    step += 0.6 * math.log10(config.get("alpha_ratio", 2)) - 0.5 * math.log10(config.get("batch_size", 16))
    rest = config.get("dropout", 0) + (config.get("warmup", 0) - 0.1) ** 2 + config.get("beta", 0.9) / 10
    return math.exp(-((step + 3.3) ** 2) / 1.5) - rest


def outcome(search: Search, index: int) -> Outcome:
    config = search.space.config(index)
    if config["learning_rate"] * config.get("alpha_ratio", 2) > 0.02:
        return Outcome(None, failure=Failure(FailureKind.DIVERGED, "the loss is not a number"))
    if config["rank"] == 64 and config.get("batch_size", 16) == 128:
        return Outcome(None, failure=Failure(FailureKind.CRASHED, "it crashed"))
    return Outcome(score(config) + search.noise * float(np.random.default_rng(index).normal()))


def history(search: Search, indices: list[int], running: int = 0) -> History:
    """The trials of a search, the last ones still running."""
    known = len(indices) - running
    return History(
        tuple(Trial(i, k, outcome(search, k) if i < known else None) for i, k in enumerate(indices))
    )


def step(search: Search, past: History) -> dict[str, Any]:
    """What is proposed now, and some beliefs."""
    preset, features = CHOSEN[search.preset], search.features
    chosen = propose(search.space, past, preset, features=features, n=2, seed=1)
    found: dict[str, Any] = {"proposed": chosen}
    if past.succeeded:
        surrogate = Beliefs.of(search.space, past, preset, features, 1).surrogate
        assert surrogate is not None
        belief = surrogate.belief()
        rows = np.linspace(0, len(search.space.candidates) - 1, 7).astype(int)
        found["mean"], found["sd"] = belief.mean[rows].tolist(), belief.sd[rows].tolist()
        found["best"] = ranking(search.space, past, preset, features=features, seed=1)[:3]
    return found


def record(search: Search) -> dict[str, Any]:
    """A whole search, one trial at a time."""
    indices: list[int] = []
    for _ in range(search.trials):
        past = history(search, indices)
        preset = CHOSEN[search.preset]
        indices += propose(search.space, past, preset, features=search.features, seed=1)
    steps = {n: step(search, history(search, indices[:n])) for n in CHECKED if n < search.trials}
    running = step(search, history(search, indices[:13], running=3))
    return {"indices": indices, "steps": steps, "running": running}


@cache
def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return content


def same(now: dict[str, Any], before: dict[str, Any], rounding: float = 1e-5) -> None:
    assert now["proposed"] == before["proposed"]
    assert now.get("best") == before.get("best")
    for part in ("mean", "sd"):
        np.testing.assert_allclose(now.get(part, []), before.get(part, []), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", SEARCHES)
def test_recorded_searches_are_met_again(name: str) -> None:
    search, before = SEARCHES[name], recorded()[name]
    rounding = 1e-3 if search.reads else 1e-5  # AdamW's first steps are the signs of gradients near 0
    # Two values are as far above their mean as below it, so the sign of its gradient is that of rounding.
    checked = (0, 1, 4, 9) if search.reads else CHECKED
    for n in (n for n in checked if n < search.trials):
        now = step(search, history(search, before["indices"][:n]))
        same(now, before["steps"][str(n)], rounding)
        assert now["proposed"][0] == before["indices"][n]
    same(step(search, history(search, before["indices"][:13], running=3)), before["running"], rounding)


if __name__ == "__main__":
    content = {name: record(replace(search)) for name, search in SEARCHES.items()}
    RECORDED.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    sys.stdout.write(f"{RECORDED}: {RECORDED.stat().st_size} bytes\n")
