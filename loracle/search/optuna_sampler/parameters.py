"""An objective's parameters in the words of the search: which knob each is, and which number its values are.

A knob's own name, or a usual spelling of it (`lr`, `lora_r`), is that knob. Any other parameter is a knob of
the study's own, named `own_...`. A number stands for itself, a choice that is none for its position, and a
name of the user's own space (`texts`) for its position there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeGuard

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from loracle.config.spellings import meant_by, says_lora
from loracle.records.space import Number, SearchSpace, with_alpha
from loracle.records.trial import INDEX_KEY
from loracle.search.optuna_sampler.interrupted import was_interrupted

CONFIG_KEY = "loracle:config"  # what was chosen for a trial: numbers by knob
REFUSED_KEY = "loracle:refused"
_OWN = "own_"

Texts = Mapping[str, Sequence[str]]  # names of a space's knobs, by knob


@dataclass(frozen=True)
class Seen:
    """A trial in the words of the search.

    Attributes:
        number: of the trial.
        over: whether it has ended, in whatever way.
        scored: whether it has ended with a value.
        interrupted: whether it was cut short from outside, so that its config is to be tried again.
        given: knobs that were suggested, in order.
        numbers: their values, where these are numbers.
        distributions: that they were suggested from.
        foreign: parameters that are not searched.
        config: what was chosen for it, by knob.
        index: the same where a run wrote it down, as an index of the run's space; -1: it did not.
    """

    number: int
    over: bool
    scored: bool
    interrupted: bool
    given: tuple[str, ...]
    numbers: Mapping[str, Number]
    distributions: Mapping[str, BaseDistribution]
    foreign: frozenset[str]
    config: Mapping[str, Number]
    index: int


def knobs_of(
    distributions: Mapping[str, BaseDistribution],
    known: Collection[str],
    *,
    lenient: bool,
    own: bool,
    complete: bool = False,
    as_before: bool = False,
) -> dict[str, str]:
    """By parameter, the knob that it is; those that are none are left out.

    A usual spelling counts unless the knob's own name is a parameter too, or another spelling came first.

    Args:
        distributions: of all parameters, in the order in which they were first suggested.
        known: names of knobs.
        lenient: whether a knob takes any distribution that has some number; else all of its choices must be
            values that it can have, and a parameter of the same name is something else.
        own: whether parameters that are no knob get one of their own.
        complete: whether a trial has been asked for all that it needs: then an `alpha` beside which there is
            no rank is none of LoRA, unless its name says so.
        as_before: as in `fits`.
    """
    found = {
        name: name
        for name in distributions
        if name in known and (lenient or fits(name, name, distributions[name], as_before=as_before))
    }
    for name, distribution in distributions.items():
        if name in found:
            continue
        meant, usual = meant_by(name, set(known) - set(found.values()))
        if not meant or not usual or name in known:
            continue
        if lenient or fits(meant, name, distribution, as_before=as_before):
            found[name] = meant
    if complete and not lenient and "rank" not in found.values():
        found = {name: knob for name, knob in found.items() if knob != "alpha" or says_lora(name)}
    for name in distributions if own else ():
        if name not in found:
            knob = _OWN + re.sub(r"\W", "_", name)
            while knob in found.values():
                knob += "_"
            found[name] = knob
    return {name: found[name] for name in distributions if name in found}


def is_own(knob: str) -> bool:
    """Whether a knob is a parameter that only this study has."""
    return knob.startswith(_OWN)


def distributions_of(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """The latest distribution of every parameter, in the order in which they were first suggested."""
    found: dict[str, BaseDistribution] = {}
    for frozen in trials:
        found.update(frozen.distributions)
    return found


def texts_of(space: SearchSpace | None) -> Texts:
    """By knob, the names of those that have names."""
    return {knob.name: knob.texts for knob in space or () if knob.texts}


def numbers_at(space: SearchSpace, index: int) -> dict[str, Number]:
    """The config at an index in numbers, with both alpha and alpha_ratio where there is a rank."""
    return {
        name: space[name].position(value) if isinstance(value, str) else value
        for name, value in with_alpha(space.config(index)).items()
    }


def seen(frozen: FrozenTrial, knobs: Mapping[str, str], texts: Texts) -> Seen:
    """A trial in the words of the search."""
    numbers: dict[str, Number] = {}
    for name, value in frozen.params.items():
        if name in knobs:
            knob = knobs[name]
            number = number_of(knob, value, frozen.distributions.get(name), texts.get(knob, ()))
            if number is not None:
                numbers[knobs[name]] = number
    return Seen(
        number=frozen.number,
        over=frozen.state.is_finished(),
        scored=frozen.state in (TrialState.COMPLETE, TrialState.PRUNED),
        interrupted=was_interrupted(frozen),
        given=tuple(knobs[name] for name in frozen.params if name in knobs),
        numbers=numbers,
        distributions={knobs[name]: d for name, d in frozen.distributions.items() if name in knobs},
        foreign=frozenset(frozen.params.keys() - knobs.keys()),
        config=frozen.system_attrs.get(CONFIG_KEY, {}),
        index=int(frozen.system_attrs.get(INDEX_KEY, -1)),
    )


# -- values and numbers -----------------------------------------------------------------------------


def number_of(
    knob: str, value: object, distribution: BaseDistribution | None, texts: Sequence[str] = ()
) -> Number | None:
    """A parameter's value as a number; None: it is none. `texts`: the knob's names, if it has names."""
    if texts:
        return texts.index(value) if isinstance(value, str) and value in texts else None
    if is_own(knob) and isinstance(distribution, CategoricalDistribution) and not _all_numbers(distribution):
        return float(distribution.to_internal_repr(value))  # type: ignore[arg-type]
    return _number(value)


def contains(knob: str, number: Number, distribution: BaseDistribution, texts: Sequence[str] = ()) -> bool:
    """Whether a distribution holds a number."""
    if isinstance(distribution, CategoricalDistribution):
        return any(math.isclose(number, each) for each in numbers_in(knob, distribution, texts))
    if texts:
        return False
    if isinstance(distribution, IntDistribution) and not float(number).is_integer():
        return False
    return distribution._contains(distribution.to_internal_repr(number))


def spelled(knob: str, number: Number, distribution: BaseDistribution, texts: Sequence[str] = ()) -> Any:
    """A number that a distribution contains, as it spells it."""
    if texts:
        return texts[int(number)]
    if isinstance(distribution, CategoricalDistribution):
        return _choice(knob, number, distribution)
    return int(number) if isinstance(distribution, IntDistribution) else float(number)


def numbers_in(knob: str, distribution: CategoricalDistribution, texts: Sequence[str] = ()) -> list[Number]:
    """The numbers that the choices of a parameter stand for; those that are none are left out."""
    if not texts and not has_order(knob, distribution):
        return [float(position) for position in range(len(distribution.choices))]
    found = (texts.index(c) if c in texts else None if texts else _number(c) for c in distribution.choices)
    return [number for number in found if number is not None]


def has_order(knob: str, distribution: BaseDistribution) -> bool:
    """Whether a parameter's values are numbers, and no choices that stand for their positions."""
    choices = isinstance(distribution, CategoricalDistribution) and not _all_numbers(distribution)
    return not (is_own(knob) and choices)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _choice(knob: str, number: Number, distribution: CategoricalDistribution) -> Any:
    """The choice that stands for a number: a number itself rather than a text of it."""
    choices = [
        choice
        for choice in distribution.choices
        if (own := number_of(knob, choice, distribution)) is not None and math.isclose(own, number)
    ]
    return min(choices, key=lambda choice: isinstance(choice, str), default=None)


def _number(value: object) -> Number | None:
    if is_number(value):
        return value
    try:
        found = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _all_numbers(distribution: CategoricalDistribution) -> bool:
    numbers = [_number(choice) for choice in distribution.choices]
    return None not in numbers and len(set(numbers)) == len(numbers)


def can_have(knob: str, number: Number) -> bool:
    """Whether a knob of the trainer can have a value; knobs of the study's own have any."""
    if is_own(knob):
        return True
    if knob in ("dropout", "warmup_fraction"):
        return 0 <= number < 1
    if knob in ("rank", "batch_size"):
        return number >= 1 and float(number).is_integer()
    return number >= 0 if knob == "weight_decay" else number > 0


def fits(knob: str, name: str, distribution: BaseDistribution, *, as_before: bool = False) -> bool:
    """Whether a distribution is one of values that a knob of the trainer can have, and its name means it.

    An `alpha` that is never more than 1 is one of distillation, of a focal loss, ..., unless its name says
    LoRA; `as_before` December 2026, it was LoRA's.
    """
    if isinstance(distribution, CategoricalDistribution):
        numbers = numbers_in(knob, distribution)
        if not _all_numbers(distribution) or not all(can_have(knob, n) for n in numbers):
            return False
        low, high = float(min(numbers)), float(max(numbers))
    else:
        low, high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
    if not as_before and knob == "alpha" and low < 1 and high <= 1 and not says_lora(name):
        return False
    if knob in ("dropout", "warmup_fraction"):
        return low >= 0 and high <= 1
    return low >= 0 and high >= (1 if knob in ("rank", "batch_size") else 0)
