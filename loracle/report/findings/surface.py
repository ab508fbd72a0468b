"""What is believed over two knobs at once, as a record."""

from __future__ import annotations

from dataclasses import dataclass

from loracle.records.space import Value

Grid = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Surface:
    """The belief over two knobs, the others as in the config that leads.

    Attributes:
        knobs: a and b: those that the size of a step is made of or, where the space lacks one of them, those
            of the strongest interaction.
        values: of each that are shown, n and m of them, in order; names as they come.
        at: the leading config's own.
        named: of each, whether its values have no order.
        scores, lows, highs: believed, and the ends of the interval of 95 %, (m, n); None where the
            space has no such candidate.
        keeps: probability that a trial keeps every guard, (m, n); None without guards.
    """

    knobs: tuple[str, str]
    values: tuple[tuple[Value, ...], tuple[Value, ...]]
    at: tuple[Value, Value]
    named: tuple[bool, bool]
    scores: Grid
    lows: Grid
    highs: Grid
    keeps: Grid | None = None
