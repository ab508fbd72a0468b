"""What a user holds likely before any trial: `learning_rate: around 1e-4`, configs that are good or bad."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError, suggest
from loracle.records.space.knob import Knob, Value, number
from loracle.records.space.search_space import SearchSpace, with_alpha
from loracle.text.escape import printable

Floats = npt.NDArray[np.float64]

LARGEST = 3.0  # doubt that one statement casts on a config, at most: a twentieth of the likeliest
_WIDTH = 0.15  # standard deviation of what a statement on a number says, in ranges of the knob
_HIGHEST = 1e300  # number
_NEAR = 0.25  # of what a config says of its neighbours
_FAR = 0.25  # ranges of the knob that the nearest candidate is away, from which on that is told
_ALIKE = 1e-3  # difference of doubts that is none

FORMS = "around V, at least V, at most V, between A and B, probably V, not V"
_FORM = re.compile(r"(around|at least|at most|between|probably|not)\s+(.+)", re.IGNORECASE | re.DOTALL)
_ORDERED = ("around", "at least", "at most", "between")


@dataclass(frozen=True)
class Statement:
    """What is held likely of one knob.

    Attributes:
        kind: the words that it begins with.
        values: one, or the two ends of `between`.
    """

    kind: str
    values: tuple[Value, ...]

    @classmethod
    def parse(cls, text: Any) -> Statement:
        """From words; a value alone is probably the right one.

        Raises:
            SpaceError: it has another form, or a number is missing.
        """
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise SpaceError(f"a belief is a value, or words; got {printable(repr(text), 60)}")
        if not isinstance(text, str):
            return cls("probably", (_read(str(text)),))
        found = _FORM.fullmatch(text.strip())
        if found is None:
            if " " in text.strip():
                raise SpaceError(f"{printable(text, 60)} is no belief; write {FORMS}")
            return cls("probably", (_read(text.strip()),))
        kind = found[1].lower()
        parts = re.split(r"\s+and\s+", found[2].strip()) if kind == "between" else [found[2].strip()]
        values = tuple(map(_read, parts))
        texts = any(isinstance(value, str) for value in values)
        if kind == "between" and (len(values) != 2 or texts or not number(values[0]) < number(values[1])):
            raise SpaceError(f"{printable(text, 60)}: write between A and B, A below B")
        if kind in _ORDERED and texts:
            raise SpaceError(
                f"{printable(text, 60)}: {kind} takes finite numbers; of names say probably V or not V"
            )
        return cls(kind, values)

    @property
    def exact(self) -> bool:
        """Whether it is about one value, and not about how near others are."""
        return self.kind in ("probably", "not")

    def __str__(self) -> str:
        return f"{self.kind} {' and '.join(f'{v:g}' if not isinstance(v, str) else v for v in self.values)}"

    def doubts(self, knob: Knob) -> Floats:
        """How unlikely it makes each of the knob's n values, (n,): 0 to `LARGEST`, the logarithm of how many
        times as likely the likeliest is.

        Raises:
            SpaceError: it speaks of a value that the knob does not have, or of an order that names lack.
        """
        if self.exact:
            own = np.arange(len(knob.values)) == knob.position(self.values[0])
            return np.where(own == (self.kind == "not"), LARGEST, 0.0)
        return np.minimum(LARGEST, 0.5 * (self.away(knob) / _WIDTH) ** 2)

    def away(self, knob: Knob) -> Floats:
        """How far each of the knob's n values is from what is held likely, (n,), in units of its range; 0 of
        statements on one value. Raises like `doubts`."""
        if self.exact:
            return np.zeros(len(knob.values))
        if knob.named:
            raise SpaceError(f"{knob.name} has names, which have no order: say probably V or not V")
        low, high = (None, self.values[0]) if self.kind == "at most" else (self.values[0], self.values[-1])
        away = np.zeros(len(knob.values))
        if low is not None:
            away = np.where(knob.numbers < number(low), knob.distances(low), away)
        if self.kind != "at least":
            away = np.where(knob.numbers > number(high), knob.distances(high), away)
        return away


@dataclass(frozen=True)
class UserBeliefs:
    """What a user holds likely, of knobs and of whole configs.

    Attributes:
        knobs: statements by knob; `alpha` may be one of a space that has rank and alpha_ratio.
        good, bad: configs known to do well and badly; each may leave knobs out.
    """

    knobs: tuple[tuple[str, Statement], ...] = ()
    good: tuple[tuple[tuple[str, Value], ...], ...] = ()
    bad: tuple[tuple[tuple[str, Value], ...], ...] = ()

    @classmethod
    def of(
        cls,
        knobs: Mapping[str, Any],
        good: Sequence[Mapping[str, Value]] = (),
        bad: Sequence[Mapping[str, Value]] = (),
    ) -> UserBeliefs:
        """From words and configs as users write them, which may be among the knobs as in a file.

        Raises:
            SpaceError: see `Statement.parse`, with the knob's name; or a config is none.
        """
        if not isinstance(knobs, Mapping):
            raise SpaceError(f"beliefs are said by knob; got {printable(repr(knobs), 60)}")
        said = {"good": good, "bad": bad} | {name: knobs[name] for name in ("good", "bad") if name in knobs}
        statements = []
        for name in (name for name in knobs if name not in said):
            try:
                statements.append((str(name), Statement.parse(knobs[name])))
            except SpaceError as error:
                raise SpaceError(f"{printable(str(name), 60)}: {error}") from None
        return cls(tuple(statements), _configs("good", said["good"]), _configs("bad", said["bad"]))

    @property
    def names(self) -> list[str]:
        """Of all knobs that they speak of."""
        pairs = (*self.knobs, *(pair for config in (*self.good, *self.bad) for pair in config))
        return list(dict.fromkeys(name for name, _ in pairs))

    def __bool__(self) -> bool:
        return bool(self.knobs or self.good or self.bad)

    def __str__(self) -> str:
        said = [f"{name} {statement}" for name, statement in self.knobs]
        for word, configs in (("good", self.good), ("bad", self.bad)):
            if configs:
                said.append(f"{len(configs)} config{'s' * (len(configs) > 1)} known to be {word}")
        return printable(", ".join(said), 300)

    def doubts(self, space: SearchSpace) -> Floats:
        """How unlikely all of it makes each of the N candidates, (N,): the sum of what is said.

        Raises:
            SpaceError: a knob that the space lacks, or see `Statement.doubts`.
        """
        places = _places(space)
        total = np.zeros(len(space.candidates))
        for name, statement in self.knobs:
            knob, place = _knob(space, name, places)
            total += statement.doubts(knob)[place]
        if self.good:
            total += LARGEST * (1 - reduce(np.maximum, (_likeness(space, c, places) for c in self.good)))
        if self.bad:
            total += LARGEST * reduce(np.maximum, (_likeness(space, c, places) for c in self.bad))
        return total

    @property
    def single(self) -> Iterator[tuple[str, UserBeliefs]]:
        """Each of them alone, with the place where it stands in a file: `rank`, `good.0`."""
        for name, statement in self.knobs:
            yield name, UserBeliefs(((name, statement),))
        for place, one in enumerate(self.good):
            yield f"good.{place}", UserBeliefs(good=(one,))
        for place, one in enumerate(self.bad):
            yield f"bad.{place}", UserBeliefs(bad=(one,))

    def remarks(
        self, space: SearchSpace, held: Callable[[UserBeliefs], UserBeliefs] = lambda said: said
    ) -> Iterator[str]:
        """In a sentence each, without its full stop: those that make no difference between candidates, and
        those that speak of what is far from all of them.

        Args:
            space: of the candidates.
            held: what is said in the user's own words, in those of the space; empty: nothing of it is there.
        """
        n = 0
        for _, one in self.single:
            if meant := held(one):
                n += 1
                yield from _remark(meant, one, space)
        if n > 1 and np.ptp(held(self).doubts(space)) < _ALIKE:
            yield "beliefs make no difference together, as they say the same of all candidates"


def _configs(kind: str, given: Any) -> tuple[tuple[tuple[str, Value], ...], ...]:
    """One config, or several."""
    configs = [given] if isinstance(given, Mapping) else given
    for one in configs if isinstance(configs, Sequence) and not isinstance(configs, str) else [given]:
        values = list(one.values()) if isinstance(one, Mapping) else [None]
        if not values or any(isinstance(v, bool) or not isinstance(v, str | int | float) for v in values):
            raise SpaceError(f"{kind}: a config names a value for some knobs; got {printable(repr(one), 60)}")
    return tuple(tuple(one.items()) for one in configs)


def _read(text: str) -> Value:
    """A number where it reads as a finite one, else a name."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            value = kind(text)
            return value if abs(value) <= _HIGHEST else text
    return text


Places = dict[str, npt.NDArray[np.int64]]


def _places(space: SearchSpace) -> Places:
    return dict(zip(space.names, space.positions(space.candidates), strict=True))


def _remark(one: UserBeliefs, said: UserBeliefs, space: SearchSpace) -> Iterator[str]:
    """What is to be told of one belief, which the user `said` so."""
    places, flat = _places(space), np.ptp(one.doubts(space)) < _ALIKE
    if one.knobs:
        ((name, statement),) = one.knobs
        knob, place = _knob(space, name, places)
        names, away = [name], statement.away(knob)[place]
        ((own, statement),) = said.knobs
        shown = f"{own}: {statement}"
    else:
        ((kind, (config,)),) = ((k, v) for k, v in (("good", one.good), ("bad", one.bad)) if v)
        names, away = [name for name, _ in config], np.sqrt(_squares(space, config, places))
        shown = f"{kind}: {_listed((said.good or said.bad)[0])}"
    shown = f"beliefs.{printable(shown, 200)}"
    if away.min() > _FAR:
        values = space.values(space.candidates[[int(np.argmin(away))]])
        nearest = _listed((n, _value(space, n, values[n][0])) for n in names if n in values)
        much = "no" if flat else "little"
        yield f"{shown} makes {much} difference, as no candidate is near: the nearest has {nearest}"
    elif flat:
        yield f"{shown} makes no difference, as it says the same of all candidates"


def _value(space: SearchSpace, name: str, number: float) -> Value:
    texts = space[name].texts if name in space.names else ()
    return texts[int(number)] if texts else float(number)


def _listed(config: Iterable[tuple[str, Value]]) -> str:
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in config)


def _knob(space: SearchSpace, name: str, places: Places) -> tuple[Knob, npt.NDArray[np.int64]]:
    """A knob, and where each candidate stands on it."""
    if name in places:
        return space[name], places[name]
    values = space.values(space.candidates)
    if name not in values:
        raise SpaceError(f"{printable(name, 60)} is no knob of the space{suggest(name, space.names)}")
    distinct, place = np.unique(values[name], return_inverse=True)  # alpha
    return Knob(name, tuple(distinct.tolist()), "log2"), place


def _likeness(space: SearchSpace, config: tuple[tuple[str, Value], ...], places: Places) -> Floats:
    """1 at a config, less the farther from it, (N,); knobs that it leaves out make no difference."""
    return np.asarray(np.exp(-0.5 * _squares(space, config, places) / _NEAR**2))


def _squares(space: SearchSpace, config: tuple[tuple[str, Value], ...], places: Places) -> Floats:
    """Of the distances from a config, (N,), each knob in units of its range."""
    full = with_alpha(dict(config))
    if "alpha" in full and "alpha_ratio" in full:
        del full["alpha" if "alpha_ratio" in places else "alpha_ratio"]
    away = np.zeros(len(space.candidates))
    for name, value in full.items():
        knob, place = _knob(space, name, places)
        if knob.named:
            knob.position(value)  # raises where it has no such name
        away += knob.distances(value)[place] ** 2
    return away
