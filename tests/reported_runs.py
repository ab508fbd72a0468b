"""Runs for what reads a run and makes a report of it: made up, with the files that trainings leave."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loracle.config.settings import RunConfig, build_space
from loracle.records.space import Config, SearchSpace, with_alpha
from loracle.records.trial import Failure, FailureKind, History, Outcome, Trial
from loracle.report.findings.finding import Subject
from loracle.report.findings.records import Findings
from loracle.report.verdict import Comparison
from loracle.search.presets import get_preset, with_standard

KNOBS: dict[str, Any] = {
    "rank": {"values": [4, 8, 16, 32, 64], "scale": "log2"},
    "alpha_ratio": {"values": [1, 2, 4, 8, 16], "scale": "log2"},
    "dropout": {"values": [0.0, 0.05, 0.1]},
    "batch_size": {"values": [4, 8, 16, 32], "scale": "log2"},
    "learning_rate": {"values": [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3], "scale": "log10"},
}
CLIFF = 0.02  # learning_rate x alpha_ratio, from which a made-up training diverges


@dataclass(frozen=True)
class Made:
    """A run, and what it came to."""

    subject: Subject
    history: History
    comparison: Comparison | None

    @property
    def space(self) -> SearchSpace:
        return self.subject.space

    def find(self, **options: Any) -> Findings:
        stopped = None if self.comparison is None else "all trials are done"
        return self.subject.find(self.history, self.comparison, stopped, **options)


def config_of(folder: Path, **changes: Any) -> RunConfig:
    content: dict[str, Any] = {
        "model": "org/base",
        "data": {"train": folder / "train.jsonl"},
        "output": folder,
        "space": {"base": "empty", "knobs": KNOBS},
        "scoring": {"metric": "exact_match"},
        "search": {"trials": 30},
    }
    return RunConfig.model_validate(content | changes)


def quality(config: Mapping[str, float]) -> float | None:
    """A share from 0 to 1 that peaks below the cliff; None: diverged."""
    step = config.get("learning_rate", 1e-3) * config.get("alpha_ratio", 4)
    if step >= CLIFF:
        return None
    distance = abs(math.log10(step / 0.004))
    return round(max(0.05, 0.9 - 0.35 * distance - 0.03 * abs(math.log2(config.get("rank", 16) / 32))), 3)


def outcome(value: float | None, seconds: float = 8.0) -> Outcome:
    if value is None:
        return Outcome(None, seconds=seconds, failure=Failure(FailureKind.DIVERGED, "the loss is NaN"))
    metrics = {"tokens": 4000.0, "n_examples": 200.0, "peak_memory_bytes": 2.0e9, "steps": 25.0}
    return Outcome(value, metrics, seconds, seconds_by_part={"training": seconds - 1, "scoring": 1.0})


def history_of(space: SearchSpace, n: int, seed: int = 0, score: Any = quality) -> History:
    """Trials of candidates that are drawn, each once."""
    drawn = np.random.default_rng(seed).choice(space.candidates, n, replace=False)
    return History(tuple(Trial(i, int(x), outcome(score(space.config(int(x))))) for i, x in enumerate(drawn)))


def made(
    folder: Path,
    history: History | None = None,
    n: int = 20,
    *,
    finished: bool = True,
    texts: Sequence[str] = ("right",),
    preset: str = "default",
    **changes: Any,
) -> Made:
    """A run in `folder`, with the logs of its trials and, if it is finished, what final trainings leave."""
    config = config_of(folder, **changes)
    space = build_space(config.space)
    history = history_of(space, n) if history is None else history
    write_logs(folder, history)
    subject = Subject(config, space, with_standard(get_preset(preset), config.standard))
    if not finished:
        return Made(subject, history, None)
    best = max(history.succeeded, key=lambda trial: trial.outcome.value if trial.outcome else 0.0)
    winner, standard = space.config(best.index), with_alpha(config.standard or {})
    sides = write_finals(folder, {"winner": winner, "standard": standard}, texts)
    comparison = Comparison(
        winner, standard, sides["winner"], sides["standard"], difference=0.5, low=0.4, high=0.6, items=60
    )
    return Made(subject, history, Comparison(**{**vars(comparison), "differing": 30}))


def write_logs(folder: Path, history: History) -> None:
    for trial in history.trials:
        place = folder / "trials" / f"{trial.number:04d}"
        place.mkdir(parents=True, exist_ok=True)
        lines = [f"{step}\t{5 / step + 0.01 * trial.number:.4f}\t1e-4\t1.0" for step in range(1, 101)]
        head = "# {} seed=0\nstep\tloss\tlearning_rate\tgradient_norm\n"
        (place / "log.txt").write_text(head + "\n".join(lines) + "\n")


def write_finals(folder: Path, configs: Mapping[str, Config], texts: Sequence[str]) -> dict[str, Outcome]:
    found = {}
    for name, config in configs.items():
        place = folder / "final" / name
        place.mkdir(parents=True, exist_ok=True)
        right = [name == "winner" or i >= 40 for i in range(60)]
        right[59] = name != "winner"
        items = [
            {"index": i, "loss": 1.0, "tokens": 3, "prediction": texts[i % len(texts)], "correct": one}
            for i, one in enumerate(right)
        ]
        (place / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        found[name] = outcome(sum(right) / 60, 40.0)
        content = {"config": config, "versions": {"loracle": "0.1.0"}, "device": "cpu"}
        (place / "provenance.json").write_text(json.dumps(content))
    return found
