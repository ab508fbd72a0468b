"""What to make of the best of many scores, in a sentence."""

from __future__ import annotations

from loracle.config.metrics import OWN_METRICS
from loracle.report.findings.records import Chosen
from loracle.report.wording import show_reading


def chosen_line(chosen: Chosen, metric: str) -> str:
    """The winner's curse: a score that was chosen for being high is too good on average."""
    scored, believed = (show_reading(score, metric) for score in (chosen.score, chosen.believed))
    where = "" if metric in OWN_METRICS else " in validation"
    return (
        f"Trial {chosen.trial} leads with {scored}{where}; the best of many scores is partly luck, "
        f"and without it {believed} is believed of its settings."
    )
