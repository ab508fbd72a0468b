"""Several finished runs: what each found, and their winners in pairs on the test items that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from loracle.config.data.sources import short_name
from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.errors import StudyError
from loracle.records.contents import ANSWERS
from loracle.records.trial import History
from loracle.records.trial_files import read_items
from loracle.report.comparison.records import Pair, RunRow, RunsCompared
from loracle.report.folders import final_folder, trial_folder
from loracle.report.verdict import Comparison
from loracle.report.verdict.guards import guard_lines
from loracle.report.verdict.stored import read_finished
from loracle.report.wording import ends_of
from loracle.run.folder import open_run
from loracle.run.storage.opening import read_contents, read_history
from loracle.training.intervals import paired_difference, paired_p_value

_FEWEST = 2  # items that two runs share


@dataclass(frozen=True)
class _Run:
    """A finished run, with hashes of what it is made of.

    Attributes:
        items: the folder with the results of the winner's items.
        among: configs of which the winner is the best on these very items; 1 where it was run again.
    """

    config: RunConfig
    comparison: Comparison
    contents: Mapping[str, str]
    row: RunRow
    items: Path
    among: int = 1


def compare_runs(folders: Sequence[Path]) -> RunsCompared:
    """What these runs found. Winners are paired where they were scored on the same test rows by one metric.

    Raises:
        LoracleError: fewer than two runs, one twice, one that is not finished or cannot be read.
    """
    if len(folders) < 2:
        raise StudyError("name two or more runs to compare")
    runs = _named([_read(folder) for folder in folders])
    runs.sort(key=lambda run: (run.row.metric, -(run.row.value if run.row.value is not None else -1e308)))
    pairs = [_paired(one, other) for one, other in combinations(runs, 2)]
    return RunsCompared(tuple(run.row for run in runs), tuple(_adjusted(pairs)))


def _read(folder: Path) -> _Run:
    config, space = open_run(folder)
    history = read_history(config.output, space, config.execution.storage)
    finished = read_finished(config.output, history, config.execution.storage)
    contents = read_contents(config.output, config.execution.storage)
    comparison = finished.comparison
    row = _row(config, comparison, history)
    for trial in history.succeeded:  # an own trainer that repeats it has no final run
        if trial.outcome == comparison.winner_outcome:
            among = len({one.index for one in history.succeeded})
            folder = trial_folder(config.output, trial.number)
            return _Run(config, comparison, contents, row, folder, among)
    return _Run(config, comparison, contents, row, final_folder(config.output, "winner"))


def _row(config: RunConfig, comparison: Comparison, history: History) -> RunRow:
    outcome, standard = comparison.winner_outcome, comparison.standard_outcome
    own = config.objective is not None
    ends = [end if math.isfinite(end) else None for end in ends_of(outcome, config.metric)]
    outcomes = [trial.outcome for trial in history.finished if trial.outcome]
    outcomes += [outcome, *([standard] if standard is not None and not comparison.same else [])]
    return RunRow(
        run=config.output.name,
        folder=str(config.output),
        model=Path(config.model).name or config.model,
        data="" if own else short_name(config.data.train),
        variant="own trainer" if own else str(comparison.winner.get("variant", config.training.variant)),
        preset=config.search.preset,
        metric=config.metric,
        config=dict(comparison.winner),
        value=outcome.value,
        low=ends[0],
        high=ends[1],
        score=None if outcome.value is None else metric_of(config.metric).read(outcome.value),
        standard=None if standard is None else standard.value,
        standing=comparison.standing,
        others=config.objectives[1:],
        trials=len(history.counted),
        seconds=sum(one.seconds for one in outcomes),
        guards=dict(outcome.guards),
        given_up=comparison.guarded.given_up if comparison.guarded else None,
        guarded=tuple(guard_lines(comparison, config.metric)),
    )


def _named(runs: Sequence[_Run]) -> list[_Run]:
    """Runs with names that differ."""
    paths = [run.config.output for run in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise StudyError(f"{twice} is named twice")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [
        replace(run, row=replace(run.row, run="/".join(run.config.output.parts[-depth:]))) for run in runs
    ]


def _paired(one: _Run, other: _Run) -> Pair:
    pair = Pair(one.row.run, other.row.run)
    if why := _unlike(one, other):
        return replace(pair, why_not=why)
    metric = one.config.metric
    items = [_items(run, metric) for run in (one, other)]
    shared = items[0].keys() & items[1].keys()
    if len(shared) < _FEWEST:
        return replace(pair, why_not="there are no results of items that both were scored on")
    a, b = ([own[index] for index in sorted(shared)] for own in items)
    among = one.among * other.among
    found, p = paired_difference(a, b, metric, among=among), paired_p_value(a, b, metric, among=among)
    if found is None or p is None:
        return replace(pair, why_not=f"{metric} is not made of items")
    difference, low, high = found
    chosen = tuple(run.row.run for run in (one, other) if run.among > 1)
    pair = replace(pair, difference=difference, low=low, high=high, p=p, items=len(shared))
    own = one.config.objective is not None
    by_place = own and shared == set(range(len(shared)))
    return replace(pair, among=among, chosen=chosen, by_place=by_place)


def _unlike(one: _Run, other: _Run) -> str:
    """Why two runs cannot be paired; empty where they can."""
    metric = metric_of(one.config.metric)
    if one.config.metric != other.config.metric:
        return f"one is scored by {one.config.metric}, the other by {other.config.metric}"
    if one.row.value is None or other.row.value is None:
        return "a winner failed in its final training"
    rows = [run.contents.get("test rows") for run in (one, other)]
    own = [run.config.objective is not None for run in (one, other)]
    if all(own):  # the indices of their items say whether these are the same
        items = [_items(run, one.config.metric).keys() for run in (one, other)]
        if not all(items):
            return "a trainer of one's own without results of items leaves nothing to pair"
        return "" if items[0] == items[1] else "their items have other indices"
    if None in rows:
        return "one is of a trainer of one's own, whose items are its own affair"
    if rows[0] != rows[1]:
        return "their test rows differ"
    tokenizers, answers = (
        [run.contents.get(name) for run in (one, other)] for name in ("tokenizer", ANSWERS)
    )
    if metric.needs == "writing" and tokenizers[0] == tokenizers[1] and answers[0] != answers[1]:
        return "one is of an earlier version, whose answers hold what the chat template writes around them"
    if metric.needs == "loss" and not metric.counts_bytes and tokenizers[0] != tokenizers[1]:
        return f"{metric.title} is of tokens, and their tokenizers differ; bits_per_byte compares"
    return ""


def _items(run: _Run, metric: str) -> dict[Any, Any]:
    """Results of the winner by the index of the item; none where they are gone."""
    try:
        items = read_items(run.items, metric_of(metric).table)
    except OSError:
        return {}
    return {item["index"]: item for item in items}


def _adjusted(pairs: Sequence[Pair]) -> list[Pair]:
    """With p adjusted for their number: S. Holm, A simple sequentially rejective test procedure (1979)."""
    order = sorted((i for i, pair in enumerate(pairs) if pair.p is not None), key=lambda i: pairs[i].p or 0.0)
    found, largest = list(pairs), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * (pairs[i].p or 0.0)))
        found[i] = replace(pairs[i], holm=largest)
    return found
