"""What was trained between the search and the test data: further seeds, and the best of it on all data."""

from __future__ import annotations

from loracle.report.verdict.comparison import Comparison, Finalist
from loracle.report.wording import show_against, show_score


def replicated(comparison: Comparison, metric: str) -> str:
    """What further seeds of the best two said; empty where they were not needed."""
    found = comparison.replication
    if found is None:
        return ""
    seeds = len(found.leader.values) + found.leader.failed
    rival = f"trial {found.rival.trial}"
    by = show_against(found.difference, found.low, found.high, metric, rival)
    means = [
        show_score(one.mean, metric)
        + (f" ({one.failed} failed)" if one.failed else "")
        + (f" ({' and '.join(one.broken)} lost)" if one.broken else "")
        for one in (found.leader, found.rival)
    ]
    stays = "the first stays" if found.chosen == "leader" else "the second takes its place"
    return (
        f"In validation, trial {found.leader.trial} was {by}, which is within "
        f"noise; so both were trained with {seeds} seeds in all, with a mean of {means[0]} and {means[1]}, "
        f"and {stays}."
    )


_ORDINALS = "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"


def of_finalists(comparison: Comparison, metric: str) -> str:
    """How the best of the search did on all data, where several were trained; empty where one was."""
    found = comparison.finalists
    if not found:
        return ""
    shown = [_final_score(one, metric) for one in found]
    chosen = next(one for one in found if one.chosen)
    if chosen.value is None:
        end = "none of them can be chosen"
    elif chosen.place == 1:
        end = "the first of the search stays"
    else:
        end = f"the {_ORDINALS[found.index(chosen)]} of them is the winner"
    return (
        f"The best {len(found)} of the search were trained on all data and scored on all validation items "
        f"({', '.join(shown)}, in the order of the search): {end}."
    )


def _final_score(one: Finalist, metric: str) -> str:
    if one.value is None:
        return f"failed: {one.outcome.failure.kind}" if one.outcome.failure else "not scored"
    lost = f" with {' and '.join(one.outcome.broken)} lost" if one.outcome.broken else ""
    return show_score(one.value, metric) + lost
