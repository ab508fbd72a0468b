"""Takes a learning curve in as it comes, of any length, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from loracle.records.curves.curve import POINTS, Curve, blocks

_KEPT = 512  # points at least, of longer trainings
# The table of a training in its folder; a comment after a row tells of a validation loss.
HEAD = "step\tloss\tlearning_rate\tgradient_norm\ttokens\n"


@dataclass(frozen=True)
class Point:
    """A step, or the mean over a stretch of `n` of them at its end. Not known: NaN, tokens 0."""

    step: int
    loss: float
    learning_rate: float = math.nan
    gradient_norm: float = math.nan
    tokens: int = 0
    n: int = 1

    @property
    def row(self) -> str:
        """Its row in a table; empty cells where nothing is known."""
        numbers = (self.loss, self.learning_rate, self.gradient_norm)
        cells = ("" if math.isnan(x) and x is not self.loss else f"{x:.6g}" for x in numbers)
        return "\t".join([str(self.step), *cells, str(self.tokens or "")]) + "\n"


def validation_row(step: int, loss: float) -> str:
    """A comment in a table."""
    return f"# validation loss after step {step}: {loss:.6g}\n"


class CurveRecorder:
    """Takes points in. Steps that do not increase are left out and counted; a loss that is no number ends
    the curve."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._width = 1  # steps in a stretch
        self._ended = False
        self._left_out = 0
        self._validation: list[tuple[int, float]] = []

    def add(self, point: Point) -> None:
        """Takes the next step in."""
        last = self._points[-1] if self._points else None
        self._ended |= not math.isfinite(point.loss)
        if self._ended:
            return
        if last is not None and point.step <= last.step:
            self._left_out += 1
            return
        if last is not None and last.n < self._width:
            self._points[-1] = _mean([last, point])
            return
        self._points.append(point)
        if len(self._points) > 2 * _KEPT:
            self._points = [_mean(self._points[i : i + 2]) for i in range(0, len(self._points), 2)]
            self._width *= 2

    def validated(self, step: int, loss: float) -> None:
        """Takes a validation loss in, after a step; a later one of the same step counts."""
        if math.isfinite(loss):
            self._validation = [one for one in self._validation if one[0] != step][-2 * _KEPT :]
            self._validation.append((step, loss))

    def curve(self) -> Curve | None:
        """Of what has come so far; None where nothing has."""
        points = _thinned(self._points, POINTS)
        validation = sorted(self._validation)
        validation = [validation[end - 1] for _, end in blocks(len(validation), POINTS)]
        if not points and not validation:
            return None
        return Curve(
            steps=tuple(point.step for point in points),
            losses=_column([point.loss for point in points]),
            tokens=tuple(point.tokens for point in points) if any(p.tokens for p in points) else (),
            learning_rates=_column([point.learning_rate for point in points]),
            gradient_norms=_column([point.gradient_norm for point in points]),
            validation_steps=tuple(step for step, _ in validation),
            validation_losses=_column([loss for _, loss in validation]),
            left_out=self._left_out,
        )

    def write(self, file: TextIO) -> None:
        """Writes the table: the whole of it up to 1,024 steps, means over stretches beyond."""
        file.write(HEAD)
        rows = [(point.step, 0, point.row) for point in self._points]
        rows += [(step, 1, validation_row(step, loss)) for step, loss in self._validation]
        file.writelines(row for _, _, row in sorted(rows))


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    return [_mean(points[start:end]) for start, end in blocks(len(points), most)]


def _mean(points: Sequence[Point]) -> Point:
    """Of neighbours: means of what is known, at the last of them."""
    last = points[-1]
    loss, rate, norm = (
        _weighted([(getattr(point, name), point.n) for point in points])
        for name in ("loss", "learning_rate", "gradient_norm")
    )
    return Point(last.step, loss, rate, norm, last.tokens, sum(point.n for point in points))


def _weighted(pairs: Sequence[tuple[float, int]]) -> float:
    known = [(x, n) for x, n in pairs if math.isfinite(x)]
    total = sum(n for _, n in known)
    return math.fsum(x * (n / total) for x, n in known) if known else math.nan


def _column(numbers: Sequence[float]) -> tuple[float, ...]:
    """Five digits of each; nothing where one is not known."""
    return tuple(float(f"{x:.5g}") for x in numbers) if all(map(math.isfinite, numbers)) else ()
