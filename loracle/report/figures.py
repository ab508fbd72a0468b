"""The figure of a run: scores in the order of trials, and against each knob."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loracle.config.metrics import metric_of
from loracle.records.space import SearchSpace
from loracle.records.trial import History, Trial
from loracle.report.axis_limits import clipped, scaled
from loracle.report.wording import show_value
from loracle.text.escape import printable

Floats = npt.NDArray[np.float64]

_BLUE, _ORANGE, _GREY = "#2a6fbb", "#d9822b", "#9a9a9a"
_TICKS = 12  # values of a knob that are labelled at most
_LABEL = 16  # characters of a label
_PANELS_IN_A_ROW = 6


def write_figure(path: Path, space: SearchSpace, history: History, metric: str) -> None:
    """Draws the scores in the order of trials, and against each knob, as a PNG."""
    figure = draw(space, history, metric)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # letters that the font lacks
        figure.savefig(path, dpi=120)


def draw(space: SearchSpace, history: History, metric: str) -> Figure:
    """The figure: trials above, one panel a knob below."""
    done = history.counted
    scored = [(i, trial) for i, trial in enumerate(done) if trial.outcome and trial.outcome.value is not None]
    read = metric_of(metric).read
    values, power = scaled(np.array([read(_value(trial)) for _, trial in scored], dtype=float))
    label = metric_of(metric).axis
    label += f", in 1e{power}" if power else ""
    rows = math.ceil(len(space.knobs) / _PANELS_IN_A_ROW)
    columns = min(len(space.knobs), _PANELS_IN_A_ROW)
    figure = Figure(figsize=(11, 3.4 + 2.6 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=(1.3, *[1] * rows))
    top = figure.add_subplot(grid[0, :])
    numbers = np.array([i + 1 for i, _ in scored])
    failed = [i + 1 for i, trial in enumerate(done) if trial.outcome and trial.outcome.failure]
    lost = np.array([bool(trial.outcome and trial.outcome.broken) for _, trial in scored], dtype=bool)
    _draw_trials(top, numbers, values, failed, lost, less=metric_of(metric).less_is_better)
    top.set(xlabel="trial", ylabel=label)
    configs = [space.config(trial.index) for _, trial in scored]
    for place, knob in enumerate(space.knobs):
        axes = figure.add_subplot(grid[1 + place // columns, place % columns])
        at = [knob.position(config[knob.name]) for config in configs]
        axes.scatter(at, clipped(values)[0], color=_BLUE, s=16, alpha=0.8)
        shown = range(0, len(knob.values), math.ceil(len(knob.values) / _TICKS))
        labels = [printable(show_value(knob.values[i]), _LABEL) for i in shown]
        turned = len(labels) > 5 or max(map(len, labels)) > 5
        axes.set_xticks(list(shown), labels, rotation=90 if turned else 0, fontsize=8, parse_math=False)
        axes.set_xlim(-0.5, len(knob.values) - 0.5)
        axes.set_xlabel(knob.name, parse_math=False)
        axes.tick_params(labelleft=place % columns == 0)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def _draw_trials(
    axes: Axes,
    numbers: Floats,
    values: Floats,
    failed: list[int],
    lost: npt.NDArray[np.bool_],
    *,
    less: bool,
) -> None:
    """`lost`, (n,): trials that lost a guard, which do not count as the best so far."""
    shown, low, high = clipped(values)
    kept = ~lost
    if kept.any():
        axes.scatter(numbers[kept], shown[kept], color=_BLUE, s=26, label="trial", zorder=3)
        best = np.minimum.accumulate(shown[kept]) if less else np.maximum.accumulate(shown[kept])
        title = "lowest so far" if less else "highest so far"  # and not the best: that is what is recommended
        axes.step(numbers[kept], best, where="post", color=_ORANGE, label=title)
    if lost.any():
        x, y = numbers[lost], shown[lost]
        axes.scatter(x, y, s=26, label="loses a guard", zorder=3, facecolors="none", edgecolors=_GREY)
    far = (values > high) | (values < low)
    if far.any():
        axes.scatter(
            numbers[far],
            shown[far],
            marker="D",
            facecolors="none",
            edgecolors=_ORANGE,
            s=60,
            zorder=4,
            label=f"{int(far.sum())} beyond the scale",
        )
    if failed:
        worst = 0.0 if not len(values) else float(shown.max() if less else shown.min())
        axes.scatter(failed, [worst] * len(failed), marker="x", color=_GREY, label="failed")
    if len(values) or failed:
        axes.legend(frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _value(trial: Trial) -> float:
    assert trial.outcome is not None
    assert trial.outcome.value is not None
    return trial.outcome.value
