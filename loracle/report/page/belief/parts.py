"""What is believed along each setting, and which settings matter."""

from __future__ import annotations

from loracle.report.findings.records import Findings, Share
from loracle.report.page.belief.surface import SURFACE, likely_lost
from loracle.report.page.markup import Part, chart, code_in, own, paragraph, section, text
from loracle.report.wording import NUMBERS_STAND_IN
from loracle.text.quantities import show_share

_RATIO = "<code>alpha_ratio</code> is alpha&nbsp;/&nbsp;rank."


def slices_part(found: Findings) -> Part:
    """The belief along each setting."""
    places = [
        chart(f"slice-{i}", f"Believed {found.title} over {one.knob}, with the trials.", "small")
        for i, one in enumerate(found.slices)
    ]
    note = paragraph(
        "Blue is what the search believes where one setting changes and the others stay as in the leading "
        "config (dotted), with an interval of 95 %. Points are trials, whatever their other settings were; "
        "crosses failed.",
        ratio(found),
        stands_in(found),
    )
    grid = f'<div class="grid">{"".join(places)}</div>'
    why = found.left_out.get("slices")
    return section("slices", "Belief", "What is believed", note, grid, _surface(found), why=why)


def _surface(found: Findings) -> str:
    """The belief over two settings at once."""
    one = found.surface
    if one is None:
        return paragraph(code_in(found.left_out.get("surface", "")))
    names = " and ".join(map(own, one.knobs))
    label = f"Believed {found.title} over {one.knobs[0]} and {one.knobs[1]}, with the trials."
    note = paragraph(
        "The belief where these two change and the others stay as in the leading config (outlined). The "
        "colour is the believed score; the larger a field, the narrower its interval of 95 % beside the "
        "differences of colour. Points are trials, whatever their other settings were; crosses failed.",
        "With what is outlined in red a trial likely loses a guard." if likely_lost(one) else "",
    )
    return f"<h3>{names} together</h3>{chart(SURFACE, label, 'tall')}{note}"


def ratio(found: Findings) -> str:
    """What is meant by the one setting that tables show otherwise."""
    return _RATIO if "alpha_ratio" in found.knobs else ""


def stands_in(found: Findings) -> str:
    """Whose belief it is, where it is not the search's own."""
    return "" if found.own_belief else text(NUMBERS_STAND_IN)


def importance_part(found: Findings) -> Part:
    """What each setting explains."""
    why = found.left_out.get("importance")
    if found.importance is None:
        return section("importance", "Importance", "Which settings matter", why=why)
    first = found.importance.knobs[0]
    said = [_explains(found, first)]
    if len(found.importance.knobs) == 1:
        why = f"Only {first.knobs[0]} has more than one value, so all that differs is its doing."
        return section("importance", "Importance", "Which settings matter", why=why)
    pair = found.importance.interaction
    if pair is not None:
        names = " and ".join(own(name) for name in pair.knobs)
        said.append(
            f"The strongest interaction is that of {names}: together they explain "
            f"{_interval(pair)} beyond what each does alone."
        )
    open_ = [share for share in found.importance.knobs if share.high - share.low > 0.3]
    if open_:
        said.append("Wide intervals mean that the trials leave it open.")
    note = paragraph(
        f"Functional analysis of variance of the belief over {found.importance.configs:,} configs, in "
        f"{found.importance.draws} functions drawn from it; scores below the median count by their rank. "
        "Bars: by itself, 95 % of the draws; marks: with all interactions. Hutter et al., ICML 2014.",
        stands_in(found),
    )
    label = "Share of the variance of the believed score that each setting explains."
    body = chart("importance-chart", label)
    return section("importance", "Importance", "Which settings matter", paragraph(*said), body, note)


def _explains(found: Findings, share: Share) -> str:
    total = "" if share.total is None else f", {show_share(share.total)} with its interactions"
    return f"{own(share.knobs[0])} explains most by itself: {_interval(share)} of the variance{total}."


def _interval(share: Share) -> str:
    ends = f"{show_share(share.low)} to {show_share(share.high)}"
    return text(f"{show_share(share.share)} ({ends})")
