"""Search spaces: knobs with ordered values, and a mixed-radix index as the identity of a config.

A config is a plain dict with one value a knob and the derived `alpha`. No table of configs is stored:
index and config are converted by arithmetic, so a space of any size costs a few bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loracle.errors import SpaceError, suggest
from loracle.records.constraints import Floats, parse_expression

Value = int | float
Config = dict[str, Value]
Scale = Literal["log2", "log10", "linear"]
Indices = npt.NDArray[np.int64]

_MAX_GRID = 10_000_000  # configs: listing the candidates takes about 2 s and 1 GB
_MAX_KNOBS = 64  # axes of an array in numpy
_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Knob:
    """One hyperparameter.

    Attributes:
        name: the field's own word for it (`rank`, `learning_rate`, ...).
        values: its values, strictly increasing.
        scale: the scale on which its steps are comparable.
        explanation: key of its paragraph in the prompt; the name itself if empty.

    Raises:
        SpaceError: no values, values not increasing or not finite, or a logarithmic scale with values
            that are not positive.
    """

    name: str
    values: tuple[Value, ...]
    scale: Scale = "linear"
    explanation: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SpaceError(f"a knob's name must be a plain word; got {self.name!r}")
        if not self.values:
            raise SpaceError(f"knob {self.name!r} has no values; give at least one")
        for value in self.values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
                shown = "a whole number beyond 1e308" if type(value) is int else repr(value)[:50]
                raise SpaceError(f"knob {self.name!r}: values must be finite numbers; got {shown}")
        for low, high in zip(self.values, self.values[1:], strict=False):
            if not low < high:
                raise SpaceError(
                    f"knob {self.name!r}: values must increase, without repeats; got {low} before {high}"
                )
        if self.scale != "linear" and self.values[0] <= 0:
            raise SpaceError(
                f"knob {self.name!r}: scale {self.scale} needs values above 0; got {self.values[0]}. "
                "Use scale: linear"
            )

    def scaled(self, values: npt.ArrayLike) -> Floats:
        """Values on the knob's own scale, moved to [0, 1] over the knob's range; same shape as given."""
        array = np.asarray(values, dtype=np.float64)
        ends = np.asarray([self.values[0], self.values[-1]], dtype=np.float64)
        if self.scale != "linear":
            array, ends = np.log(array), np.log(ends)
        if not math.isfinite(float(ends[1]) - float(ends[0])):
            array, ends = array / 2, ends / 2  # from -1.7e308 to 1.7e308
        width = ends[1] - ends[0]
        return (array - ends[0]) / width if width > 0 else np.zeros_like(array)

    def position(self, value: Value) -> int:
        """Position of `value` among the knob's values.

        Raises:
            SpaceError: the value is not one of them.
        """
        if value in self.values:
            return self.values.index(value)
        for position, own in enumerate(self.values):
            if math.isclose(own, value, rel_tol=1e-9, abs_tol=1e-15):
                return position
        raise SpaceError(f"{self.name}={value!r} is not in the space; its values are {list(self.values)}")


@dataclass(frozen=True)
class SearchSpace:
    """All candidates: the product of the knobs, less what the constraints forbid, twins merged.

    The index of a config is its mixed-radix number, first knob most significant. It ranges over the
    whole product (`size`); `candidates` lists the indices worth training.

    Attributes:
        knobs: the hyperparameters, in the order in which the prompt states them.
        constraints: expressions over knob names and `alpha` that every candidate satisfies,
            such as `alpha <= 512 and rank * learning_rate < 0.1`.
        batch_limit: number of training examples; no effective batch is larger.

    Raises:
        SpaceError: repeated knob names, a malformed constraint, an impossible batch, or no candidate.
    """

    knobs: tuple[Knob, ...]
    constraints: tuple[str, ...] = ()
    batch_limit: int | None = None

    def __post_init__(self) -> None:
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
        for knob in self.knobs:
            if knob.name in ("batch_size", "rank"):
                _require_positive_integers(knob)
        if {"rank", "alpha_ratio"} <= set(names) and not math.isfinite(
            float(self["rank"].values[-1]) * max(abs(float(ratio)) for ratio in self["alpha_ratio"].values)
        ):
            raise SpaceError("alpha, which is rank x alpha_ratio, is beyond 1.8e308; use smaller values")
        for constraint in self.constraints:
            parse_expression(constraint, self._value_names)

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
        positions = self._positions_of(np.asarray(int(index)))
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
        """The candidate closest to `config` on the knobs' own scales (ties: the lowest index)."""
        given = self._searched(config)
        for knob in self.knobs:
            if knob.scale != "linear" and given[knob.name] <= 0:
                raise SpaceError(f"{knob.name}={given[knob.name]} cannot stand on a {knob.scale} scale")
        wanted = np.array([knob.scaled(given[knob.name]) for knob in self.knobs])
        distance = np.abs(self.coordinates(self.candidates) - wanted).sum(axis=1)
        return int(self.candidates[int(np.argmin(distance))])

    def coordinates(self, indices: npt.ArrayLike) -> Floats:
        """Knob values of many configs on the knobs' own scales, in [0, 1]; shape (n, number of knobs)."""
        values = self.values(indices)
        return np.stack([knob.scaled(values[knob.name]) for knob in self.knobs], axis=-1)

    def values(self, indices: npt.ArrayLike) -> dict[str, Floats]:
        """Knob values of many configs as one array a knob, each of shape (n,), with `alpha`."""
        positions = self._positions_of(np.asarray(indices, dtype=np.int64))
        values = {
            knob.name: np.asarray(knob.values, dtype=np.float64)[p]
            for knob, p in zip(self.knobs, positions, strict=True)
        }
        if "alpha_ratio" in values and "rank" in values:
            values["alpha"] = values["alpha_ratio"] * values["rank"]
        return values

    def neighbours(self, index: int) -> list[int]:
        """Indices that differ from `index` by one step of one knob, in knob order."""
        positions = [int(position) for position in self._positions_of(np.asarray(int(index)))]
        found = []
        for axis, length in enumerate(self.shape):
            for step in (-1, 1):
                moved = positions[axis] + step
                if 0 <= moved < length:
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
            keep &= parse_expression(constraint, self._value_names)(values).astype(bool)
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
        positions = self._positions_of(array)
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
        values = [int(v) for v in self["batch_size"].values]
        realised = [self.realised_batch(v) for v in values]
        # The value that says what is trained represents its twins; where none does, the smallest.
        return np.array(
            [values.index(r) if r in values else realised.index(r) for r in realised], dtype=np.int64
        )

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of everything that decides which config an index means and which are candidates."""
        content = {
            "knobs": [[k.name, list(k.values), k.scale, k.explanation] for k in self.knobs],
            "constraints": list(self.constraints),
            "batch": [
                1,
                self.batch_limit,
            ],  # 1: a multiple that no run ever had; old runs have it in their hash
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    # numpy's own functions for the next two stop at 63 knobs.

    def _positions_of(self, indices: Indices) -> list[Indices]:
        """Position of each knob's value in some configs, in knob order."""
        if indices.size and not (indices.min() >= 0 and indices.max() < self.size):
            raise SpaceError(f"an index is outside the space of {self.size:,} configs")
        pairs = zip(self._steps, self.shape, strict=True)
        return [np.asarray(indices // step % length) for step, length in pairs]

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

    def _searched(self, config: Mapping[str, Value]) -> dict[str, Value]:
        """`config` in the knobs of this space: alpha_ratio from alpha or the reverse."""
        given = with_alpha(config)
        if {"rank", "alpha", "alpha_ratio"} <= set(config) and not math.isclose(
            config["alpha"], given["alpha"], rel_tol=1e-9
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


def paper_space() -> SearchSpace:
    """The published space of arXiv 2602.11171: 45,360 configs."""
    return SearchSpace(
        (
            Knob("rank", (1, 2, 4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16, 32, 64, 128), "log2"),
            Knob("dropout", (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)),
            Knob("batch_size", (2, 4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob(
                "learning_rate",
                (1e-6, 5e-6, 2e-5, 3e-5, 5e-5, 1e-4, 3e-4, 4e-4, 5e-4, 5e-3),
                "log10",
            ),
        )
    )


def default_space() -> SearchSpace:
    """The space that published evidence supports; each range cites its fact in `docs/lora-facts.md`.

    Rank 4 to 256: more rank never hurt at a tuned rate and saturates at 64 to 128 (fact 21).
    alpha / rank 0.5 to 32: best runs lie from 0.5 to 32 with the rate matched (facts 17, 18).
    Dropout 0 to 0.1: more has no support (fact 32). Batch 8 to 128: beyond that, quality falls (fact 27).
    Learning rate 1e-5 to 3e-3: 3e-4 is the safe centre, 3e-3 diverges on most large models (facts 1, 2),
    and small models reach it; alpha x learning rate above 0.5 is dead everywhere measured (fact 20).
    """
    return SearchSpace(
        (
            Knob("rank", (4, 8, 16, 32, 64, 128, 256), "log2"),
            Knob("alpha_ratio", (0.5, 1, 2, 4, 8, 16, 32), "log2"),
            Knob("dropout", (0.0, 0.05, 0.1)),
            Knob("batch_size", (8, 16, 32, 64, 128), "log2"),
            Knob("learning_rate", (1e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 3e-3), "log10"),
        ),
        constraints=("alpha * learning_rate <= 0.5",),
    )


def with_alpha(config: Mapping[str, Value]) -> Config:
    """A copy of `config` that states `alpha` and `alpha_ratio` both, where rank and one of them are known."""
    full = dict(config)
    _require_rank(full)
    if "rank" in full and "alpha_ratio" in full:
        alpha = full["rank"] * full["alpha_ratio"]
        full["alpha"] = int(alpha) if float(alpha).is_integer() else alpha
    elif "rank" in full and "alpha" in full:
        ratio = full["alpha"] / full["rank"]
        full["alpha_ratio"] = int(ratio) if ratio.is_integer() else ratio
    return full


def _require_rank(config: Mapping[str, Value]) -> None:
    if config.get("rank", 1) <= 0:
        raise SpaceError(f"rank is a whole number from 1 up; got {config['rank']}")


def _require_positive_integers(knob: Knob) -> None:
    for value in knob.values:
        if value < 1 or not float(value).is_integer():
            raise SpaceError(f"knob {knob.name!r}: values are whole numbers from 1 up; got {value!r}")
