"""Numbers of the findings as people read them on the page."""

from __future__ import annotations

from loracle.report.findings.records import Findings
from loracle.report.wording import show_change, show_reading
from loracle.text import escape

_LONGEST = 160  # characters of a foreign text in a figure


def score(found: Findings, reading: float) -> str:
    """A score that reads as its metric does, with its unit."""
    return show_reading(reading, found.metric)


def gain(found: Findings, value: float) -> str:
    """A difference of values (larger is better), with its sign."""
    return show_change(value, found.metric)


def in_figure(text: str) -> str:
    """Foreign text for a chart, which would take markup for markup: short, and escaped."""
    return escape.html(escape.printable(text, _LONGEST))
