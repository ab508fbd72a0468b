"""What the rows of `search.py` say: tables, intervals of paired differences, figures.

Read by `search.py show`. A *group* is a kind of landscape (`own`, `rows`, `table`, `synthetic`, `noise`:
formulas without noise or with much of it, `more`: further formulas, on which choices were made, `unseen` and
`new`: formulas that rules were judged on, see `docs/search-tables.md`). Means are over seeds first, then over
landscapes, so that every landscape counts the same. Intervals resample landscapes and, within each, seeds
(2,000 times); the two methods of a difference keep their pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

Row = Mapping[str, Any]
Floats = npt.NDArray[np.float64]

GROUPS = ("own", "rows", "real", "synthetic", "noise", "table")
MAIN = (
    *("default", "default-v1", "numeric", "hand", "list", "botorch", "smac"),
    *("gp_sampler", "gp_sampler-3", "tpe", "tpe-3", "random", "paper"),
)
NAMES = {
    "default": "Loracle default",
    "default-v1": "the same, before: prior `lora-v1`",
    "default-twins": "the same, twins not left out",
    "default-stays": "the same, rate not lowered after divergence",
    "hand": "sweep by hand",
    "list": "fixed list of five",
    "tpe-3": "Optuna TPE, 3 random first",
    "gp_sampler-3": "Optuna GPSampler, 3 random first",
    "numeric": "Loracle numeric",
    "prior-alone": "prior alone",
    "default-4-at-a-time": "Loracle default, 4 at a time",
    "botorch": "BoTorch GP, log EI",
    "smac": "SMAC3",
    "hebo": "HEBO",
    "gp_sampler": "Optuna GPSampler",
    "tpe": "Optuna TPE",
    "random": "random",
    "paper": "paper (MiniLM, no token)",
}
COLOURS = {
    "default": "#d1495b",
    "hand": "#3a7d44",
    "botorch": "#30638e",
    "smac": "#66a182",
    "gp_sampler": "#edae49",
    "tpe": "#7d5ba6",
    "random": "#8d99ae",
    "paper": "#2b2d42",
}
_BOOTSTRAPS = 2000


def group_of(landscape: str) -> str:
    """Which kind of landscape a name means."""
    if landscape.startswith("synthetic"):
        _, _, noise, seed = landscape.split(":")
        if seed != "0":
            return "more" if int(seed) < 5 else "unseen" if int(seed) < 9 else "new"
        return "synthetic" if noise == "low" else "noise"
    if landscape.endswith(":rows"):
        return "rows"
    if landscape.startswith("real:"):
        return "real"
    return "table" if ":" in landscape else "own"


class Results:
    """Rows by landscape, regime, method, trials and seed."""

    def __init__(self, rows: Iterable[Row], column: str = "regret") -> None:
        self.cells: dict[tuple[str, str, str, int], dict[int, float]] = defaultdict(dict)
        for row in rows:
            if column in row:
                self.cells[row["landscape"], row["regime"], row["method"], row["n"]][row["seed"]] = row[
                    column
                ]

    def landscapes(self, regime: str, methods: Sequence[str], n: int, groups: Sequence[str]) -> list[str]:
        """Landscapes of these groups where every one of the methods has been run."""
        names = sorted({key[0] for key in self.cells if group_of(key[0]) in groups})
        return [name for name in names if all((name, regime, m, n) in self.cells for m in methods)]

    def values(self, landscape: str, regime: str, method: str, n: int) -> Floats:
        """Values by seed, in the order of seeds."""
        cell = self.cells[landscape, regime, method, n]
        return np.array([cell[seed] for seed in sorted(cell)])

    def means(self, regime: str, method: str, n: int, landscapes: Sequence[str]) -> Floats:
        """Mean over seeds of each landscape."""
        return np.array([self.values(name, regime, method, n).mean() for name in landscapes])

    def differences(
        self, regime: str, one: str, other: str, n: int, landscapes: Sequence[str]
    ) -> list[Floats]:
        """`one` less `other` on the seeds that both have, by landscape."""
        found = []
        for name in landscapes:
            a, b = (self.cells[name, regime, method, n] for method in (one, other))
            found.append(np.array([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]))
        return found


def interval(parts: Sequence[Floats]) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval, landscapes and seeds resampled."""
    random = np.random.default_rng(0)
    means = np.array([part.mean() for part in parts])
    drawn = np.empty(_BOOTSTRAPS)
    for i in range(_BOOTSTRAPS):
        chosen = random.integers(len(parts), size=len(parts))
        drawn[i] = np.mean([random.choice(parts[j], len(parts[j])).mean() for j in chosen])
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(means.mean()), float(low), float(high)


def ranks(results: Results, regime: str, methods: Sequence[str], n: int, landscapes: Sequence[str]) -> Floats:
    """Mean rank of each method over landscapes, 1 is best; equal means share a rank."""
    from scipy.stats import rankdata

    table = np.array([results.means(regime, method, n, landscapes) for method in methods])
    return np.asarray(rankdata(table, axis=0, method="average").mean(axis=1))


def area(
    results: Results, regime: str, method: str, counts: Sequence[int], landscapes: Sequence[str]
) -> float:
    """Area under the curve of mean regret between the first and the last count, per trial."""
    curve = [results.means(regime, method, n, landscapes).mean() for n in counts]
    return float(np.trapezoid(curve, counts) / (counts[-1] - counts[0]))


def table(
    results: Results, regime: str, groups: Sequence[str], counts: Sequence[int], methods: Sequence[str]
) -> str:
    """Markdown: regret and rank at each count, and the area under the curve."""
    here = [m for m in methods if results.landscapes(regime, [m], counts[-1], groups)]
    landscapes = results.landscapes(regime, here, counts[-1], groups)
    if not landscapes or len(here) < 2:
        return ""
    head = " | ".join(f"{n} trials" for n in counts)
    lines = [f"{regime}, {len(landscapes)} landscapes ({', '.join(groups)})", ""]
    lines += [
        f"| method | {head} | area | rank at {', '.join(map(str, counts))} |",
        "|---" * (len(counts) + 3) + "|",
    ]
    by_rank = {n: ranks(results, regime, here, n, landscapes) for n in counts}
    order = sorted(here, key=lambda m: by_rank[counts[-1]][here.index(m)])
    for method in order:
        cells = []
        for n in counts:
            per = results.means(regime, method, n, landscapes)
            cells.append(f"{per.mean():.3f} ({np.median(per):.3f})")
        rank = ", ".join(f"{by_rank[n][here.index(method)]:.2f}" for n in counts)
        auc = area(results, regime, method, counts, landscapes)
        lines.append(f"| {NAMES.get(method, method)} | {' | '.join(cells)} | {auc:.3f} | {rank} |")
    return "\n".join(lines) + "\n"


def advantage_table(
    results: Results, regime: str, n: int, groups: Sequence[str], ours: str = "default"
) -> str:
    """Markdown: how much less regret `ours` has than each other method, with intervals."""
    lines = [
        f"| {ours} less ... at {n} trials, {regime} | landscapes | difference (95 %) | wins |",
        "|---|---|---|---|",
    ]
    for other in MAIN[1:]:
        landscapes = results.landscapes(regime, [ours, other], n, groups)
        if other == ours or not landscapes:
            continue
        parts = results.differences(regime, ours, other, n, landscapes)
        mean, low, high = interval(parts)
        wins = sum(part.mean() < 0 for part in parts)
        lines.append(
            f"| {NAMES[other]} | {len(landscapes)} | {mean:+.3f} ({low:+.3f} to {high:+.3f}) | {wins} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def by_landscape(results: Results, regime: str, n: int, methods: Sequence[str]) -> str:
    """Markdown: mean regret of every landscape, and whether `default` is worse than random beyond noise."""
    here = [m for m in methods if results.landscapes(regime, [m], n, ("own", "rows", "synthetic"))]
    lines = [
        f"| {regime}, {n} trials | {' | '.join(NAMES.get(m, m) for m in here)} |",
        "|---" * (len(here) + 1) + "|",
    ]
    names = sorted({key[0] for key in results.cells if key[1] == regime and key[3] == n})
    for name in names:
        cells = []
        for method in here:
            known = (name, regime, method, n) in results.cells
            cells.append(f"{results.values(name, regime, method, n).mean():.3f}" if known else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def worse_than_random(results: Results, regime: str, n: int) -> list[str]:
    """Landscapes on which `default` loses to random search from the same start, by more than noise."""
    found = []
    for name in results.landscapes(regime, ["default", "random"], n, GROUPS):
        (part,) = results.differences(regime, "default", "random", n, [name])
        error = part.std(ddof=1) / np.sqrt(len(part)) if len(part) > 1 else 0.0
        if part.mean() > 2 * error and part.mean() > 1e-9:
            found.append(f"{name} ({part.mean():+.3f} +- {error:.3f})")
    return found


def wasted_table(rows: Sequence[Row], groups: Sequence[str]) -> str:
    """Markdown: share of 30 trials that learnt nothing or failed."""
    shares = Results(rows, "wasted")
    lines = [
        f"| share of wasted trials in 30 ({', '.join(groups)}) | same seeds | factory |",
        "|---|---|---|",
    ]
    for method in MAIN:
        cells = []
        for regime in ("same seeds", "factory"):
            landscapes = shares.landscapes(regime, [method], 30, groups)
            per = shares.means(regime, method, 30, landscapes)
            cells.append(f"{100 * per.mean():.0f} %" if len(per) else "")
        if any(cells):
            lines.append(f"| {NAMES[method]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figures(results: Results, folder: Path) -> None:
    """`search-curves.png`: regret by trials with bands; `search-ranks.png`: mean ranks."""
    counts = (3, 5, 10, 15, 20, 25, 30)
    panels = [(g, r) for g in ("own", "rows", "synthetic") for r in ("same seeds", "factory")]
    figure = Figure(figsize=(11, 11), layout="constrained")
    for place, (group, regime) in enumerate(panels, 1):
        axes = figure.add_subplot(3, 2, place)
        here = [m for m in COLOURS if results.landscapes(regime, [m], 30, [group])]
        landscapes = results.landscapes(regime, here, 30, [group])
        for method in here:
            # Means over landscapes, by seed: the band is their 95 % interval, the landscapes being given.
            seeds = [
                np.mean([results.values(name, regime, method, n) for name in landscapes], 0) for n in counts
            ]
            middle = np.array([part.mean() for part in seeds])
            error = np.array([1.96 * part.std(ddof=1) / np.sqrt(len(part)) for part in seeds])
            axes.plot(
                counts,
                middle,
                color=COLOURS[method],
                label=NAMES[method],
                lw=2 if method == "default" else 1.3,
            )
            axes.fill_between(counts, middle - error, middle + error, color=COLOURS[method], alpha=0.15, lw=0)
        axes.set(yscale="log", title=f"{group}, {regime} ({len(landscapes)} landscapes)", xlabel="trials")
        axes.set_ylabel("regret of the recommended config")
        axes.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5]))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[2].get_legend_handles_labels()  # of `rows`, where all methods ran
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(str(folder / "search-curves.png"))
    _rank_figure(results, folder / "search-ranks.png")


def _rank_figure(results: Results, path: Path) -> None:
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for place, regime in enumerate(("same seeds", "factory"), 1):
        axes = figure.add_subplot(1, 2, place)
        here = [m for m in COLOURS if results.landscapes(regime, [m], 30, ("own", "synthetic"))]
        landscapes = results.landscapes(regime, here, 30, ("own", "synthetic"))
        for at, n in enumerate((10, 20, 30)):
            for method, rank in zip(here, ranks(results, regime, here, n, landscapes), strict=True):
                axes.scatter(
                    rank, at, color=COLOURS[method], s=60, label=NAMES[method] if at == 0 else None, zorder=3
                )
            axes.axhline(at, color="#dddddd", lw=1, zorder=1)
        axes.set(
            yticks=range(3),
            yticklabels=["10 trials", "20", "30"],
            xlabel="mean rank (1 is best)",
            title=regime,
        )
        axes.set(xlim=(0.8, len(here) + 0.2), ylim=(2.5, -0.5))
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    FigureCanvasAgg(figure).print_png(str(path))
