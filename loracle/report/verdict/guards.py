"""What became of what must not be lost, and what was given up for it: as records, and in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import GuardReading, History, Outcome
from loracle.report.verdict.comparison import Comparison, GivenUp, GuardedSearch
from loracle.report.wording import show_amount, show_config, show_difference, show_score


def guarded_search(space: SearchSpace, history: History, winner: Config) -> GuardedSearch | None:
    """How the guards fared in the trials; None where nothing was watched."""
    asked = [t for t in history.succeeded if t.outcome and t.outcome.guards]
    if not asked:
        return None
    found: dict[int, list[Outcome]] = {}
    for trial in asked:
        assert trial.outcome is not None
        found.setdefault(trial.index, []).append(trial.outcome)
    lost = [outcomes for outcomes in found.values() if all(outcome.broken for outcome in outcomes)]
    names = dict.fromkeys(name for outcomes in lost for outcome in outcomes for name in outcome.broken)
    own = [o.value for o in found.get(space.index(winner), []) if o.value is not None]
    rivals = [
        GivenUp(t.number, space.config(t.index), t.outcome.value, max(own), t.outcome.broken)
        for t in asked
        if own and t.outcome and t.outcome.value is not None and t.outcome.broken
    ]
    best = max(rivals, key=lambda rival: rival.value, default=None)
    above = best is not None and best.value > best.winner_value
    return GuardedSearch(len(found), len(found) - len(lost), best if above else None, tuple(names))


def why_standard(comparison: Comparison, metric: str) -> str:
    """Why the standard settings won, where nothing that led in the search could; else empty."""
    if comparison.passed_over:
        some = "what led failed or lost what must not be lost"
        return f"{some} in its final training, and no others are trusted more"
    search = comparison.guarded
    if search is None or search.given_up is None:
        return ""
    given, names = search.given_up, _and(search.lost or search.given_up.broken)
    values = [show_score(value, metric) for value in (given.value, given.winner_value)]
    where = "in a trial" if metric in OWN_METRICS else "in validation"
    best = f"at best with {values[0]} {where} where these scored {values[1]}"
    if search.kept == 0:
        return f"all that were tried lose {names}, others more than these, {best}"
    lost, others = search.tried - search.kept, search.tried - 1
    some = f"all the {others}" if lost == others else f"{lost} of the {others}"
    some = "the one other config" if others == 1 else f"{some} others"
    rest = "" if lost == others else ", and of those that keep it none is trusted more"
    were, lose = "was" if others == 1 else "were", "loses" if lost == 1 else "lose"
    return f"{some} that {were} tried {lose} {names}, {best}{rest}"


def guard_lines(comparison: Comparison, metric: str) -> Iterator[str]:
    """What must not be lost, in a sentence a guard, and what was given up for it."""
    for name, reading in comparison.winner_outcome.guards.items():
        yield f"Of what must not be lost, the winner {_fate(name, reading)}."
    standard = comparison.standard_outcome
    if standard is not None and not comparison.same:
        for name in standard.broken:
            lost = _fate(name, standard.guards[name])
            yield f"Of the standard settings: the adapter {lost}."
    yield from _passed_over(comparison, metric)
    search = comparison.guarded
    if search is None:
        return
    if search.kept == 0:
        some = "the one config that was tried" if search.tried == 1 else f"any of the {search.tried} configs"
        how = "" if search.tried == 1 else " that were tried"
        yield f"Nothing is kept by {some}{how}; the winner is the one that loses the least."
    if search.given_up is not None:
        given = search.given_up
        values = [show_score(value, metric) for value in (given.value, given.winner_value)]
        where = " in its trial" if metric in OWN_METRICS else " in validation"
        yield (
            f"Given up for it: trial {given.number} scored {values[0]}{where}, where the winner "
            f"scored {values[1]}, and lost {_and(given.broken)}: {show_config(given.config)}."
        )


def _passed_over(comparison: Comparison, metric: str) -> Iterator[str]:
    """What led and is not recommended, and whether anything that was trained on all data keeps it all."""
    for one in comparison.passed_over:
        failure, value = one.outcome.failure, one.outcome.value
        if failure is not None or value is None:
            why = f"failed in its final training ({failure.kind if failure else ''})"
        else:
            lost = ", ".join(_fate(name, one.outcome.guards[name]) for name in one.outcome.broken)
            items = "" if metric in OWN_METRICS else " on test items"
            why = f"scored {show_score(value, metric)}{items} and, trained on all data, {lost}"
        yield f"Passed over: {show_config(one.config)} {why}."
    others = [one.outcome for one in comparison.passed_over if one.outcome.failure is None]
    finals = [*others, *(outcome for _, outcome in comparison.sides.values() if outcome.failure is None)]
    n = len(finals) - comparison.same  # which was trained once
    if n > 1 and all(outcome.broken for outcome in finals):
        yield f"None of the {n} configs that were trained on all data keeps it."


def in_short(comparison: Comparison) -> str:
    """The same as the end of a sentence; empty where nothing was watched."""
    told = [
        f"{name} is {'kept' if reading.kept else 'lost'}, against the base model {loss_text(reading)}"
        for name, reading in sorted(comparison.winner_outcome.guards.items(), key=lambda one: one[1].kept)
    ]
    return "".join(f"; {one}" for one in told)


def reading_text(reading: GuardReading) -> str:
    """What was scored against the base model, for a cell of a table."""
    shown = [show_score(value, reading.metric) for value in (reading.value, reading.base)]
    return f"{shown[0]} (base {shown[1]}): {'kept' if reading.kept else 'lost'}"


def _fate(name: str, reading: GuardReading) -> str:
    metric = metric_of(reading.metric)
    shown = [show_score(value, reading.metric) for value in (reading.value, reading.base)]
    verb = "keeps" if reading.kept else "loses"
    items = f" on {reading.items:,} items" if reading.items else " (one number, so no interval)"
    against = f"{metric.title} {shown[0]} against {shown[1]} of the base model"
    return f"{verb} {name}: {against}, {loss_text(reading)}{items}"


def loss_text(reading: GuardReading) -> str:
    """The change against the base model, with its interval where there is one, and what may be lost."""
    allowed = show_amount(reading.allowed, reading.metric)
    if not reading.items:  # one number of a trainer of the user's own
        how = "better" if reading.change >= 0 else "worse"
        return f"{how} by {show_amount(abs(reading.change), reading.metric)}, where {allowed} may be lost"
    by = show_difference(reading.change, reading.low, reading.high, reading.metric)
    return f"{by}, where {allowed} may be lost"


def _and(names: tuple[str, ...]) -> str:
    return " and ".join(names)
