"""Numbers and configs as people read them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.config.search.limits import is_default, least_trials, leaves_it_open
from loracle.config.settings import RunConfig
from loracle.records.failures import kinds_of
from loracle.records.space import NUMERIC, Config, Value
from loracle.records.trial import ITEMS, TAKEN_BACK, Failure, FailureKind, History, Outcome
from loracle.report.findings.records import Chosen, PriorKnobs
from loracle.report.findings.search_cost import affordable, exceeded, show_trainings

NUMBERS_STAND_IN = (  # where the belief of a preset that reads is asked for
    "The search reads prompts with a language model; the belief on numbers alone stands in for it."
)
_TIME_LIMITS = ("execution.time_limit", "objective.time_limit")
_LARGE = 1e6  # from here on, powers of ten
_ENDS = ("low", "high")  # of an interval, as results name them


def shown_knobs(config: Mapping[str, Value]) -> Config:
    """A config as people read it: `alpha` in the place of `alpha_ratio`."""
    if "alpha" not in config or "alpha_ratio" not in config:
        return dict(config)
    swapped = ((("alpha" if n == "alpha_ratio" else n), v) for n, v in config.items() if n != "alpha")
    return {name: config["alpha"] if name == "alpha" else value for name, value in swapped}


def knob_titles(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """What stands above each knob's column; a knob that has the name of another column says what it is."""
    others = set(taken)
    return {name: f"{name} (knob)" if name in others else name for name in names}


def show_value(value: Value) -> str:
    """A knob's value as people write it: `2e-4`, `16`, `cosine`; ten digits, so that values stay distinct."""
    if isinstance(value, str):
        return value
    if value != 0 and (abs(value) < 1e-2 or abs(value) >= _LARGE):
        mantissa, exponent = f"{value:.9e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:z.10g}"


def show_config(config: Mapping[str, Value]) -> str:
    """A config in one line."""
    return ", ".join(f"{name} {show_value(value)}" for name, value in shown_knobs(config).items())


def show_score(value: float, metric: str) -> str:
    """A score (larger is better) as its metric reads: a loss without the sign, a share in per cent.

    `value` and `cost` are what a trainer of the user's own gives; they stay as they are.
    """
    return metric_of(metric).show(value)


def show_test(outcome: Outcome, metric: str) -> str:
    """A test score with its 95 % interval, or the kind of failure."""
    if outcome.value is None:
        return str(outcome.failure.kind) if outcome.failure else ""
    return show_with_interval(outcome.value, metric, ends_of(outcome, metric))


def ends_of(outcome: Outcome, metric: str) -> list[float]:
    """The ends of the 95 % interval of a value; NaN where there is none.

    A trainer of the user's own has one where it gave results of items. What it called `low` and `high`
    itself, in runs of earlier versions, is none.
    """
    known = metric not in OWN_METRICS or ITEMS in outcome.metrics
    return [outcome.metrics.get(end, math.nan) if known else math.nan for end in _ENDS]


def show_beside(outcome: Outcome, metric: str) -> str:
    """A test score by a metric that is recorded beside the one that is optimised, with its 95 % interval."""
    if metric not in outcome.metrics:
        return ""
    read = metric_of(metric).read  # it stands there as it reads, and so do the ends
    ends = [read(outcome.metrics.get(f"{metric}_{e}", math.nan)) for e in _ENDS]
    return show_with_interval(read(outcome.metrics[metric]), metric, ends)


def show_with_interval(value: float, metric: str, ends: Sequence[float]) -> str:
    """A score with the ends of its interval (larger is better), where both are there: `61 % (55 to 66)`."""
    if not all(map(math.isfinite, ends)):
        return show_score(value, metric)
    low, high = map(metric_of(metric).number, sorted(map(metric_of(metric).read, ends)))
    return f"{show_score(value, metric)} ({low} to {high})"


def show_reading(reading: float, metric: str) -> str:
    """A score that reads as its metric does, with its unit."""
    return show_score(metric_of(metric).read(reading), metric)


def show_difference(mean: float, low: float, high: float, metric: str) -> str:
    """A difference, larger is better: `better by 3 points (95 % interval 1 to 5)`, or `equal (...)`."""
    if mean == 0:
        return f"equal (95 % interval of the difference {show_amounts(low, high, metric)})"
    if mean < 0:
        how, mean, low, high = "worse", -mean, -high, -low
    else:
        how = "better"
    ends = f"{_number(low, metric)} to {_number(high, metric)}"
    return f"{how} by {show_amount(mean, metric)} (95 % interval {ends})"


def show_against(mean: float, low: float, high: float, metric: str, other: str) -> str:
    """A difference from what is named: `better by 3 points (...) than trial 2`, `equal to trial 2 (...)`."""
    by = show_difference(mean, low, high, metric)
    return f"{by} than {other}" if mean else by.replace("equal", f"equal to {other}", 1)


def show_amount(amount: float, metric: str) -> str:
    """An amount of a score, such as a difference, in its unit: `3.2 points`."""
    shown, unit = _number(amount, metric), metric_of(metric).unit
    return f"{shown} {unit.removesuffix('s') if shown == '1' else unit}".rstrip()


def show_amounts(low: float, high: float, metric: str) -> str:
    """An interval of amounts: `-1 to 3.2 points`."""
    return f"{_number(low, metric)} to {show_amount(high, metric)}"


def show_change(change: float, metric: str) -> str:
    """An amount with its sign and without its unit: `+3.2`."""
    return _number(change, metric, "+").replace("-", "\N{MINUS SIGN}")


def _number(amount: float, metric: str, sign: str = "") -> str:
    return f"{metric_of(metric).scale * amount:{sign}z.3g}"


def search_ends(config: RunConfig, each: float | None = None) -> str:
    """When a search ends, and which setting says so, without a full stop.

    `each`: what a trial is expected to cost, in full trainings; None: not known. Where the budget is not even
    enough for the trials that there are at least, the search ends with those, and that is said.
    """
    search = config.search
    least = min(least_trials(search), search.trials)
    if search.budget is not None and each and affordable(search.budget, each, 0) < least:
        what = exceeded(least * each, search.budget, is_default(search), least, about=True)
        return f"ends after {counted_trials(least)}, which {'costs' if least == 1 else 'cost'} {what}"

    def source(name: str) -> str:
        default = "the default"
        if config.objective is None and search.budget is None and leaves_it_open(search):
            default = "the default when this run began"
        return f"search.{name}" if name in search.model_fields_set else f"search.{name}, {default}"

    trials = counted_trials(search.trials)
    ends = f"ends after {trials} ({source('trials')})"
    if search.budget is not None:
        cost = show_trainings(search.budget)
        ends = f"ends before it costs more than {cost} ({source('budget')}), after {trials} at most"
    return ends if search.worth == "never" else f"{ends}, or where one more is not worth it (search.worth)"


def prior_knobs_line(knobs: PriorKnobs | None) -> str:
    """What the prior does not know; empty where that is nothing, or there is no prior."""
    if knobs is None or not knobs.unknown:
        return ""
    unknown = in_words(knobs.unknown)
    if not knobs.silent:
        return f"The prior knows nothing of {unknown}: what it says is of {in_words(knobs.known)} alone."
    return (
        f"The prior knows nothing of what is searched here ({unknown}) and expects the same of every config: "
        f"it was fitted to tasks with other knobs ({in_words(NUMERIC)})."
    )


def in_words(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def chosen_line(chosen: Chosen, metric: str) -> str:
    """The winner's curse: a score that was chosen for being high is too good on average."""
    scored, believed = (show_reading(score, metric) for score in (chosen.score, chosen.believed))
    where = "" if metric in OWN_METRICS else " in validation"
    lucky = metric_of(metric).read(chosen.score) > metric_of(metric).read(chosen.believed)
    luck = "the best of many scores is partly luck, and without it " if lucky else "going by all trials, "
    return f"Trial {chosen.trial} leads with {scored}{where}; {luck}{believed} is believed of its settings."


def counted_trials(n: int) -> str:
    """`1 trial`, `5 trials`."""
    return f"{n} trial{'' if n == 1 else 's'}"


def nothing_succeeded(history: History) -> str:
    """That no trial has succeeded, how they failed and what helps; empty where one has, or none has ended."""
    failures = [
        trial.outcome.failure for trial in history.finished if trial.outcome and trial.outcome.failure
    ]
    if history.succeeded or not failures:
        return ""
    counted = [trial.outcome.failure for trial in history.counted if trial.outcome and trial.outcome.failure]
    if not counted:
        if not failures[-1].message.startswith(TAKEN_BACK):  # the process was stopped or killed
            return ""
        cause = failures[-1].message.removeprefix(TAKEN_BACK).removeprefix(": ")
        cause = cause or "see their folders under trials/"
        return (
            f"No trial has succeeded: the last ones crashed or were lost, one after the other ({cause}). "
            "Once it is mended, the same loracle tune runs them again"
        )
    return (
        f"No trial has succeeded, so there is nothing to recommend: {kinds_of(counted)}, the last one with: "
        f"{counted[-1].message}. {_what_helps(counted)}"
    )


def _what_helps(failures: Sequence[Failure]) -> str:
    """What to do against the causes of failures, the most frequent first, without a full stop."""
    last = {failure.kind: failure.message for failure in failures}
    limit = next(
        (name for name in _TIME_LIMITS if name in last.get(FailureKind.TIMEOUT, "")), _TIME_LIMITS[0]
    )
    causes = {
        FailureKind.TIMEOUT: f"Give a larger {limit}: with it and more search.trials the same loracle tune "
        "goes on, and with another output it tries these configs again",
        FailureKind.OUT_OF_MEMORY: "For less memory lower data.max_length, set "
        "training.gradient_checkpointing, choose a smaller model or have fewer execution.workers, and give "
        "another output",
        FailureKind.DIVERGED: "Against divergence give the space lower learning rates, or mend the trainer "
        "or its data, and give another output; with more search.trials the same loracle tune goes on",
    }
    kinds = [kind for kind, _ in Counter(failure.kind for failure in failures).most_common()]
    helps = [causes[kind] for kind in kinds if kind in causes]
    if any(kind not in causes for kind in kinds):
        helps.append(
            "Mend what crashes (the folders under trials/ say more) or leave it out of the space, and give "
            "another output"
        )
    return ". ".join(helps)


def round_up(number: float) -> int:
    """The next larger whole number with two digits that count: 1234 gives 1300."""
    if number <= 10:
        return math.ceil(number)
    step = 10 ** (math.floor(math.log10(number)) - 1)
    return int(math.ceil(number / step - 1e-9) * step)


def agrees(correlation: float) -> str:
    """What a rank correlation of expected and seen scores means, as a verb."""
    for least, word in ((0.5, "agrees well"), (0.2, "agrees a little"), (-0.2, "says little")):
        if correlation > least:
            return word
    return "disagrees"
