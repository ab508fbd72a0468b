"""What can be said of the trials themselves: rows, the best so far, what they cost, trials against finals."""

from __future__ import annotations

from collections.abc import Sequence

from loracle.config.metrics import metric_of
from loracle.config.settings import RunConfig
from loracle.records.space import SearchSpace, same_value, with_alpha
from loracle.records.trial import History, Outcome
from loracle.report.findings.records import Cost, ParetoSet, Progress, ProxyPair, ScoredTrial, TrialRow
from loracle.report.findings.search_cost import search_cost
from loracle.report.objectives import pareto_set, scores_of
from loracle.report.tables import history_json
from loracle.report.verdict import Comparison


def trial_rows(space: SearchSpace, history: History, metric: str) -> tuple[TrialRow, ...]:
    """One a trial, in the order in which they were started."""
    rows = []
    for found in history_json(space, history, metric):
        failure = found["failure"] or {}
        rows.append(
            TrialRow(
                found["trial"],
                found["state"],
                found["config"],
                found["value"],
                found["score"],
                failure.get("kind"),
                failure.get("message", ""),
                found["seconds"],
                found["metrics"],
                found["guards"],
                tuple(name for name, reading in found["guards"].items() if not reading["kept"]),
            )
        )
    return tuple(rows)


def scored_by_each(history: History, objectives: Sequence[str], standard: int | None) -> ParetoSet | None:
    """What trials scored by several objectives; None where there is one. `standard`: number of its trial."""
    if len(objectives) < 2:
        return None
    front = {trial.number for trial in pareto_set(history, objectives)}
    found = []
    for trial in history.succeeded:
        assert trial.outcome is not None
        both = zip(objectives, scores_of(trial.outcome, objectives), strict=True)
        read = tuple(metric_of(name).read(score) for name, score in both)
        found.append(ScoredTrial(trial.number, read, trial.number in front))
    return ParetoSet(tuple(objectives), tuple(found), standard)


def standard_index(config: RunConfig, space: SearchSpace) -> int | None:
    """Index of the candidate that is the standard settings; None where they are none of the space."""
    if config.standard is None:
        return None
    near = space.nearest(config.standard) if _knows(space, config) else None
    if near is None:
        return None
    found, asked = space.config(near), with_alpha(config.standard)
    same = all(same_value(found[name], asked[name]) for name in space.names if name in asked)
    return near if same else None


def progress(rows: Sequence[TrialRow], standard: TrialRow | None, metric: str) -> Progress | None:
    """The best so far; None before a trial has counted."""
    counted = [row for row in rows if row.state in ("succeeded", "failed")]
    if not counted:
        return None
    pick = min if metric_of(metric).less_is_better else max
    best: list[float | None] = []
    seconds, spent = [], 0.0
    for row in counted:
        before = best[-1] if best else None
        own = None if row.broken else row.score
        known = [score for score in (before, own) if score is not None]
        best.append(pick(known) if known else None)
        spent += row.seconds or 0.0
        seconds.append(spent)
    reached = None if standard is None else standard.score
    return Progress(tuple(row.number for row in counted), tuple(seconds), tuple(best), reached)


def cost(config: RunConfig, history: History, comparison: Comparison | None) -> Cost | None:
    """Of all trainings that were measured (interrupted ones are not); None before the first has ended."""
    trials = [trial.outcome for trial in history.finished if trial.outcome]
    finals = final_outcomes(comparison, trials)
    if not trials and not finals:
        return None
    everything = [*trials, *finals]
    parts: dict[str, float] = {}
    for outcome in everything:
        for name, seconds in outcome.seconds_by_part.items():
            parts[name] = parts.get(name, 0.0) + seconds
    tokens = [outcome.metrics["tokens"] for outcome in everything if "tokens" in outcome.metrics]
    peaks = [o.metrics["peak_memory_bytes"] for o in everything if "peak_memory_bytes" in o.metrics]
    in_trials, in_finals = (sum(outcome.seconds for outcome in some) for some in (trials, finals))
    if comparison is not None and (again := comparison.replication) is not None:
        in_trials += again.leader.seconds + again.rival.seconds
    watts = config.execution.watts
    hours = _hours(config, in_trials + in_finals)
    return Cost(
        in_trials,
        in_finals,
        parts,
        int(sum(tokens)) if tokens else None,
        int(max(peaks)) if peaks else None,
        price(config, in_trials + in_finals),
        None if watts is None else watts * hours / 1000,
        search_cost(trials),
    )


def final_outcomes(comparison: Comparison | None, trials: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes of the final trainings, each once; a trial that stands for one was counted as a trial."""
    if comparison is None:
        return []
    found: list[Outcome] = []
    others = [one.outcome for one in comparison.passed_over]
    others += [one.outcome for one in comparison.finalists]
    for outcome in (*(o for _, o in comparison.sides.values()), *others):
        if outcome not in trials and outcome not in found:
            found.append(outcome)
    return found


def price(config: RunConfig, seconds: float) -> float | None:
    """What trainings of so many seconds, all together, cost; None where nobody has said a price."""
    of_an_hour = config.execution.cost_per_hour
    return None if of_an_hour is None else of_an_hour * _hours(config, seconds)


def _hours(config: RunConfig, seconds: float) -> float:
    return seconds / 3600 / max(1, config.execution.workers)  # price and watts are of all workers together


def proxy_pairs(
    space: SearchSpace, history: History, comparison: Comparison | None, metric: str
) -> tuple[ProxyPair, ...]:
    """Winner and standard settings in their trial and in their final training, where both succeeded."""
    if comparison is None:
        return ()
    read, pairs = metric_of(metric).read, []
    sides = list(comparison.sides.items())
    if comparison.same:  # one config, which was trained once
        sides = [("winner, which is the standard settings", sides[0][1])]
    for name, (config, outcome) in sides:
        tried = [t.outcome for t in history.succeeded if t.outcome and _same(space, t.index, config)]
        values = [one.value for one in tried if one.value is not None]
        if values and outcome.value is not None and outcome not in tried:
            pairs.append(ProxyPair(name, read(max(values)), read(outcome.value)))
    return tuple(pairs)


# -- helpers ----------------------------------------------------------------------------------------


def _knows(space: SearchSpace, config: RunConfig) -> bool:
    """Whether the standard settings have a value for every knob of the space, and for nothing else."""
    given = with_alpha(config.standard or {})
    if set(given) - {*space.names, "alpha", "alpha_ratio"}:
        return False
    for knob in space.knobs:
        value = given.get(knob.name)
        if value is None and not (knob.name == "alpha_ratio" and {"alpha", "rank"} <= set(given)):
            return False
        if value is not None and knob.named is not isinstance(value, str):
            return False
        if knob.scale in ("log2", "log10") and not isinstance(value, str | None) and value <= 0:
            return False
    return True


def _same(space: SearchSpace, index: int, config: object) -> bool:
    assert isinstance(config, dict)
    own = space.config(index)
    return all(name in config and same_value(own[name], config[name]) for name in own)
