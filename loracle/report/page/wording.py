"""Numbers of the findings as people read them on the page."""

from __future__ import annotations

from loracle.records.space import Value
from loracle.report.findings.records import Findings
from loracle.report.wording import show_change, show_reading, show_value
from loracle.text import escape

_LONGEST = 160  # characters of a foreign text in a figure
_TICK = 16  # of one at an axis


def score(found: Findings, reading: float) -> str:
    """A score that reads as its metric does, with its unit."""
    return show_reading(reading, found.metric)


def gain(found: Findings, value: float) -> str:
    """A difference of values (larger is better), with its sign."""
    return show_change(value, found.metric)


def value(own: Value) -> str:
    """A knob's value for a chart; a name is the user's own text."""
    return in_figure(own) if isinstance(own, str) else show_value(own)


def tick(own: Value) -> str:
    """The same at an axis, where there is little room."""
    return in_figure(own, _TICK) if isinstance(own, str) else show_value(own)


def in_figure(text: str, limit: int = _LONGEST) -> str:
    """Foreign text for a chart, which would take markup for markup: short, and escaped."""
    return escape.html(escape.printable(text, limit))
