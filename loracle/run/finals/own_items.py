"""Winner and standard settings of a trainer of the user's own, on items where it gives their results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loracle.config.metrics import metric_of
from loracle.records.trial_files import read_items
from loracle.report.verdict import Comparison
from loracle.training.intervals import count_differing, paired_difference


def paired_on_own_items(
    comparison: Comparison, metric: str, winner: Path, standard: Path, among: int = 1
) -> Comparison:
    """The comparison with the difference on the items that both were scored on, or why there is none.

    Args:
        comparison: both succeeded, with settings that differ.
        metric: `value` or `cost`.
        winner, standard: folders of their runs.
        among: configs of which the winner is the best on these very items; 1 where it was run again.
    """
    try:
        sides = [read_items(folder, metric_of(metric).table) for folder in (winner, standard)]
    except FileNotFoundError:
        given = "the trainer gives no results of its items (`objective.items`, or `items` beside the value)"
        return replace(comparison, unpaired=given)
    except (OSError, ValueError):
        return replace(comparison, unpaired="the results of items cannot be read")
    try:
        found = paired_difference(sides[0], sides[1], metric, among=among)
        differing = count_differing(sides[0], sides[1], metric)
    except (ValueError, KeyError):
        return replace(comparison, unpaired="the two were not scored on the same items")
    assert found is not None
    difference, low, high = found
    comparison = replace(comparison, difference=difference, low=low, high=high, among=among)
    return replace(comparison, items=len(sides[0]), differing=differing)
