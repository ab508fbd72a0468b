"""The candidates of a study: a grid of values laid on the ranges that its objective asks for.

A space of the user's own is taken as it is, its values and no others. Without one, the ranges are the space.
Choices are taken whole, and so are up to 17 values of a range that has a step of its author's. Without a
step, ranks, alphas and batch sizes stand at powers of two, dropouts at multiples of 0.05, if the range holds
three of them; everything else at 17 values, or at all whole numbers where these are fewer, evenly spaced on
its own scale and with both ends, and the usual value where there is one. The grid is made finer
where few knobs leave room for it or where trials have used it up, and coarser where it would have too many
candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)

from loracle.errors import SpaceError
from loracle.records.space import MOST_NAMES, Knob, Number, Scale, SearchSpace, Value, default_space, number
from loracle.records.standard_settings import SCALES, STANDARD
from loracle.search.optuna_sampler.parameters import (
    can_have,
    contains,
    has_order,
    is_own,
    numbers_in,
)
from loracle.search.presets import Preset

MOST = 150_000  # candidates: a proposal among them takes 0.4 s
_ROOMY = 20_000  # candidates up to which a grid is made finer
_VALUES = 17  # of a range at the first level; twice as many, less one, at each further one
_FINE, _FINEST = 3, 9  # levels: where there is room, and where the trials have used up what there is
_FEWEST = 3  # values that a range is thinned to
_ENOUGH = 4  # candidates a trial
_LEAST_SHARE = 1e-4  # of the upper end: where a range of a knob with a logarithmic scale begins at 0

_STANDARD = {name: number(value) for name, value in STANDARD.items()}
KNOWN: Mapping[str, Number] = {**_STANDARD, "alpha_ratio": _STANDARD["alpha"] / _STANDARD["rank"]}
OTHERS: Mapping[str, Number] = {  # as the built-in trainer has them
    "weight_decay": 0.0,
    "warmup_fraction": 0.03,
    "epochs": 1,
    "max_gradient_norm": 1.0,
}
USUAL: Mapping[str, Number] = {**KNOWN, **OTHERS}

Ranges = Mapping[str, Sequence[BaseDistribution]]


@dataclass(frozen=True)
class _Axis:
    """A knob of the grid: with the values that it has, or with those of the distributions."""

    name: str
    scale: Scale
    fixed: tuple[Value, ...] = ()
    distributions: tuple[BaseDistribution, ...] = ()
    usual: Number | None = None
    as_before: bool = False  # as `values_on` has it

    def values(self, level: int, marks: int, most: int | None = None) -> tuple[Value, ...]:
        """Of a grid of this level; ranges, but no choices, are thinned to at most so many values."""
        if self.fixed:
            return self.fixed
        found: list[Number] = []
        for distribution in self.distributions:
            found += values_on(self.name, distribution, level, marks, as_before=self.as_before)
        values = _apart(found)
        if most and len(values) > most and self.thins:
            values = [values[i] for i in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]
        usual = self.usual
        if usual is not None and self.thins:
            if any(contains(self.name, usual, d) for d in self.distributions):
                values = _apart([usual, *values])
            elif not self.as_before:
                values = _apart([*self._next_to(usual), *values])
        return tuple(values)

    def _next_to(self, usual: Number) -> list[Number]:
        """What ranges hold that is nearest to a value between two of their steps, on the knob's scale."""
        found: list[Number] = []
        for one in self.distributions:
            step = getattr(one, "step", None)
            if step and one.low < usual < one.high:  # type: ignore[attr-defined]
                below = one.low + step * math.floor((usual - one.low) / step)  # type: ignore[attr-defined]
                found += [value for value in (below, below + step) if contains(self.name, value, one)]
        place = math.log if self.scale in ("log2", "log10") else float
        return [min(found, key=lambda value: abs(place(value) - place(usual)))] if found else []

    @property
    def thins(self) -> bool:
        """Whether values may be left out or put between."""
        return any(not isinstance(d, CategoricalDistribution) and not d.single() for d in self.distributions)


def space_on(
    ranges: Ranges,
    *,
    base: SearchSpace | None,
    begun: bool,
    trials: int,
    usual: Mapping[str, Number] = USUAL,
    as_before: bool = False,
) -> SearchSpace:
    """The candidates of a study.

    A pure function of what was asked for, so that a study that is loaded again goes on as it would have.
    Knobs of the study's own for which there is no room are left out.

    Args:
        ranges: distributions of each knob that is asked for, in order.
        base: the user's own space.
        begun: whether a trial has ended, so that what is missing in `ranges` is not asked for and stands at
            the usual settings. Before, it may yet be.
        trials: how many there are.
        usual: values that a range that contains them has, whatever its grid.
        as_before: as `values_on` has it; without a space of the user's own.
    """
    own = {name: found for name, found in ranges.items() if is_own(name)}
    if base is None:
        own_axes = [_axis(name, ranges[name]) for name in own]
        axes = [replace(a, as_before=as_before) for a in _standing(ranges, begun, usual) + own_axes]
        return _grid(axes, (), trials)
    if not own:
        return base
    narrow = [_at_usual(knob) if begun and knob.name not in ranges else _as_it_is(knob) for knob in base]
    if begun and {"alpha", "alpha_ratio"} & ranges.keys():  # one of them is the other, given the rank
        narrow = [
            _as_it_is(base[axis.name]) if axis.name in ("rank", "alpha", "alpha_ratio") else axis
            for axis in narrow
        ]
    strangers = [_axis(name, ranges[name]) for name in own]
    for axes in (narrow, [_as_it_is(knob) for knob in base]):
        try:
            space = _grid(axes + strangers, base.constraints, trials, base.batch_limit)
            assert len(space.candidates)
            return space
        except SpaceError:  # the constraints leave nothing at the usual settings
            continue
    return base


def with_usual(preset: Preset) -> Preset:
    """A preset whose first configs have the usual values of all knobs that have some."""
    return replace(preset, seed_configs=tuple({**OTHERS, **config} for config in preset.seed_configs))


def values_on(
    knob: str, distribution: BaseDistribution, level: int = 0, marks: int = 0, *, as_before: bool = False
) -> list[Number]:
    """The values of a grid on a distribution, increasing; none if it holds nothing that the knob can have.

    `as_before` December 2026, a step that the user wrote was no reason to take values that are no marks.
    """
    if isinstance(distribution, CategoricalDistribution):
        return [value for value in sorted(set(numbers_in(knob, distribution))) if can_have(knob, value)]
    if distribution.single():
        found = [distribution.low]  # type: ignore[attr-defined]
    elif not as_before and _steps(distribution) < _VALUES:
        found = _evenly(knob, distribution, _VALUES)
    else:
        found = _marked(knob, distribution, marks)
        if len(found) < _FEWEST:
            found = _evenly(knob, distribution, (_VALUES - 1) * 2**level + 1)
    return [value for value in found if can_have(knob, value) and contains(knob, value, distribution)]


# -- axes -------------------------------------------------------------------------------------------


def _standing(ranges: Ranges, begun: bool, usual: Mapping[str, Number]) -> list[_Axis]:
    """The knobs that the trainer knows: on their ranges, or at the usual settings."""
    alpha = "alpha" if "alpha" in ranges and "alpha_ratio" not in ranges else "alpha_ratio"
    five = ("rank", alpha, "dropout", "batch_size", "learning_rate")
    own_alone = all(map(is_own, ranges))  # the others, if they come, have no part in the choice
    axes = []
    for name in (*five, *(name for name in ranges if not is_own(name) and name not in (*five, "alpha"))):
        if name in ranges:
            axes.append(_axis(name, ranges[name], usual.get(name)))
        elif not begun and own_alone:
            continue
        elif begun:
            axes.append(_Axis(name, SCALES.get(name, "linear"), (USUAL[name],)))
        else:
            axes.append(_as_it_is(default_space()[name]))
    return axes


def _axis(name: str, distributions: Sequence[BaseDistribution], usual: Number | None = None) -> _Axis:
    scale = SCALES.get(name)
    if any(not has_order(name, d) and len(d.choices) <= MOST_NAMES for d in distributions):  # type: ignore[attr-defined]
        scale = "names"
    elif scale is None:
        scale = "log10" if all(map(partial(_is_logarithmic, name), distributions)) else "linear"
    return _Axis(name, scale, (), tuple(distributions), usual)


def _as_it_is(knob: Knob) -> _Axis:
    return _Axis(knob.name, knob.scale, knob.values)


def _at_usual(knob: Knob) -> _Axis:
    """A knob at its usual value alone, the middle one or the first name."""
    usual = knob.usual
    if not knob.named:
        wanted = USUAL.get(knob.name, number(usual))
        usual = min(map(number, knob.values), key=lambda value: abs(value - wanted))
    return _Axis(knob.name, knob.scale, (usual,))


def _is_logarithmic(knob: str, distribution: BaseDistribution) -> bool:
    """Whether a parameter's values lie evenly by their logarithms rather than as they are."""
    if not isinstance(distribution, CategoricalDistribution):
        return bool(distribution.log)  # type: ignore[attr-defined]
    numbers = np.array(sorted(set(numbers_in(knob, distribution))), dtype=np.float64)
    if len(numbers) < 3 or numbers[0] <= 0:
        return False
    plain, logarithmic = np.diff(numbers), np.diff(np.log(numbers))
    return bool(logarithmic.std() / logarithmic.mean() < plain.std() / plain.mean())


# -- the grid ---------------------------------------------------------------------------------------


def _grid(
    axes: Sequence[_Axis], constraints: tuple[str, ...], trials: int, batch_limit: int | None = None
) -> SearchSpace:
    """The space on some axes, fine enough for so many trials and no larger than can be searched."""
    level, marks = 0, 0
    while level < _FINE and _size(axes, level + 1, marks) <= _ROOMY:
        level += 1
    while level < _FINEST and _size(axes, level, marks) < _ENOUGH * trials:
        level, marks = level + 1, marks + 1
    kept = [axis for axis in axes if axis.values(level, marks)]
    counts = {axis.name: len(axis.values(level, marks)) for axis in kept}
    while math.prod(counts.values()) > MOST:
        thinned = [axis.name for axis in kept if axis.thins and counts[axis.name] > _FEWEST]
        if thinned:
            name = max(thinned, key=lambda name: counts[name])
            counts[name] = max(_FEWEST, (counts[name] + 1) // 2)
        elif is_own(kept[-1].name):
            del counts[kept.pop().name]
        else:
            break
    knobs = (Knob(a.name, a.values(level, marks, counts[a.name]), a.scale) for a in kept)
    return _space(tuple(knobs), constraints, batch_limit)


@lru_cache(maxsize=8)
def _space(knobs: tuple[Knob, ...], constraints: tuple[str, ...], batch_limit: int | None) -> SearchSpace:
    """One object for equal spaces: what is worked out of it is kept with it."""
    return SearchSpace(knobs, constraints, batch_limit)


def _size(axes: Sequence[_Axis], level: int, marks: int) -> int:
    return math.prod(len(axis.values(level, marks)) or 1 for axis in axes)


def _marked(knob: str, distribution: BaseDistribution, level: int) -> list[Number]:
    """Values that people use: powers of two, multiples of 0.05; between them at higher levels."""
    low, high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
    if SCALES.get(knob) == "log2":
        low, steps = max(low, high * _LEAST_SHARE), 2**level
        ends = math.floor(steps * math.log2(low)), math.ceil(steps * math.log2(high))
        found = [2 ** (place / steps) for place in range(ends[0], ends[1] + 1)]
        if knob in ("rank", "batch_size") or isinstance(distribution, IntDistribution):
            found = [float(round(value)) for value in found]
    elif knob == "dropout":
        step = 0.05 / 2**level
        found = [
            round(step * place, 6) for place in range(math.floor(low / step), math.ceil(high / step) + 1)
        ]
    else:
        return []
    whole = [int(value) if value.is_integer() else value for value in found]
    return _apart([value for value in whole if contains(knob, value, distribution)])


def _steps(distribution: BaseDistribution) -> float:
    """How many steps a range has that its author gave a step; infinitely many without one."""
    step = distribution.step  # type: ignore[attr-defined]
    if not step or (isinstance(distribution, IntDistribution) and step == 1):
        return math.inf
    return float((distribution.high - distribution.low) / step)  # type: ignore[attr-defined]


def _evenly(knob: str, distribution: BaseDistribution, n: int) -> list[Number]:
    """At most n values of a range, evenly spaced on its scale, with both ends, as its step allows."""
    low, high = float(distribution.low), float(distribution.high)  # type: ignore[attr-defined]
    step = distribution.step  # type: ignore[attr-defined]
    logarithmic = knob in SCALES or bool(distribution.log)  # type: ignore[attr-defined]
    if logarithmic:
        places = np.geomspace(max(low, high * _LEAST_SHARE), high, n)
    else:
        places = np.linspace(low, high, n)
    if not step:
        return [float(f"{place:.12g}") for place in places[:-1]] + [high]
    if (high - low) / step < n:
        places = low + step * np.arange(round((high - low) / step) + 1)
    lattice = (low + step * np.round((places - low) / step)).clip(low, high)
    if isinstance(distribution, IntDistribution):
        return _apart([int(value) for value in lattice])
    return _apart([float(f"{value:.12g}") for value in lattice])


def _apart(values: Iterable[Number]) -> list[Number]:
    """Values in increasing order; of those that are the same up to rounding, the first that was given."""
    found: list[Number] = []
    for value in sorted(values, key=float):
        if not found or not math.isclose(value, found[-1], rel_tol=1e-9, abs_tol=1e-15):
            found.append(value)
    return found
