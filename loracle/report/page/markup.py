"""HTML from foreign text and plain data: every text goes through here, so that it stays text."""

from __future__ import annotations

import html as _html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loracle.text import escape

_LONGEST = 4_000  # characters of one text on the page
_SMALL_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?e-\d+(?!\w)")


def text(content: object, limit: int = _LONGEST) -> str:
    """One line of text, for elements and attributes; its direction is its own and not the page's."""
    return escape.html(escape.printable(str(content), limit))


def block(content: str) -> str:
    """Text of several lines, for `pre`."""
    return _html.escape(escape.lines(content), quote=True)


def own(content: object, limit: int = _LONGEST) -> str:
    """Foreign text inside a sentence or cell: what is written from right to left turns nothing else round."""
    return f"<bdi>{text(content, limit)}</bdi>"


def paragraph(*sentences: str) -> str:
    """Sentences that are HTML already."""
    return f"<p>{' '.join(sentences)}</p>" if any(sentences) else ""


def code_in(sentence: str) -> str:
    """A sentence of Loracle's own in which backticks mark what is code."""
    parts = text(sentence).split("`")
    if len(parts) % 2 == 0:  # one backtick alone is a letter like others
        return text(sentence)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


@dataclass(frozen=True)
class Part:
    """A part of the page: its HTML, or why there is none.

    Attributes:
        name: its id.
        link: its title in the list of parts, short.
    """

    name: str
    link: str
    title: str
    html: str = ""
    why: str | None = None


def section(name: str, link: str, title: str, *content: str, why: str | None = None) -> Part:
    """A part of the page; `why` says in a sentence why there is nothing to show."""
    if why is not None:
        return Part(name, link, title, why=why)
    inside = "\n".join(part for part in content if part)
    html = (
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{text(title)}</h2>\n{inside}\n</section>\n'
    )
    return Part(name, link, title, html)


def chart(name: str, label: str, kind: str = "") -> str:
    """The place of a chart, with what it shows in words."""
    return (
        f'<figure class="chart {kind}" id="{name}" role="img" aria-label="{text(label)}">'
        f"<noscript>{text(label)} The chart needs JavaScript.</noscript></figure>"
    )


def table(rows: Sequence[Sequence[str]], label: str, *, first_is_head: bool = True) -> str:
    """A small table of texts; the first column names the rows."""
    head, *rest = rows if first_is_head else [[], *rows]
    top = "".join(f'<th scope="col">{text(cell)}</th>' if cell else "<td></td>" for cell in head)
    lines = [f"<thead><tr>{top}</tr></thead>"] if head else []
    body = []
    for first, *cells in rest:
        inside = "".join(f"<td>{_unbroken(own(cell, 400))}</td>" for cell in cells)
        body.append(f'<tr><th scope="row">{own(first, 400)}</th>{inside}</tr>')
    return scrolling(f"<table>{''.join(lines)}<tbody>{''.join(body)}</tbody></table>", f"{label}: table")


def _unbroken(content: str) -> str:
    """The same HTML, with numbers such as `1e-3` in one piece: a browser breaks them after the hyphen."""
    return _SMALL_NUMBER.sub(r'<span class="number">\g<0></span>', content)


def scrolling(content: str, label: str) -> str:
    """What may be wider than a small screen, and can then be moved with keys, too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{text(label)}">{content}</div>'


def items(sentences: Iterable[str]) -> str:
    """A list of sentences that are HTML already."""
    inside = "".join(f"<li>{sentence}</li>" for sentence in sentences)
    return f"<ul>{inside}</ul>" if inside else ""
