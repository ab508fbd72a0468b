"""How well training subsets rank configs, as a table, a figure, and plain data for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loracle.records.codec import finite, to_plain
from loracle.records.space import Config
from loracle.text.quantities import show_seconds


@dataclass(frozen=True)
class Correlation:
    """One coefficient between a fraction's scores and those of full training, with a 95 % interval."""

    kind: str  # pearson | spearman | kendall
    among: str  # all | better half
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class FractionResult:
    """What training on one fraction tells.

    Attributes:
        fraction: of the training examples.
        n_examples: that many examples.
        scores: of each config, NaN where the training failed; same order as `ProxyResult.configs`.
        seconds: mean time of a training and its scoring, in seconds.
        correlations: with full training.
        published: the paper's Pearson figures at this fraction (math / code), where it has them.
        of_trials: whether the trials of the run train on as much.
    """

    fraction: float
    n_examples: int
    scores: tuple[float, ...]
    seconds: float
    correlations: tuple[Correlation, ...]
    published: str
    of_trials: bool = False

    @property
    def shown(self) -> str:
        """The fraction as people read it."""
        return f"{100 * self.fraction:.3g} %{' (a trial)' if self.of_trials else ''}"


@dataclass(frozen=True)
class ProxyResult:
    """The whole check; `full` are the scores of full training."""

    folder: Path
    configs: tuple[Config, ...]
    full: tuple[float, ...]
    fractions: tuple[FractionResult, ...]

    def as_json(self) -> dict[str, Any]:
        """The result as plain data; scores that failed, and coefficients that there are not, are null."""
        return finite(to_plain(self))  # type: ignore[no-any-return]


def draw_proxy(path: Path, result: ProxyResult) -> None:
    """One panel a fraction: its scores against those of full training, as a PNG."""
    from matplotlib.figure import Figure  # here: whoever reads the numbers needs none

    figure = Figure(figsize=(3.2 * len(result.fractions), 3.4), layout="constrained")
    full = np.array(result.full)
    for i, part in enumerate(result.fractions):
        axes = figure.add_subplot(1, len(result.fractions), i + 1)
        axes.scatter(part.scores, full, s=22, color="#2a6fbb")
        rank = next(c.estimate for c in part.correlations if (c.kind, c.among) == ("spearman", "all"))
        axes.set_title(f"{part.shown}: Spearman {rank:z.2f}", fontsize=10)
        axes.set_xlabel(f"score, {part.n_examples:,} examples")
        if i == 0:
            axes.set_ylabel("score, full training")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120)


def proxy_table(found: ProxyResult) -> list[list[str]]:
    """How each fraction's scores go with those of full training; first the column titles."""
    rows = [["data", "examples", "seconds", "coefficient", "all configs", "better half", "published"]]
    for part in found.fractions:
        by_kind = {(c.kind, c.among): _interval(c.estimate, c.low, c.high) for c in part.correlations}
        for i, kind in enumerate(("pearson", "spearman", "kendall")):
            first = [part.shown, f"{part.n_examples:,}", show_seconds(part.seconds)]
            rows.append(
                [
                    *(first if i == 0 else ("", "", "")),
                    kind,
                    by_kind[kind, "all"],
                    by_kind[kind, "better half"],
                    part.published if kind == "pearson" else "",
                ]
            )
    return rows


def _interval(estimate: float, low: float, high: float) -> str:
    """A coefficient with its 95 % interval; there is none of few configs, or where the scores do not vary."""
    if not math.isfinite(estimate):
        return "none: too few configs, or scores that do not vary"
    shown = f"{estimate:z.2f}"
    return f"{shown} ({low:z.2f} to {high:z.2f})" if math.isfinite(low + high) else shown
