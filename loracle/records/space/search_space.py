"""Search spaces: knobs with their values, and a mixed-radix index as the identity of a config.

A config is a plain dict with one value a knob and the derived `alpha`. No table of configs is stored:
index and config are converted by arithmetic, so a space of any size costs a few bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError, suggest
from loracle.records.constraints import Expression, Floats, parse_expression
from loracle.records.space.knob import Knob, Value, listed, number, same_value
from loracle.text.escape import printable

Config = dict[str, Value]
Indices = npt.NDArray[np.int64]

_MAX_GRID = 10_000_000  # configs: listing the candidates takes about 2 s and 1 GB
_MAX_COLUMNS = 100_000_000  # configs times names: 0.8 GB of one-hot columns
_MAX_KNOBS = 64  # axes of an array in numpy


@dataclass(frozen=True)
class SearchSpace:
    """All candidates: the product of the knobs, less what the constraints forbid, twins merged.

    The index of a config is its mixed-radix number, first knob most significant. It ranges over the
    whole product (`size`); `candidates` lists the indices worth training.

    Attributes:
        knobs: the hyperparameters, in the order in which the prompt states them; a tuple or a list.
        constraints: expressions over knob names and `alpha` that every candidate satisfies,
            such as `alpha <= 512 and rank * learning_rate < 0.1` or `schedule != 'linear'`.
        batch_limit: number of training examples; no effective batch is larger.

    Raises:
        SpaceError: repeated knob names, one knob or text in the place of several, a malformed constraint, or
            an impossible batch; constraints that leave no candidate, as soon as candidates are listed.
    """

    knobs: tuple[Knob, ...]
    constraints: tuple[str, ...] = ()
    batch_limit: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", listed(self.knobs, "a space's knobs"))
        object.__setattr__(self, "constraints", listed(self.constraints, "a space's constraints"))
        for given, kind, what in ((self.knobs, Knob, "knobs"), (self.constraints, str, "constraints")):
            if wrong := [each for each in given if not isinstance(each, kind)]:
                raise SpaceError(f"a space's {what} are each a {kind.__name__}; got {_shown(wrong[0])}")
        if not self.knobs:
            raise SpaceError("a search space needs at least one knob")
        if len(self.knobs) > _MAX_KNOBS:
            raise SpaceError(
                f"a search space has at most {_MAX_KNOBS} knobs; this one has {len(self.knobs)}. Leave out "
                "those with a single value"
            )
        names = [knob.name for knob in self.knobs]
        for name in names:
            if names.count(name) > 1:
                raise SpaceError(f"knob {name!r} is given twice")
        if "alpha" in names and "alpha_ratio" in names:
            raise SpaceError("search either alpha or alpha_ratio (alpha / rank), not both")
        if self.batch_limit is not None and self.batch_limit < 1:
            raise SpaceError(
                f"impossible batch: batch_limit is a whole number from 1 up; got {self.batch_limit}"
            )
        if self.size > _MAX_GRID:
            raise SpaceError(f"the space has {self.size:,} configs; {_MAX_GRID:,} is the most allowed")
        columns = sum(len(knob.values) for knob in self.knobs if knob.named)
        if self.size * columns > _MAX_COLUMNS:
            raise SpaceError(
                f"the space has {self.size:,} configs and {columns} names; with so many names, "
                f"{_MAX_COLUMNS // columns:,} configs are the most allowed"
            )
        for knob in self.knobs:
            if knob.name in ("batch_size", "rank"):
                _require_positive_integers(knob)
        if {"rank", "alpha_ratio"} <= set(names) and not math.isfinite(
            float(self["rank"].numbers[-1]) * float(np.abs(self["alpha_ratio"].numbers).max())
        ):
            raise SpaceError("alpha, which is rank x alpha_ratio, is beyond 1.8e308; use smaller values")
        for constraint in self.constraints:
            self._condition(constraint)

    # -- size and shape -------------------------------------------------------------------------

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each knob."""
        return tuple(len(knob.values) for knob in self.knobs)

    @property
    def size(self) -> int:
        """Number of configs in the product of all knobs: indices run from 0 to `size - 1`."""
        return math.prod(self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the knobs, in order."""
        return tuple(knob.name for knob in self.knobs)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Knob]:
        return iter(self.knobs)

    def __getitem__(self, name: str) -> Knob:
        for knob in self.knobs:
            if knob.name == name:
                return knob
        raise SpaceError(f"the space has no knob {name!r}{suggest(name, self.names)}")

    # -- index <-> config -----------------------------------------------------------------------

    def config(self, index: int) -> Config:
        """The config at `index`: one value a knob and, where the space searches `alpha_ratio`, `alpha`.

        Raises:
            SpaceError: the index is outside the space.
        """
        if not 0 <= index < self.size:
            raise SpaceError(f"index {index} is outside the space of {self.size:,} configs")
        positions = self.positions(int(index))
        config = {knob.name: knob.values[int(p)] for knob, p in zip(self.knobs, positions, strict=True)}
        return with_alpha(config)

    def index(self, config: Mapping[str, Value]) -> int:
        """The index of a config; `alpha` may stand in for `alpha_ratio`.

        Raises:
            SpaceError: a knob is missing, unknown or has a value that the space does not hold.
        """
        given = self._searched(config)
        positions = tuple(knob.position(given[knob.name]) for knob in self.knobs)
        return int(self._index_of(positions))

    def nearest(self, config: Mapping[str, Value]) -> int:
        """The candidate closest to `config` on the knobs' own scales (ties: the lowest index); of a name that
        the space lacks, all its names are equally far."""
        given = self._searched(config)
        distances = [knob.distances(given[knob.name]) for knob in self.knobs]
        places = self.positions(self.candidates)
        total = np.stack([d[p] for d, p in zip(distances, places, strict=True)], axis=-1).sum(axis=1)
        return int(self.candidates[int(np.argmin(total))])

    def coordinates(self, indices: npt.ArrayLike) -> Floats:
        """Many configs as a kernel sees them, (n, d): knobs on their own scales, in [0, 1], and a column for
        each of a knob's names (see `Knob.coordinates`)."""
        places = self.positions(indices)
        return np.hstack([knob.coordinates()[p] for knob, p in zip(self.knobs, places, strict=True)])

    def values(self, indices: npt.ArrayLike) -> dict[str, Floats]:
        """Knob values of many configs as one array a knob, each of shape (n,), with `alpha`.

        A name counts by its position among the knob's names.
        """
        places = self.positions(indices)
        values = {knob.name: knob.numbers[p] for knob, p in zip(self.knobs, places, strict=True)}
        if "alpha_ratio" in values and "rank" in values:
            values["alpha"] = values["alpha_ratio"] * values["rank"]
        return values

    def positions(self, indices: npt.ArrayLike) -> list[Indices]:
        """Position of each knob's value in some configs, in knob order, each of their shape."""
        array = np.asarray(indices, dtype=np.int64)
        if array.size and not (array.min() >= 0 and array.max() < self.size):
            raise SpaceError(f"an index is outside the space of {self.size:,} configs")
        pairs = zip(self._steps, self.shape, strict=True)
        return [np.asarray(array // step % length) for step, length in pairs]

    def neighbours(self, index: int) -> list[int]:
        """Indices that differ from `index` by one step of one knob, or another of its names, in order."""
        positions = [int(position) for position in self.positions(int(index))]
        found = []
        for axis, knob in enumerate(self.knobs):
            here = positions[axis]
            others = range(len(knob.values)) if knob.named else (here - 1, here + 1)
            for moved in others:
                if 0 <= moved < len(knob.values) and moved != here:
                    changed = (*positions[:axis], moved, *positions[axis + 1 :])
                    found.append(int(self._index_of(changed)))
        return found

    # -- candidates -----------------------------------------------------------------------------

    @cached_property
    def candidates(self) -> Indices:
        """Sorted indices of all configs worth training: constraints hold, one of each set of twins.

        Raises:
            SpaceError: nothing is left.
        """
        everything = np.arange(self.size, dtype=np.int64)
        keep = self.canonical(everything) == everything
        values = self.values(everything)
        for constraint in self.constraints:
            keep &= self._condition(constraint)(values).astype(bool)
        found: Indices = everything[keep]
        if not len(found):
            raise SpaceError(f"no config satisfies the constraints {list(self.constraints)}")
        return found

    def canonical(self, indices: npt.ArrayLike) -> Indices:
        """The representative of each config among those that train identically; same shape as given.

        Two rules make twins. With `alpha_ratio` (or `alpha`) 0 the adapter's output is always zero, so
        nothing else matters. Batch sizes beyond the number of examples are one.
        """
        array = np.asarray(indices, dtype=np.int64)
        positions = self.positions(array)
        names = self.names
        if "batch_size" in names:
            axis = names.index("batch_size")
            positions[axis] = self._realised_positions[positions[axis]]
        for name in ("alpha_ratio", "alpha"):
            if name in names and 0 in self[name].values:
                axis = names.index(name)
                zero = self[name].values.index(0)
                dead = positions[axis] == zero
                positions = [np.where(dead, 0, p) for p in positions]
                positions[axis] = np.where(dead, zero, positions[axis])
        return np.asarray(self._index_of(positions), dtype=np.int64)

    def realised_batch(self, batch_size: int) -> int:
        """The effective batch that is really trained, in examples."""
        return batch_size if self.batch_limit is None else min(batch_size, self.batch_limit)

    @cached_property
    def _realised_positions(self) -> Indices:
        values = [int(v) for v in self["batch_size"].values]  # whole numbers: it was checked
        realised = [self.realised_batch(v) for v in values]
        # The value that says what is trained represents its twins; where none does, the smallest.
        return np.array(
            [values.index(r) if r in values else realised.index(r) for r in realised], dtype=np.int64
        )

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything that decides which config an index means and which are candidates."""
        content = {
            "knobs": [
                [
                    k.name,
                    list(k.values),
                    "linear" if k.named and not k.texts else k.scale,  # as studies of before have it
                    k.explanation,
                    *([sorted(k.about.items())] if k.about else []),
                ]
                for k in self.knobs
            ],
            "constraints": list(self.constraints),
            "batch": [
                1,
                self.batch_limit,
            ],  # 1: a multiple that no run ever had; old runs have it in their hash
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    # numpy's own function for the next one stops at 63 knobs.

    def _index_of(self, positions: Sequence[Any]) -> Any:
        """The index of the config, or configs, with these positions."""
        return sum(position * step for position, step in zip(positions, self._steps, strict=True))

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        """How far apart in index two neighbouring values of each knob are."""
        return tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    @property
    def _value_names(self) -> tuple[str, ...]:
        derived = ("alpha",) if {"alpha_ratio", "rank"} <= set(self.names) else ()
        return self.names + derived

    def _condition(self, text: str) -> Expression:
        texts = {knob.name: knob.texts for knob in self.knobs if knob.texts}
        return parse_expression(text, self._value_names, texts)

    def _searched(self, config: Mapping[str, Value]) -> dict[str, Value]:
        """`config` in the knobs of this space: alpha_ratio from alpha or the reverse."""
        given = with_alpha(config)
        if {"rank", "alpha", "alpha_ratio"} <= set(config) and not same_value(
            config["alpha"], given["alpha"]
        ):
            raise SpaceError(
                f"alpha={config['alpha']} is not alpha_ratio={config['alpha_ratio']} x "
                f"rank={config['rank']}; give one of alpha and alpha_ratio"
            )
        known = (*self.names, "alpha", "alpha_ratio")
        for name in given:
            if name not in known:
                raise SpaceError(f"the space has no knob {name!r}{suggest(name, known)}")
        for name in self.names:
            if name not in given:
                raise SpaceError(f"a config needs a value for every knob; {name!r} is missing")
        return given


def with_alpha(config: Mapping[str, Value]) -> Config:
    """A copy of `config` that states `alpha` and `alpha_ratio` both, where rank and one of them are known.

    Raises:
        SpaceError: one of them is no number, or the rank not above 0.
    """
    full = dict(config)
    known = {name: number(full[name], name) for name in ("rank", "alpha", "alpha_ratio") if name in full}
    rank = known.get("rank")
    if rank is None:
        return full
    if rank <= 0:
        raise SpaceError(f"rank is a whole number from 1 up; got {rank}")
    if "alpha_ratio" in known:
        alpha = rank * known["alpha_ratio"]
        full["alpha"] = int(alpha) if float(alpha).is_integer() else alpha
    elif "alpha" in known:
        ratio = known["alpha"] / rank
        full["alpha_ratio"] = int(ratio) if ratio.is_integer() else ratio
    return full


def _shown(value: object) -> str:
    return printable(repr(value), 60)


def _require_positive_integers(knob: Knob) -> None:
    for value in knob.values:
        if number(value) < 1 or not float(value).is_integer():
            raise SpaceError(f"knob {knob.name!r}: values are whole numbers from 1 up; got {value!r}")
