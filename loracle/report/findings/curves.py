"""Learning curves of trials: from their outcomes or, of runs that were begun earlier, from their logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from loracle.records.curves.curve import blocks
from loracle.records.notices import Notice
from loracle.records.trial import History
from loracle.report.findings.records import Curve, TrialRow
from loracle.report.folders import trial_folder

_HEAD = "step\tloss\t"  # of the table that Loracle's own trainer writes
_POINTS = 60  # of a curve: more cannot be told apart
_LARGEST = 20_000_000  # bytes of a log


class CurveReader:
    """Reads each trial's curve once: a log changes no more when its trial has ended."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._known: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {}

    def curves(
        self, history: History, rows: Sequence[TrialRow], winner: int | None, standard: int | None
    ) -> tuple[Curve, ...]:
        """Of all trials that have ended and left one. `winner`, `standard`: numbers of their trials."""
        found = []
        kept = {trial.number: trial.outcome.curve for trial in history.finished if trial.outcome}
        for row in rows:
            if row.state == "running":
                continue
            own = kept.get(row.number)
            if own is None and row.number not in self._known:
                self._known[row.number] = read_curve(trial_folder(self._output, row.number) / "log.txt")
            steps, losses = self._known[row.number] if own is None else (own.steps, own.losses)
            role = "winner" if row.number == winner else "standard" if row.number == standard else "other"
            if row.state != "succeeded":
                role = "failed"
            if steps:
                beside = ((), ()) if own is None else (own.validation_steps, own.validation_losses)
                found.append(Curve(row.number, role, steps, losses, *beside))
        return tuple(found)


def curve_notices(history: History) -> tuple[Notice, ...]:
    """What the trainer told of losses and the curves do not hold, in all trials together."""
    curves = [trial.outcome.curve for trial in history.finished if trial.outcome and trial.outcome.curve]
    count = sum(curve.left_out for curve in curves)
    if not count:
        return ()
    text = (
        f"{count:,} loss{'es are' if count > 1 else ' is'} left out of learning curves, as the step is not "
        "higher than the one before; let the trainer count steps over the whole training, not in each epoch"
    )
    return (Notice("result", "losses_left_out", text, count),)


def read_curve(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Steps and losses of a log, at most 60 points; empty where there is no table of Loracle's trainer.

    A point is the mean over its stretch of steps; losses that are no number end the curve.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return (), ()
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return (), ()
    start = next((i for i, line in enumerate(lines[:5]) if line.startswith(_HEAD)), None)
    if start is None:
        return (), ()
    steps, losses = [], []
    for line in lines[start + 1 :]:
        cells = line.split("\t")
        try:
            step, loss = float(cells[0]), float(cells[1])
        except (ValueError, IndexError):  # a comment at the end, or the last line of a process that died
            continue
        if not math.isfinite(loss):
            break
        steps.append(step)
        losses.append(loss)
    return _thinned(steps, losses)


def _thinned(steps: list[float], losses: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    parts = blocks(len(steps), _POINTS)
    means = tuple(float(f"{math.fsum(losses[a:b]) / (b - a):.5g}") for a, b in parts)
    return tuple(steps[b - 1] for _, b in parts), means
