"""Numbers of the findings as people read them on the page."""

from __future__ import annotations

from loracle.report.findings.records import Findings
from loracle.report.wording import show_reading
from loracle.text import escape

_LONGEST = 160  # characters of a foreign text in a figure


def score(found: Findings, reading: float) -> str:
    """A score that reads as its metric does, with its unit."""
    return show_reading(reading, found.metric)


def gain(found: Findings, value: float) -> str:
    """A difference of values (larger is better), with its sign."""
    return f"{found.scale * value:+.3g}".replace("-", "\N{MINUS SIGN}")


def per_cent(share: float) -> str:
    """A share from 0 to 1."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "below 1 %"


def amount(number: float) -> str:
    """A plain number, short."""
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:,.0f}"


def in_figure(text: str) -> str:
    """Foreign text for a chart, which would take markup for markup: short, and escaped."""
    return escape.html(escape.printable(text, _LONGEST))
