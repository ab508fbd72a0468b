"""Sentences of an explanation, each of the numbers of one record."""

from __future__ import annotations

from collections.abc import Iterator

from loracle.config.metrics import OWN_METRICS, metric_of
from loracle.report.explanation.records import (
    Conclusion,
    Expected,
    Explanation,
    LostInFinals,
    Next,
    Proposal,
)
from loracle.report.verdict.guards import loss_text
from loracle.report.wording import (
    NUMBERS_STAND_IN,
    chosen_line,
    prior_knobs_line,
    show_against,
    show_amount,
    show_config,
    show_reading,
    show_value,
)
from loracle.text.quantities import show_duration, show_money, show_share

_TOO_FEW = "fewer than three different ones were known"


def sentences(explanation: Explanation) -> Iterator[str]:
    """All of it, a thought a line."""
    metric = explanation.metric
    for proposal in explanation.proposals:
        yield from proposal_lines(proposal, metric)
    if not explanation.own:
        yield NUMBERS_STAND_IN
    if said := prior_knobs_line(explanation.prior_knobs):
        yield said
    if explanation.chosen is not None:
        yield chosen_line(explanation.chosen, metric)
    if not explanation.conclusions:
        yield "Nothing can be concluded yet."
    for conclusion in explanation.conclusions:
        yield conclusion_line(conclusion, metric)
    yield next_line(explanation.next, metric)


def proposal_lines(proposal: Proposal, metric: str) -> Iterator[str]:
    """Why a trial was made, and what came of it."""
    yield f"Trial {proposal.trial} trained {show_config(proposal.config)}."
    match proposal.source:
        case "named":
            yield "It is one of the settings that are named to begin with."
        case "chance":
            yield "Nothing was known, so chance chose it."
        case "divergence":
            before = "The training" if proposal.known == 1 else "Every training"
            yield f"{before} before it had diverged, so it has about a tenth of the learning rate."
        case _:
            known = "1 trial" if proposal.known == 1 else f"{proposal.known} trials"
            yield f"It promised most of what was untried, after {known}."
    if proposal.again is False and proposal.source != "named":
        yield (
            "Asked again with all trials before it, the search would choose another: when it chose, some of "
            "them were not over, or memory ruled out what it would take."
        )
    if proposal.expected is not None:
        yield _expected(proposal.expected, metric)
    elif proposal.source == "belief":
        yield f"What it was expected to gain cannot be told in scores: {_TOO_FEW}."
    if proposal.nearest is not None:
        near = proposal.nearest
        what = "diverged" if near.score is None else f"scored {show_reading(near.score, metric)}"
        differs = " and ".join(near.differs) if near.differs else "nothing"
        yield f"The nearest evidence was trial {near.trial}, which {what} and differs in {differs}."
    if proposal.prior is not None:
        word = proposal.prior
        said = f"Of all candidates, the prior alone expects more of {show_share(word.share)}"
        if word.share == 0:
            said = "The prior alone expects more of no other candidate"
        yield f"{said}; its weight was {show_share(word.weight)}."
    if proposal.beliefs is not None:
        user = proposal.beliefs
        some = f"{show_share(user.share)} of candidates are" if user.share else "no candidate is"
        yield f"By what you hold likely ({user.said}), {some} likelier."
    yield _outcome(proposal, metric)


def _expected(expected: Expected, metric: str) -> str:
    interval = f"{show_reading(expected.low, metric)} to {show_reading(expected.high, metric)}"
    interval += " or worse" if expected.or_worse else ""
    score, best = (show_reading(reading, metric) for reading in (expected.score, expected.best))
    text = (
        f"It was expected to score {score} (95 % interval {interval}), where the best known config was "
        f"believed to reach {best}: an expected gain of {show_amount(expected.gain, metric)}, and a chance "
        f"of {show_share(expected.chance)} to be better"
    )
    return f"{text}{_to_keep(expected.keeps)}."


def _to_keep(probability: float | None) -> str:
    """The end of a sentence on a chance; empty without guards."""
    return (
        "" if probability is None else f", and one of {show_share(probability)} to keep what must not be lost"
    )


def _outcome(proposal: Proposal, metric: str) -> str:
    if proposal.failure is not None:
        return f"It failed: {proposal.failure}."
    if proposal.score is None:
        return "It is not over."
    said = f"It scored {show_reading(proposal.score, metric)}"
    lost = f", and lost {' and '.join(proposal.broken)}" if proposal.broken else ""
    if proposal.expected is None:
        return f"{said}{lost}."
    inside = proposal.expected.holds(proposal.score, less_is_better=metric_of(metric).less_is_better)
    return f"{said}, {'inside' if inside else 'outside'} the interval{lost}."


def conclusion_line(conclusion: Conclusion, metric: str) -> str:
    """What may be concluded, or not."""

    def by(other: str) -> str:
        return show_against(conclusion.difference, conclusion.low, conclusion.high, metric, other)

    safe = "Safe" if conclusion.safe else "Not safe"
    match conclusion.about:
        case "standard":
            items = "the same items" if metric in OWN_METRICS else "test items"
            return f"{safe}: on {items}, the winner is {by('the standard settings')}."
        case "guard":
            assert conclusion.reading is not None
            verb = "keeps" if conclusion.reading.kept else "loses"
            against = loss_text(conclusion.reading)
            return f"{safe}: the winner {verb} {conclusion.name}, against the base model {against}."
        case "runner_up":
            lost = f", which lost {' and '.join(conclusion.broken)}" if conclusion.broken else ""
            rival = by(f"that of {conclusion.name}")
            return f"{safe}: as far as is believed, the leading config is {rival}{lost}."
        case _:
            assert conclusion.best is not None
            value, keeps = show_value(conclusion.best), ""
            if conclusion.keeps is not None:
                chance = show_share(conclusion.keeps)
                keeps = f", with a chance of {chance} to keep what must not be lost in a trial"
            return (
                f"{safe}: with all else as in the leading config, {conclusion.name} {value} is "
                f"{by('its worst value')}{keeps}."
            )


def next_line(following: Next | None, metric: str) -> str:
    """What to try next, and what it costs."""
    if following is None:
        return "Every candidate was tried, so there is no next experiment."
    text = f"The next best experiment is {show_config(following.config)}"
    if following.seconds is not None:
        took = show_duration(following.seconds)
        text += f"; a trial takes {took if took.startswith('under') else f'about {took}'}"
    if following.cost is not None:
        text += f" and costs {show_money(following.cost)}"
    if following.expected is not None:
        gain, chance = following.expected.gain, following.expected.chance
        text += f"; expected gain {show_amount(gain, metric)}, a chance of {show_share(chance)} to be better"
        if following.expected.keeps is not None:
            text += _to_keep(following.expected.keeps) + _in_a_trial(following)
    else:
        text += f"; what to expect of it cannot be told in scores: {_TOO_FEW}"
    return f"{text}.{_in_finals(following.lost)}"


def _in_a_trial(following: Next) -> str:
    """Of what training a chance to keep guards is, where others were on more rows."""
    rows = following.rows
    return " in a trial" if rows is None else f" in a trial, on {rows:,} row{'' if rows == 1 else 's'}"


def _in_finals(lost: LostInFinals | None) -> str:
    """What final trainings did to the guards, a sentence; empty where they lost nothing."""
    if lost is None:
        return ""
    n, on = lost.trainings, "all data" if lost.rows is None else f"all {lost.rows:,} rows"
    which = " and ".join(f"{'' if n == 1 else f'{count} '}lost {name}" for name, count in lost.lost.items())
    some = "the final training" if n == 1 else f"of {n} final trainings"
    return f" A training on all data may lose more: {some}, on {on}, {which}."
