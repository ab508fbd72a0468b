"""`report.html`: one file that holds text, charts and the library that draws them, and asks for nothing else.

A policy in its head lets only these two scripts run, and lets nothing be fetched: foreign text that came
through unescaped could still do nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from loracle.records.codec import finite
from loracle.report.findings.records import Findings
from loracle.report.page.charts import charts
from loracle.report.page.markup import Part, code_in, items, section, text
from loracle.report.page.sections import sections
from loracle.text.files import write_atomically

FILE = "report.html"


def write_page(findings: Findings, path: Path) -> None:
    """Writes the page: whole, or not at all."""
    write_atomically(path, page(findings))


def page(found: Findings) -> str:
    """The page as HTML."""
    library, script = _asset("plotly-basic.min.js"), _asset("page.js") + _asset("brush.js")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    policy += f"; script-src {_hash(library)} {_hash(script)}"
    title = f"LoRA search: {text(found.name, 200)}"
    parts = sections(found)
    there = [part for part in parts if part.why is None]
    links = "".join(f'<li><a href="#{part.name}">{text(part.link)}</a></li>' for part in there)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>{_asset('page.css')}</style>",
            "</head>",
            "<body>",
            f"<header><h1>LoRA search: <bdi>{text(found.name, 200)}</bdi></h1>"
            '<button type="button" id="theme">Dark</button></header>',
            f'<nav aria-label="Parts of the report"><ul>{links}</ul></nav>',
            f"<main>{''.join(part.html for part in there)}{_absent(parts)}</main>",
            "<footer>Made by Loracle. Charts: plotly.js.</footer>",
            f'<script type="application/json" id="charts">{_json(charts(found))}</script>',
            f'<script type="text/plain" id="library">{library}</script>',
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _absent(parts: Sequence[Part]) -> str:
    """In one place, what is not there, and why."""
    absent = [part for part in parts if part.why is not None]
    if not absent:
        return ""
    lines = [f"<strong>{text(part.title)}.</strong> {code_in(part.why or '')}" for part in absent]
    return section("absent", "", "What is not here, and why", items(lines)).html


def _json(content: object) -> str:
    """JSON that can end no element of a page."""
    plain = json.dumps(finite(content), separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return (files("loracle.report.page") / "assets" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
