"""Test items that winner and standard settings answered differently, from what their final trainings left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loracle.config.metrics import metric_of
from loracle.records.trial_files import read_items
from loracle.report.findings.records import Example, Examples
from loracle.report.folders import final_folder, trial_folder

_MOST = 20  # each way
_LONGEST = 600  # characters of a text


def examples(
    output: Path, metric: str, texts: Sequence[tuple[str | None, str | None]] = (), trial: int | None = None
) -> Examples | None:
    """Items on which the two differ, those with the largest difference first; None without such results.

    Args:
        output: the run folder.
        metric: by which an item is better.
        texts: prompt and reference of each test item, where they are known.
        trial: that stands for the winner, where it was not run again.
    """
    table = metric_of(metric).table
    try:
        winner = final_folder(output, "winner") if trial is None else trial_folder(output, trial)
        sides = [read_items(folder, table) for folder in (winner, final_folder(output, "standard"))]
    except (OSError, ValueError):
        return None
    by_index = {item.get("index"): item for item in sides[1]}
    pairs = [(item, by_index[item["index"]]) for item in sides[0] if item.get("index") in by_index]
    gains = _gains(pairs, metric)
    if gains is None:
        return None
    found = [
        _example(winner, standard, gain, metric, texts)
        for (winner, standard), gain in zip(pairs, gains, strict=True)
        if gain != 0
    ]
    found.sort(key=lambda one: (-abs(one.gain), isinstance(one.index, str), one.index))
    won, lost = ([one for one in found if sign * one.gain > 0] for sign in (1, -1))
    return Examples(tuple(won[:_MOST]), tuple(lost[:_MOST]), len(won), len(lost), len(pairs))


def _gains(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], metric: str) -> list[float] | None:
    """Each item's score with the winner less the standard's; None where scores are no matter of items.

    An item's score is what the metric would make of it alone, which some metrics of whole corpora cannot.
    """
    found = metric_of(metric)
    if not pairs:
        return None
    try:
        sides = [found.statistics([pair[side] for pair in pairs]) for side in (0, 1)]
    except (KeyError, TypeError, ValueError):
        return None
    if sides[0] is None or sides[1] is None:
        return None
    with np.errstate(all="ignore"):
        gains = found.combine(sides[0]) - found.combine(sides[1])
    return [float(gain) if math.isfinite(gain) else 0.0 for gain in np.asarray(gains)]


def _example(
    winner: dict[str, Any],
    standard: dict[str, Any],
    gain: float,
    metric: str,
    texts: Sequence[tuple[str | None, str | None]],
) -> Example:
    index = winner["index"]
    known = isinstance(index, int) and 0 <= index < len(texts)
    prompt, reference = texts[index] if known else (None, None)
    said = [_said(item, metric) for item in (winner, standard)]
    return Example(index, gain, said[0], said[1], _cut(prompt), _cut(reference))


def _said(item: dict[str, Any], metric: str) -> str:
    """What was written, or else the item's score."""
    if "prediction" in item:
        return _cut(str(item["prediction"])) or ""
    score = metric_of(metric).score([item])
    return "" if score is None else metric_of(metric).show(score)


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
