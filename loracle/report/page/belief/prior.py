"""The parts of the page on what was expected before the first trial: by the prior, and by the user."""

from __future__ import annotations

from loracle.report.explanation.held import TITLE, held_lines
from loracle.report.findings.records import Findings
from loracle.report.page.markup import Part, chart, paragraph, section, table, text
from loracle.report.wording import agrees, prior_knobs_line, show_value, shown_knobs
from loracle.text.quantities import show_share


def prior_part(found: Findings) -> Part:
    """What the prior said against what was seen."""
    why = found.left_out.get("prior")
    if found.prior is None:
        return section("prior", "Prior", "What the prior said", why=why)
    prior = found.prior
    said = [text(prior_knobs_line(found.prior_knobs))]
    if prior.agreement is not None:
        seen = f"rank correlation {prior.agreement:z.2f} over {len(prior.expected)} trials"
        said.append(
            f"The prior, fitted to other tasks, {agrees(prior.agreement)} with what was seen: {seen}."
        )
    said.append(
        f"How much the search trusts the prior: {show_share(prior.weight_before)} before the first trial, "
        f"{show_share(prior.weight)} now."
    )
    before, now = shown_knobs(prior.favourite), shown_knobs(prior.favourite_now)
    rows = [
        ["", *now],
        ["the prior's own choice", *(show_value(before[x]) if x in before else "any" for x in now)],
        [
            "believed best now" + (", of what likely keeps the guards" if found.watched else ""),
            *map(show_value, now.values()),
        ],
    ]
    body = chart("prior-chart", "Score of each trial against what the prior expected of it.")
    return section("prior", "Prior", "What the prior said", paragraph(*said), body, table(rows, "Favourites"))


def held_parts(found: Findings) -> list[Part]:
    """What became of what the user held likely; none where that is nothing."""
    if found.held is None:
        return []
    return [section("held", "Held likely", TITLE, paragraph(*map(text, held_lines(found.held))))]
