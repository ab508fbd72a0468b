"""What became of what the user held likely before the first trial, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from loracle.report.findings.records import HeldLikely
from loracle.report.wording import agrees, show_config
from loracle.text.quantities import show_share

TITLE = "What you held likely"
_LESS, _MORE = 0.25, 1.25  # of the weight before the first trial


def held_lines(held: HeldLikely) -> Iterator[str]:
    """A sentence each; `held.said` has the user's own words."""
    yield f"You held likely: {held.said}."
    who = "that" if held.alone else "that and the prior"
    if held.favourite is not None:
        yield f"Before the first trial, {who} spoke most for {show_config(held.favourite)}."
    if held.agreement is not None:
        yield (
            f"It {agrees(held.agreement)} with what was seen: rank correlation {held.agreement:z.2f} over "
            f"{held.trials} trials."
        )
    some = f"{show_share(held.likelier)} of candidates were" if held.likelier else "no candidate was"
    yield f"By it, {some} likelier than the config that leads."
    what = "the trials neither bear it out nor take it away"
    if held.weight < _LESS * held.weight_before:
        what = "the trials took its weight away"
    elif held.weight > _MORE * held.weight_before:
        what = "the trials bear it out"
    yield (
        f"How much the search goes by it: {show_share(held.weight_before)} before the first trial, "
        f"{show_share(held.weight)} now; {what}."
    )
