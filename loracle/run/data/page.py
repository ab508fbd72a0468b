"""What there is to see of the data, as a page: one file, light and dark, that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loracle.run.data.view import DataView, Shown
from loracle.text import escape

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --faint: #59636e; --line: #d1d9e0;
  --loss: #b4f0c4; --loss-text: #06351a; --box: #f6f8fa; --note: #7d4e00; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --faint: #9198a1;
  --line: #3d444d; --loss: #17452a; --loss-text: #b8f5cb; --box: #151b23; --note: #e3b341; --bad: #ff8a80 } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif }
h1, h2, h3 { line-height: 1.25 } h3 { margin: 1.5rem 0 .3rem; font-size: 1rem }
.faint { color: var(--faint); font-weight: normal } .note { color: var(--note) } .bad { color: var(--bad) }
.wide { overflow-x: auto } table { border-collapse: collapse } caption { text-align: left }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/1.5 ui-monospace, monospace }
mark { background: var(--loss); color: var(--loss-text); border-radius: 2px }
"""


def page(view: DataView, name: str) -> str:
    """The whole page; `name` is that of the config."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape.html(name)}: data</title><style>{_STYLE}</style></head><body>",
            *_body(view, name),
            "</body></html>\n",
        ]
    )


def table(view: DataView) -> list[list[str]]:
    """Numbers of the splits, with titles; for the terminal, too."""
    titles = ["split", "rows", "too long", "repeated", "tokens", "in loss", "median", "90 %", "longest"]
    rows = [titles]
    for name, part in view.parts.items():
        numbers = [part.rows, part.rows - part.used, part.repeated, part.tokens, part.counted]
        numbers += [part.median, part.high, part.longest]
        rows.append([name, *(f"{n:,}" for n in numbers)])
    return rows


def summary(view: DataView) -> str:
    """How many rows have which shape, and how long they may be."""
    shapes = ", ".join(f"{n:,} of {shape}" for shape, n in view.shapes.items())
    return f"rows: {shapes}; at most {view.max_length:,} tokens"


def guard_lines(view: DataView) -> list[str]:
    """Which rows each guard has, a sentence each."""
    return [
        f"guard {name}: {', '.join(f'{n:,} of {shape}' for shape, n in shapes.items())}"
        for name, shapes in view.guards.items()
    ]


def differences(view: DataView) -> list[str]:
    """What splits can show, a sentence each."""
    return [
        f"{name} shows differences between two settings from {part.difference} on (power 80 %, level 5 %)"
        for name, part in view.parts.items()
        if part.difference is not None
    ]


def label_table(view: DataView) -> list[list[str]]:
    """How often each label occurs in each split, with titles; empty where rows have no labels."""
    if not view.labels:
        return []
    every = dict.fromkeys(label for counts in view.labels.values() for label in counts)
    shares = [sum(counts.values()) or 1 for counts in view.labels.values()]
    rows = [["label", *view.labels]]
    for label in every:
        numbers = [counts.get(label, 0) for counts in view.labels.values()]
        rows.append([label, *(f"{n:,} ({n / s:.0%})" for n, s in zip(numbers, shares, strict=True))])
    return rows


def heading(row: Shown) -> str:
    """What stands above a row as rendered."""
    return f"{row.source}: {row.tokens:,} tokens, {row.counted:,} in the loss"


def _body(view: DataView, name: str) -> Iterator[str]:
    yield f"<h1>Data of {escape.html(name)}</h1>"
    yield f"<p>{escape.html(view.source)}<br>"
    yield "<br>".join(escape.html(line) for line in (summary(view), *guard_lines(view))) + "</p>"
    if view.refused:
        yield f'<p class="bad"><strong>A run would not begin:</strong> {escape.html(view.refused)}</p>'
    if view.notices:
        yield "<h2>What to know</h2><ul>"
        yield from (f'<li class="note">{escape.html(notice.text)}</li>' for notice in view.notices)
        yield "</ul>"
    yield "<h2>Numbers</h2>"
    yield from _table(table(view))
    yield from (f"<p>{escape.html(line)}</p>" for line in differences(view))
    if labels := label_table(view):
        yield "<h2>Labels</h2>"
        yield from _table(labels)
    yield "<h2>Rows as they are learnt</h2>"
    yield "<p>The model reads everything; the loss counts the tokens that are <mark>marked</mark>.</p>"
    for row in view.rows:
        yield f'<h3>{escape.html(row.split)} <span class="faint">{escape.html(heading(row))}</span></h3>'
        yield f"<pre>{''.join(_piece(*piece) for piece in row.pieces)}</pre>"


def _piece(text: str, counted: bool) -> str:
    lines = "\n".join(escape.html(line) for line in text.split("\n"))
    return f"<mark>{lines}</mark>" if counted else lines


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield '<div class="wide"><table>'
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        yield "<tr>" + "".join(f"<{tag}>{escape.html(cell)}</{tag}>" for cell in row) + "</tr>"
    yield "</table></div>"
