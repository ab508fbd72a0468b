"""What came of a run, in plain words: winner against standard settings, and what may not be claimed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from loracle.config.knobs import KNOBS
from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.records.notices import Notice
from loracle.records.space import Config, SearchSpace
from loracle.records.trial import History
from loracle.report.objectives import scores_of
from loracle.report.verdict.after_search import of_finalists, replicated
from loracle.report.verdict.comparison import EXIT_CODES, MIN_DIFFERING, Comparison, Difference
from loracle.report.verdict.guards import guard_lines, in_short, why_standard
from loracle.report.wording import (
    show_amounts,
    show_config,
    show_difference,
    show_score,
    show_value,
)


def relative_gain(winner: float, standard: float, metric: str) -> float | None:
    """How much better the winner is, relative to the standard settings; None where that has no meaning.

    Accuracies: (winner - standard) / standard. Losses: the share of the loss that is gone.
    """
    if standard == 0 or not metric_of(metric).has_zero:
        return None
    gain = (winner - standard) / abs(standard)
    return gain if math.isfinite(gain) else None


# -- sentences --------------------------------------------------------------------------------------


def verdict(comparison: Comparison, metric: str, history: History | None = None) -> str:
    """The result in a few sentences. `history` tells whether the scores of the trials told configs apart."""
    return " ".join(verdict_lines(comparison, metric, history))


def headline(comparison: Comparison, metric: str, history: History | None = None) -> str:
    """The verdict in one sentence, which `loracle tune` ends with. `history` as in `verdict`."""
    winner, standard = comparison.winner_outcome, comparison.standard_outcome
    flat = (
        ""
        if history is None
        else _all_the_same(history, metric, [other.metric for other in comparison.others])
    )
    flat = flat and f"; the search learnt nothing: {flat}"
    end = f"{_seen_in_short(comparison)}{in_short(comparison)}{flat}."
    if winner.value is None or standard is None or standard.value is None or comparison.same:
        text = _result(comparison, metric).removesuffix(".").removesuffix(_NOTHING_COMPARED)
        return f"{_word(comparison)}: {text[:1].lower()}{text[1:]}{end}"
    against = f"{_phrase(winner.value, metric)} against {show_score(standard.value, metric)}"
    first, *_ = comparison.by_objective(metric)
    by = f"{_by_how_much(first)}{_too_few(first)}"
    others = "".join(
        f"; {_against(other)}{_by_how_much(other)}{_too_few(other)}" for other in comparison.others
    )
    return f"{_word(comparison)}: {against} of the standard settings{by}{others}{end}"


def _word(comparison: Comparison) -> str:
    """What `loracle verdict` tells a script by its exit code, and where nothing could be told, why."""
    if comparison.standing == "trade_off" and comparison.exit_code != EXIT_CODES["worse"]:
        return _TRADE_OFF
    if comparison.exit_code != EXIT_CODES["no_difference"]:
        return _WORDS[comparison.exit_code]
    of_standing = {
        "same": "Nothing better found",
        "not_compared": "Nothing was compared",
        "untested": "Higher, but not shown to be better",
    }
    return of_standing.get(comparison.standing, _WORDS[comparison.exit_code])


_UNTESTED = (
    "Whether it is better cannot be told from one number each; results of items would give an interval."
)
_NOTHING_COMPARED = ", so nothing was compared"
_WORDS = {
    EXIT_CODES["better"]: "Better",
    EXIT_CODES["no_difference"]: "No difference beyond noise",
    EXIT_CODES["worse"]: "Worse",
}
_TRADE_OFF = "Better by one objective, worse by another"


def _by_how_much(found: Difference) -> str:
    """The difference with its interval, as the end of a sentence."""
    if found.mean is None or found.low is None or found.high is None:
        return " (one run each and no interval, so chance plays a part)"
    by = show_difference(found.mean, found.low, found.high, found.metric)
    plural = "" if found.items == 1 else "s"
    test = "" if found.metric in OWN_METRICS else "test "
    return f", {by} on the same {found.items:,} {test}item{plural}"


def _too_few(found: Difference) -> str:
    """That no difference is told for want of items, where the interval excludes zero: ends a sentence."""
    why = why_not_told(found)
    return f", but {why} to tell a difference (at least {MIN_DIFFERING})" if "too few" in why else ""


def why_not_told(found: Difference) -> str:
    """Why a difference with an interval is not told; empty where it is, or there is none."""
    if found.low is None or found.high is None or found.told != "no_difference":
        return ""
    return _not_told(found)


def _against(other: Difference) -> str:
    """Both scores by an objective after the first."""
    assert other.winner_value is not None
    assert other.standard_value is not None
    shown = [show_score(value, other.metric) for value in (other.winner_value, other.standard_value)]
    return f"{metric_of(other.metric).title} {shown[0]} against {shown[1]}"


def verdict_lines(comparison: Comparison, metric: str, history: History | None = None) -> list[str]:
    """The same, each thought by itself."""
    parts = [
        nothing_learnt(history, metric, [other.metric for other in comparison.others]) if history else "",
        _result(comparison, metric),
        *_by_objective(comparison, metric),
        _how_sure(comparison),
        seen_before(comparison),
        replicated(comparison, metric),
        of_finalists(comparison, metric),
        *guard_lines(comparison, metric),
        best_line(comparison, metric),
    ]
    return [part for part in parts if part]


def _result(comparison: Comparison, metric: str) -> str:
    winner, standard = comparison.winner_outcome, comparison.standard_outcome
    if winner.value is None:
        return _winner_failed(comparison, metric)
    shown = _phrase(winner.value, metric)
    if standard is None:
        none = "there are no standard settings to compare it with"
        return f"The winner reaches {shown}, and {none}: {show_config(comparison.winner)}."
    if standard.value is None:
        kind = standard.failure.kind if standard.failure else ""
        return f"The winner reaches {shown}; the standard settings failed ({kind}){_NOTHING_COMPARED}."
    if comparison.same:
        why = why_standard(comparison, metric) or "no others are trusted more"
        return f"The winner is the standard settings: {why}. They reach {shown}."
    if comparison.others:
        return _by_all(comparison, metric)
    against = f"{shown} against {show_score(standard.value, metric)}"
    if comparison.difference is None:
        against += " (one run each and no interval, so chance plays a part)"
    match comparison.standing:
        case "better":
            gain = relative_gain(winner.value, standard.value, metric)
            change = "" if gain is None else f", a relative gain of {show_gain(gain)}"
            text = f"The winner is better than the standard settings: {against}{change}."
        case "untested":
            text = f"The winner scores higher than the standard settings: {against}. {_UNTESTED}"
        case "worse":
            text = f"The winner is worse than the standard settings: {against}."
        case _:
            text = f"No difference between winner and standard settings can be told: {against}."
    return text


def _by_all(comparison: Comparison, metric: str) -> str:
    """How the winner stands against the standard settings by several objectives together."""
    found = comparison.by_objective(metric)
    titles = {
        told: " and ".join(metric_of(one.metric).title for one in found if one.told == told)
        for told in ("better", "worse", "untested")
    }
    match comparison.standing:
        case "trade_off":
            how = f"better than the standard settings by {titles['better']}"
            if not titles["better"]:
                how = f"ahead of the standard settings by {titles['untested']}, which no interval confirms"
            return f"The winner is {how}, and worse by {titles['worse']}."
        case "untested":
            return f"The winner scores higher than the standard settings by {titles['untested']}. {_UNTESTED}"
        case "better" | "worse" as how:
            rest = "" if all(one.told == how for one in found) else ", and no difference is told by the other"
            rest += "s" if rest and sum(one.told != how for one in found) > 1 else ""
            return f"The winner is {how} than the standard settings by {titles[how]}{rest}."
        case _:
            return "No difference between winner and standard settings can be told by any of the objectives."


def show_gain(gain: float) -> str:
    """A relative gain in per cent, never rounded to nothing."""
    return f"{100 * gain:.0f} %" if abs(gain) >= 0.01 else f"{100 * gain:z.2g} %"


def _winner_failed(comparison: Comparison, metric: str) -> str:
    failure, standard = comparison.winner_outcome.failure, comparison.standard_outcome
    text = f"The winner failed in its final training ({failure.kind if failure else ''})"
    if standard is None or standard.value is None:
        return f"{text}: {show_config(comparison.winner)}{_NOTHING_COMPARED}."
    reached = _phrase(standard.value, metric)
    return f"{text}; the standard settings reach {reached}."


def best_line(comparison: Comparison, metric: str) -> str:
    """Whose settings `best` holds, where that is not plain."""
    place = "`best.yaml`" if metric in OWN_METRICS else "`best/`"
    if comparison.best == "standard" and comparison.winner_outcome.broken and comparison.standing != "worse":
        return f"So {place} holds the standard settings, which keep what must not be lost."
    if comparison.best == "standard":
        return f"So {place} holds the standard settings."
    if comparison.standing == "trade_off":
        return f"{place} holds the winner, which is the compromise that the search found."
    if comparison.standing == "untested":
        return f"{place} holds the winner, whose score is the higher one."
    if comparison.standing == "no_difference":
        told = f"{place} holds the winner; as far as these data tell, the standard settings are as good"
        if comparison.standard_outcome is None or not comparison.standard_outcome.broken:
            return f"{told}."
        both = comparison.winner_outcome.broken
        return f"{told}, {'and both' if both else 'but they'} lose what must not be lost."
    return ""


def _by_objective(comparison: Comparison, metric: str) -> list[str]:
    """The differences on the same test items, by each objective where there are several."""
    if not comparison.others or comparison.same or comparison.standing == "not_compared":
        return [paired(comparison, metric)]
    lines = []
    for one in comparison.by_objective(metric):
        told = f"; {_not_told(one)}" if one.low is not None and one.told == "no_difference" else ""
        lines.append(f"By {_against(one)}{_by_how_much(one)}{told}.")
    return lines


def paired(comparison: Comparison, metric: str) -> str:
    """The difference on the same test items with its interval, in a sentence or two; empty without items."""
    if comparison.difference is None or comparison.low is None or comparison.high is None or comparison.same:
        return ""
    mean, low, high = comparison.difference, comparison.low, comparison.high
    plural = "" if comparison.items == 1 else "s"
    by = show_difference(mean, low, high, metric)
    test = "" if metric in OWN_METRICS else "test "
    text = f"On the same {comparison.items:,} {test}item{plural} the winner is {by}."
    if mean == 0:
        text = f"On the same {comparison.items:,} {test}items the two score the same"
        ends = show_amounts(low, high, metric)
        text = f"{text} (95 % interval of the difference {ends})."
    return f"{text} {_why_not_told(comparison)}".strip()


def _how_sure(comparison: Comparison) -> str:
    """Why there is no interval, or that it allows for the choice of the best; empty where it is as always."""
    if comparison.unpaired:
        return f"There is no interval of the difference: {comparison.unpaired}."
    if comparison.among > 1:
        return (
            f"The winner was chosen among {comparison.among} configs by these items and not run again, so "
            "the interval is widened to hold for all of them."
        )
    return ""


def seen_before(comparison: Comparison) -> str:
    """What scores on test items that were trained on, or chosen by, cannot show; empty where none were."""
    words = [
        ("was", "were", "also trained on"),
        ("asks", "ask", "what a training row asks"),
        ("is", "are", "in validation, whole or by prompt, where the settings were chosen"),
    ]
    said = zip(_seen(comparison), words, strict=True)
    counts = ", ".join(f"{n:,} {one if n == 1 else many} {what}" for n, (one, many, what) in said if n)
    if not counts:
        return ""
    of_all = f"Of the {comparison.overlap.items:,} test items, {counts}"
    return f"{of_all}: scores say less about new data than they seem to."


def _seen_in_short(comparison: Comparison) -> str:
    """The same as the end of a sentence."""
    said = zip(_seen(comparison), ("trained on", "asked in training", "in validation, too"), strict=True)
    counts = ", ".join(f"{n:,} {what}" for n, what in said if n)
    return f"; of these {comparison.overlap.items:,} test items {counts}" if counts else ""


def _seen(comparison: Comparison) -> tuple[int, int, int]:
    """Test items that were trained on, asked in training, and in validation; 0 where none was scored."""
    if all(outcome.value is None for _, outcome in comparison.sides.values()):
        return 0, 0, 0
    return comparison.overlap.rows, comparison.overlap.prompts, comparison.overlap.chosen


def _why_not_told(comparison: Comparison) -> str:
    if comparison.standing != "no_difference":
        return ""
    why = _not_told(comparison.by_objective("")[0])
    why = f"{why[:1].upper()}{why[1:]}"
    needed = comparison.items_needed
    if needed is None or needed <= comparison.items:
        return f"{why}: to tell a difference, more test data are needed."
    return f"{why}: to tell a difference of this size, about {needed:,} test items would be needed."


def _not_told(found: Difference) -> str:
    """Why a difference with an interval is not told."""
    assert found.low is not None
    assert found.high is not None
    if found.low <= 0 <= found.high:
        return "zero is inside"
    plural = "" if found.differing == 1 else "s"
    return f"they differ on only {found.differing} item{plural}, which is too few"


def trained_once(comparison: Comparison) -> str:
    """The beginning of a sentence on how the final trainings went."""
    return "It was" if comparison.same or comparison.standard is None else "Both were"


def nothing_learnt(history: History, metric: str, others: Sequence[str] = ()) -> str:
    """Says that no config is known to be better than another, if all trials scored the same; else empty.

    `others`: the objectives after the first, where there are several.
    """
    same = _all_the_same(history, metric, others)
    if not same:
        return ""
    value = next(t.outcome.value for t in history.succeeded if t.outcome and t.outcome.value is not None)
    said = f"The search learnt nothing: {same}, so no config is known to be better than another."
    return f"{said} {_what_to_check(value, metric)}"


def _all_the_same(history: History, metric: str, others: Sequence[str] = ()) -> str:
    """That all trials of several configs scored the same, if so; else empty."""
    told = [trial.outcome for trial in history.succeeded if trial.outcome]
    values = [outcome.value for outcome in told if outcome.value is not None]
    seen = {scores_of(outcome, (metric, *others)) for outcome in told}
    if len({trial.index for trial in history.succeeded}) < 2 or len(seen) > 1:
        return ""
    score = f"{metric_of(metric).title} {show_score(values[0], metric)}"
    trials = "both" if len(values) == 2 else f"all {len(values)}"
    return f"{trials} trials that succeeded scored the same ({score})"


_CHECKS = {
    "own": "whether the trainer uses the settings it is given, and whether the result is read from the right "
    "place",
    "loss": "whether training changes the model at all: learning rates, alpha, the steps of a trial",
    "high": "whether the metric can tell configs apart: with scoring.metric loss, small differences show",
    "none": "`prediction` in trials/0000/items.jsonl: whether answers are cut off (scoring.max_new_tokens), "
    "whether scoring.answer_pattern finds them, whether a trial trains long enough (data.proxy, "
    "training.epochs). With scoring.metric loss, small differences show",
}


def _what_to_check(value: float, metric: str) -> str:
    if metric_of(metric).judges:
        some = value != 0 or metric_of(metric).less_is_better
        return f"Check {_CHECKS['high' if some else 'none']}."
    kind = "own" if metric in OWN_METRICS else "loss"
    return f"Check {_CHECKS[kind]}."


def result_notices(
    comparison: Comparison, space: SearchSpace, history: History, metric: str
) -> tuple[Notice, ...]:
    """What the user must see about the result beside the verdict."""
    at_edge = edges(space, comparison.winner)
    others = [other.metric for other in comparison.others]
    perfect = metric_of(metric).proportion and comparison.winner_outcome.value == 1.0
    if (
        not at_edge or perfect or nothing_learnt(history, metric, others)
    ):  # then where the winner lies means nothing
        return ()
    which = " and ".join(f"{name} {show_value(value)} (the {end})" for name, value, end in at_edge)
    keys = ", ".join(f"space.knobs.{name}" for name, _, _ in at_edge)
    text = (
        f"the winner is at the edge of the space: {which}. Better settings may lie beyond; add values there "
        f"({keys}) and search again with another output"
    )
    return (Notice("result", "winner_at_edge", text, len(at_edge)),)


def not_measured(names: Sequence[str], comparison: Comparison) -> Iterator[Notice]:
    """Metrics that were asked for when the final trainings were done already."""
    metrics = comparison.winner_outcome.metrics
    missing = [name for name in names if name not in metrics and f"test_{name}" not in metrics]
    if missing:
        text = (
            f"{', '.join(missing)} (scoring.metrics): not measured, as the trainings were done before it was "
            "asked for; use another output to have it"
        )
        yield Notice("result", "metrics_not_measured", text, len(missing))


def edges(space: SearchSpace, config: Config) -> list[tuple[str, float, str]]:
    """Knobs whose value is the lowest or highest of the candidates, with that word; natural ends left out."""
    found = []
    values = space.values(space.candidates)
    for knob in space:
        name = knob.name
        own, there = config.get(name), np.unique(values[name])
        least = KNOBS[name].least if name in KNOBS else None
        if (
            knob.named or own is None or isinstance(own, str) or len(there) < 3
        ):  # of two values, one is always at the edge
            continue
        if own <= there[0] and own != least:
            found.append((name, own, "lowest"))
        elif own >= there[-1] and not (name == "batch_size" and own >= (space.batch_limit or math.inf)):
            found.append((name, own, "highest"))
    return found


# -- helpers ----------------------------------------------------------------------------------------


def _phrase(value: float, metric: str) -> str:
    name = metric if metric in OWN_METRICS else f"test {metric_of(metric).title}"
    return f"a {name} of {show_score(value, metric)}"
