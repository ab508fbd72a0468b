"""What an Optuna objective asks for, in terms of a search space: which knobs, and which of their values.

Optuna learns of a parameter when the objective suggests it. What earlier trials suggested says which knobs a
study is about: only these are searched, the others stay at one value. Their distributions say which values
can be given.

A *name* here is a knob's name or that of a derived value (`alpha` where rank and alpha_ratio are searched).
Notation: N candidates; a *row* is a candidate's position in everything that is listed by candidate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution

from loracle.records.constraints import Floats
from loracle.records.space import Indices, Number, SearchSpace
from loracle.search.observations import without
from loracle.search.optuna_sampler.parameters import Seen, contains, number_of, numbers_at, texts_of
from loracle.search.optuna_sampler.ranges import OTHERS
from loracle.search.presets import GOOD_PRACTICE
from loracle.search.propose import seed_indices

Numbers = Mapping[str, Number]  # of a config, by name

_SHOWS = 3  # trials that ask for a parameter, after which it may be no branch but a change of the objective
_RECENT = 10  # trials whose distributions count: ranges may differ from trial to trial


@dataclass(frozen=True)
class Asked:
    """What the trials of a study were asked for.

    Attributes:
        names: that finished trials suggested, those that are searched; empty: none has finished, and any may
            be asked for.
        ranges: the latest distributions of each name, different ones only.
        varying: names whose distribution was not the same in all trials.
        since: number of the first trial that suggested each name.
    """

    names: frozenset[str]
    ranges: Mapping[str, tuple[BaseDistribution, ...]]
    varying: frozenset[str]
    since: Mapping[str, int]


def learn(trials: Iterable[Seen]) -> Asked:
    """What some trials were asked for; running ones may not have been asked for everything yet."""
    names: dict[str, None] = {}
    ranges: dict[str, dict[object, BaseDistribution]] = {}  # in the order in which they were last met
    latest: dict[str, list[object]] = {}
    since: dict[str, int] = {}
    for trial in trials:
        if trial.over:
            names.update(dict.fromkeys(trial.given))
        for name, distribution in trial.distributions.items():
            since.setdefault(name, trial.number)
            key = identity(distribution)
            ranges.setdefault(name, {})[key] = distribution
            latest.setdefault(name, []).append(key)
    recent = {
        name: tuple(ranges[name][key] for key in dict.fromkeys(keys[-_RECENT:]))
        for name, keys in latest.items()
    }
    varying = frozenset(name for name, found in ranges.items() if len(found) > 1)
    return Asked(frozenset(names), recent, varying, since)


def identity(distribution: BaseDistribution) -> object:
    """What two equal distributions have in common; their own comparison takes ten times as long."""
    if isinstance(distribution, CategoricalDistribution):
        return repr(distribution.choices)
    return (type(distribution), *vars(distribution).values())


def names_of(space: SearchSpace) -> frozenset[str]:
    """Everything an objective may ask for by name: the knobs, and alpha or alpha_ratio where it follows."""
    follows = {"alpha", "alpha_ratio"} if "rank" in space.names else set()
    return frozenset(space.names) | (follows if follows & set(space.names) else set())


def admissible(space: SearchSpace, name: str, distributions: Sequence[BaseDistribution]) -> list[float]:
    """Numbers of a name among the candidates that one of the distributions contains."""
    values, texts = np.unique(columns(space)[name]).tolist(), texts_of(space).get(name, ())
    return [value for value in values if any(contains(name, value, each, texts) for each in distributions)]


def shown(space: SearchSpace, name: str, values: Sequence[float], before: str = "") -> str:
    """Values of a name in words: the names, or `1 to 16` after the word that stands before numbers."""
    texts = texts_of(space).get(name)
    if texts:
        return ", ".join(texts[int(value)] for value in sorted(set(values)))
    return f"{before}{min(values):g} to {max(values):g}"


# -- candidates -------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def columns(space: SearchSpace) -> Mapping[str, Floats]:
    """Numbers of all candidates by name, (N,) each; the same to the twelfth digit are the same."""
    values = space.values(space.candidates)
    if "alpha_ratio" not in values and {"rank", "alpha"} <= values.keys():
        values["alpha_ratio"] = values["alpha"] / values["rank"]
    for name, column in values.items():
        if name not in space.names:
            exact, places = np.unique(column, return_inverse=True)
            values[name] = np.array([float(f"{value:.12g}") for value in exact])[places]
    return values


@lru_cache(maxsize=16)
def representatives(space: SearchSpace, names: frozenset[str]) -> Indices:
    """For each candidate, the row that stands for all with its values of `names`; (N,).

    It is the one closest to the usual settings in everything else. Without names, each stands for itself.
    """
    own = np.arange(len(space.candidates))
    if not names or with_derived(names) >= set(space.names):
        return own
    values = columns(space)
    places = [np.unique(values[name], return_inverse=True)[1] for name in sorted(names)]
    _, group = np.unique(np.stack(places), axis=1, return_inverse=True)
    order = np.argsort(_distances(space, middle(space)), kind="stable")
    _, first = np.unique(group.ravel()[order], return_index=True)
    return np.asarray(order[first][group.ravel()])


@lru_cache(maxsize=16)
def usual(space: SearchSpace) -> int:
    """Index of the candidate closest to the usual settings."""
    return seed_indices(space, [{**OTHERS, **GOOD_PRACTICE[0]}])[0]


def middle(space: SearchSpace) -> Numbers:
    """The candidate closest to the usual settings, in numbers."""
    return numbers_at(space, usual(space))


def only_value(
    name: str, distributions: Sequence[BaseDistribution], texts: Sequence[str] = ()
) -> Number | None:
    """The number of distributions that hold one value alone, which Optuna gives without asking; else None."""
    last = distributions[-1]
    if not last.single():
        return None
    only = last.choices[0] if isinstance(last, CategoricalDistribution) else last.low  # type: ignore[attr-defined]
    return number_of(name, only, last, texts)


def within(space: SearchSpace, ranges: Mapping[str, Sequence[BaseDistribution]]) -> npt.NDArray[np.bool_]:
    """Which candidates have a value in one of the distributions of every name, (N,)."""
    inside = np.ones(len(space.candidates), dtype=bool)
    for name, distributions in ranges.items():
        inside &= np.isin(columns(space)[name], admissible(space, name, distributions))
    return inside


def agreeing(
    space: SearchSpace, fixed: Mapping[str, Number], inside: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Which of the candidates `inside`, (N,), have the values that others fixed, or are nearest to them."""
    for name, value in fixed.items():
        if inside.any():
            distance = _distance(space, name, value)
            inside = inside & (distance <= distance[inside].min() + 1e-9)
    return inside


def holding(space: SearchSpace, given: Mapping[str, Number]) -> npt.NDArray[np.bool_]:
    """Which candidates have all of the values that a trial was given, (N,); of a value that none has, the
    nearest counts."""
    inside = np.ones(len(space.candidates), dtype=bool)
    for name, value in given.items():
        distance = _distance(space, name, value)
        inside &= distance <= distance.min() + 1e-9
    return inside


def nearest_row(space: SearchSpace, config: Numbers, allowed: npt.NDArray[np.bool_]) -> int:
    """The allowed row closest to a config on the knobs' own scales; the lowest row of equals."""
    rows = np.flatnonzero(allowed)
    return int(rows[np.argmin(_distances(space, config)[rows])])


# -- trials -----------------------------------------------------------------------------------------


def rows_of(trials: Iterable[Seen], space: SearchSpace, asked: Asked) -> dict[int, int]:
    """By number, the candidate nearest to what each trial trained: its parameters, and for knobs that were
    not suggested the config that was chosen for it. Trials of which that says too little are left out.

    Parameters overrule the choice: `enqueue_trial` and `PartialFixedSampler` may have fixed some of them.
    """
    known, memory = names_of(space), _memory(space)
    logarithmic = {name for name in known if _logarithmic(space, name)}
    usually = middle(space)
    found = {}
    for trial in trials:
        given = {name: value for name, value in trial.numbers.items() if name in known}
        if any(value <= 0 and name in logarithmic for name, value in given.items()):
            continue
        chosen = {name: value for name, value in trial.config.items() if name in space.names}
        if not chosen and 0 <= trial.index < space.size:
            chosen = numbers_at(space, trial.index)
        if not chosen and (not given or _missing(given, trial.number, asked)):
            continue
        key = (tuple(given.items()), tuple(chosen.items()))
        if key not in memory:
            memory[key] = _nearest(space, given, {**usually, **_possible(chosen, logarithmic)})
        found[trial.number] = memory[key]
    return found


def _possible(chosen: Numbers, logarithmic: Collection[str]) -> Numbers:
    return {name: value for name, value in chosen.items() if value > 0 or name not in logarithmic}


@lru_cache(maxsize=4)
def _memory(space: SearchSpace) -> dict[tuple[tuple[tuple[str, Number], ...], ...], int]:
    """Rows that `_nearest` has found, by its arguments."""
    return {}


def with_derived(names: Collection[str]) -> frozenset[str]:
    """Names whose values are known where those of `names` are: two of rank, alpha and alpha_ratio say all."""
    three = {"rank", "alpha", "alpha_ratio"}
    return frozenset(names) | (three if len(three & set(names)) > 1 else set())


def _missing(given: Collection[str], number: int, asked: Asked) -> set[str]:
    """Names that a trial was not asked for, though trials before it were."""
    return {name for name in asked.names - with_derived(given) if asked.since.get(name, number) < number}


def _nearest(space: SearchSpace, given: Numbers, config: Numbers) -> int:
    """Row of the candidate closest to `given`, and to `config` in what is not given."""
    distance = np.zeros(len(space.candidates))
    for name, value in given.items():
        distance += _distance(space, name, value)
    for name in space.names:
        if name not in with_derived(given):
            distance += 1e-3 * _distance(space, name, config[name])
    return int(np.argmin(distance))


def _distances(space: SearchSpace, config: Numbers) -> Floats:
    """How far all candidates are from a config on the knobs' own scales, (N,)."""
    return np.asarray(np.sum([_distance(space, name, config[name]) for name in space.names], axis=0))


def _distance(space: SearchSpace, name: str, value: Number) -> Floats:
    """How far all candidates are from a value, (N,), in units of the name's range; 1 without an order."""
    if unordered(space, name):
        return np.asarray(columns(space)[name] != value, dtype=np.float64)
    low, width, scaled = _scaled(space, name)
    place = math.log(max(value, 1e-300)) if _logarithmic(space, name) else value
    return np.asarray(np.abs(scaled - (place - low) / width))


def closest(space: SearchSpace, name: str, value: Number, values: Sequence[float]) -> float:
    """Of some values of a name the one closest to another; without an order, the first."""
    if unordered(space, name):
        return value if value in values else values[0]
    return min(values, key=lambda one: abs(one - value))


def unordered(space: SearchSpace, name: str) -> bool:
    """Whether any two values of a name are equally far from each other."""
    return name in space.names and space[name].named


@lru_cache(maxsize=64)
def _scaled(space: SearchSpace, name: str) -> tuple[float, float, Floats]:
    """Lowest value, width of the range, and all candidates in that range, (N,), on the name's own scale."""
    column = columns(space)[name]
    if _logarithmic(space, name):
        column = np.log(column)
    low, width = float(column.min()), float(np.ptp(column)) or 1.0
    return low, width, (column - low) / width


def _logarithmic(space: SearchSpace, name: str) -> bool:
    if name in space.names:
        return space[name].scale in ("log2", "log10")
    return bool((columns(space)[name] > 0).all())


def tried(rows: Collection[int], space: SearchSpace, asked: Asked) -> npt.NDArray[np.bool_]:
    """Which candidates are the same as a trial in all that is asked for, (N,), by the rows of trials."""
    standing = representatives(space, asked.names)
    return np.isin(standing, standing[np.fromiter(rows, dtype=np.int64)])


def repeats(
    trials: Iterable[Seen], rows: Mapping[int, int], space: SearchSpace, asked: Asked
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which candidates would only repeat a trial that did not ask for every name, and which may, (N,) each.

    A trial that was not asked for a dropout, say, because of another knob's value, is the same for every
    dropout. Not so if other parameters were drawn for it. Trials before the first that was asked for a
    dropout may be of an objective that had none; they are not where a later trial was asked for as little,
    and until then they may be.
    """
    known = names_of(space)
    partly: dict[frozenset[str], list[int]] = {}
    early: dict[frozenset[str], list[Seen]] = {}
    whole = []
    for trial in trials:
        given = known & set(trial.given)
        if not trial.scored or not given or trial.foreign or trial.number not in rows:
            continue
        missing = asked.names - given - with_derived(given)
        if not missing:
            whole.append(trial)
        elif missing == _missing(given, trial.number, asked):
            partly.setdefault(given, []).append(rows[trial.number])
        else:
            early.setdefault(given, []).append(trial)
    perhaps: dict[frozenset[str], list[int]] = {}
    for names, before in early.items():
        if names in partly or _is_branch(space, names, before, whole):
            into = partly if names in partly else perhaps
            into.setdefault(names, []).extend(rows[trial.number] for trial in before)
    return _standing_for(space, partly), _standing_for(space, perhaps)


def _is_branch(
    space: SearchSpace, names: Collection[str], before: Sequence[Seen], after: Sequence[Seen]
) -> bool:
    """Whether the trials `after`, which were asked for more than the `names` of those `before`, may have been
    for what they chose: they are few, or have none of the choices of those before."""
    if len(after) < _SHOWS:
        return True
    chosen = [
        [{trial.numbers.get(name) for trial in trials} for trials in (before, after)]
        for name in names
        if unordered(space, name)
    ]
    return any(not first & second for first, second in chosen)


def _standing_for(space: SearchSpace, found: Mapping[frozenset[str], list[int]]) -> npt.NDArray[np.bool_]:
    """Which candidates have the same values of some names as one of their rows, (N,)."""
    alike = np.zeros(len(space.candidates), dtype=bool)
    for names, rows in found.items():
        standing = representatives(space, names)
        alike |= np.isin(standing, standing[rows])
    return alike


def unreachable(
    trials: Iterable[Seen], rows: Mapping[int, int], space: SearchSpace, asked: Asked
) -> npt.NDArray[np.bool_]:
    """Which candidates the objective would not ask for, as its ranges depend on values it got before, (N,).

    After rank 64 it asked for a batch size from 2 to 4: then no larger one is asked for with rank 64. Of
    trials that had the same values before, the latest counts.
    """
    found = np.zeros(len(space.candidates), dtype=bool)
    if not asked.varying:
        return found
    known = names_of(space)
    latest: dict[tuple[frozenset[str], str, int], BaseDistribution] = {}
    for trial in trials:
        before: frozenset[str] = frozenset()
        if trial.number not in rows or trial.foreign:  # it may depend on what is foreign
            continue
        for name, distribution in trial.distributions.items():
            if name not in known:
                continue
            if name in asked.varying and not distribution.single():
                group = int(representatives(space, before)[rows[trial.number]]) if before else 0
                latest[before, name, group] = distribution
            before |= {name}
    cases: dict[tuple[frozenset[str], str, object], tuple[BaseDistribution, list[int]]] = {}
    for (before, name, group), distribution in latest.items():
        cases.setdefault((before, name, identity(distribution)), (distribution, []))[1].append(group)
    for (before, name, _), (distribution, groups) in cases.items():
        concerned = np.isin(representatives(space, before), groups) if before else True
        found |= concerned & ~within(space, {name: (distribution,)})
    return found


def config_at(space: SearchSpace, row: int) -> dict[str, Number]:
    """The config at a row, in numbers."""
    return numbers_at(space, int(space.candidates[row]))


def apart(
    left: npt.NDArray[np.bool_], column: npt.NDArray[np.float64], rows: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Which of the candidates that are left differ from some in the first knob that is asked for.

    Until a trial has finished, the other knobs may not be asked for at all, and then trials that differ
    in them only would be the same.
    """
    return without(left, np.isin(column, column[list(rows)]))
