"""What the charts of the page are made of, as plotly takes it. Colours are the page's own variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Chart = dict[str, Any]

BLUE, ORANGE, GREY, RED, INK = (f"var(--{name})" for name in ("blue", "orange", "grey", "red", "ink"))
BAND = "var(--band)"
LEVELS = tuple(f"var(--level{i})" for i in range(5))  # of a score, worst to best


def layout_of(x: str, y: str) -> Chart:
    """A chart with two axes of these names."""
    axis = {"automargin": True, "zeroline": False, "gridcolor": "var(--rule)", "fixedrange": True}
    return {
        "xaxis": axis | {"title": {"text": x, "font": {"size": 13}}, "linecolor": "var(--rule)"},
        "yaxis": axis | {"title": {"text": y, "font": {"size": 13}}},
        "margin": {"l": 12, "r": 12, "t": 12, "b": 12},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        "hovermode": "closest",
    }


def marks_at(
    x: Sequence[Any], y: Sequence[Any], texts: Sequence[str], name: str, colour: str, symbol: str = "circle"
) -> Chart:
    """Marks, each with a text of its own to hover over."""
    marker = {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.85}
    trace = {"type": "scatter", "mode": "markers", "x": list(x), "y": list(y), "name": name}
    return trace | {"marker": marker, "hovertext": list(texts), "hoverinfo": "text"}


def line_through(
    x: Sequence[Any], y: Sequence[Any], name: str, colour: str, dash: str = "solid", shape: str = "linear"
) -> Chart:
    """A line that tells its name to who hovers over it."""
    look = {"color": colour, "width": 2, "dash": dash, "shape": shape}
    trace = {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "name": name, "line": look}
    return trace | {"hoverinfo": "text", "hovertext": name}
