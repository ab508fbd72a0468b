"""A config before the first trial: what the prior trusts most for a model of this size, and others.

The usual settings are known to be ordinary everywhere. So they count as tried, with an ordinary score, and
the answer is chosen as the search chooses its first trials, by what a config is worth at least. How good
such answers are was measured with each family left out (`benchmarks/suggestions.py`); the prior's file says.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loracle.errors import ConfigError, SpaceError
from loracle.records.space import NUMERIC, Config, SearchSpace, default_space
from loracle.records.standard_settings import STANDARD
from loracle.search.acquisition import lower_bound
from loracle.search.ensemble import fit_ensemble
from loracle.search.observations import row_of, without
from loracle.search.presets import EnsembleSettings
from loracle.search.prior import LARGEST, SHIPPED, SMALLEST, describe, knows, load_prior, misnamed_knobs
from loracle.search.propose import seed_indices
from loracle.search.suggestion.model_size import size_of

_FEW_STEPS = 100  # optimizer steps in a training; fewer say little (fact 29)
_SMALL_RANK = 16
_SMALLER_STEP = 3.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alternative:
    """Another config, what it is for, and the share of the space that the prior trusts less."""

    name: str
    config: Config
    better_than: float


@dataclass(frozen=True)
class Suggestion:
    """What to train where nothing has been trained yet.

    Attributes:
        config: the config.
        better_than: share of all configs that the prior trusts less.
        alternatives: with a smaller rank, with smaller steps, and the usual settings.
        parameters: of the base model.
        examples: of the training; None: not given.
        within: how far from the best config of a landscape such an answer was in 9 of 10 families that the
            prior had not seen, in units of the distance from the best config to the median one.
        typical: the same in half of the families.
        families: so many of them.
        landscapes: that the prior has learnt from.
        known_size: whether models about as large are among them.
    """

    config: Config
    better_than: float
    alternatives: tuple[Alternative, ...]
    parameters: float
    examples: int | None
    within: float | None
    typical: float | None
    families: int
    landscapes: int
    known_size: bool


def suggest(
    model: str | Path | None = None,
    *,
    parameters: float | None = None,
    examples: int | None = None,
    epochs: float = 1.0,
    space: SearchSpace | None = None,
) -> Suggestion:
    """A config to start from, without any training.

    Args:
        model: folder of the base model; its config.json is enough. Ranks at or above its width are left out.
        parameters: how many it has, in the place of a folder.
        examples: training examples; batches that leave fewer than 100 optimizer steps are left out, where
            others leave more.
        epochs: passes over them.
        space: what to choose from; None: the default space. Of knobs that nothing is known of, that is
            warned of.

    Raises:
        ConfigError: neither a model nor a number of parameters, or both, or numbers that are none.
        ModelError: the model's folder does not say how large it is.
        SpaceError: nothing is known of any knob of the space.
    """
    space = space or default_space()
    if (model is None) == (parameters is None):
        raise ConfigError(
            "suggest takes a model's folder or how many parameters it has, such as 7e9; one of them"
        )
    if not knows(space):
        named = misnamed_knobs(space) or f"nothing is known of {', '.join(space.names)}"
        raise SpaceError(f"suggest goes by what is known of LoRA, and {named}; search with trials")
    unknown = [knob.name for knob in space.knobs if knob.name not in NUMERIC and len(knob.values) > 1]
    if said := misnamed_knobs(space) or (unknown and f"nothing is known of {', '.join(unknown)}"):
        warnings.warn(f"suggest: {said}; what it says of that is a guess", stacklevel=2)
    parameters, width = (parameters, None) if model is None else size_of(Path(model).expanduser())
    assert parameters is not None
    for name, given in (("parameters", parameters), ("examples", examples), ("epochs", epochs)):
        if given is not None and not (isinstance(given, Real) and 0 < given < math.inf):
            raise ConfigError(f"{name} is a positive number; got {given!r}")
    fits = _below(width, space, _enough_steps(space, examples, epochs))
    believed = worth(space, EnsembleSettings(parameters=parameters))
    best = int(np.flatnonzero(fits)[np.argmax(believed[fits])])
    told = load_prior(SHIPPED).provenance
    measured = told.get("suggestions", {})
    return Suggestion(
        space.config(int(space.candidates[best])),
        _better(believed, best),
        tuple(_alternatives(space, believed, fits, best)),
        parameters,
        examples,
        measured.get("within"),
        measured.get("typical"),
        measured.get("families", 0),
        len(told.get("tasks", ())),
        SMALLEST <= parameters <= LARGEST,
    )


def worth(space: SearchSpace, settings: EnsembleSettings) -> Floats:
    """What each candidate is worth at least, (N,), in transformed units; the usual settings are at 0."""
    usual = np.array([usual_row(space)])
    belief = fit_ensemble(replace(settings, informed=1.0), describe(space), usual, np.zeros(1)).belief()
    return lower_bound(belief.mean, belief.sd, 0.0)


def usual_row(space: SearchSpace) -> int:
    """The candidate that is nearest to the usual settings."""
    (index,) = seed_indices(space, [STANDARD])
    return row_of(space, int(space.canonical([index])[0]))


def _better(believed: Floats, row: int) -> float:
    return float((believed < believed[row]).mean())


def _enough_steps(space: SearchSpace, examples: int | None, epochs: float) -> npt.NDArray[np.bool_]:
    everything = np.ones(len(space.candidates), dtype=bool)
    batch = space.values(space.candidates).get("batch_size")
    if examples is None or batch is None:
        return everything
    steps = np.ceil(examples / batch) * epochs
    return np.asarray(steps >= min(_FEW_STEPS, float(steps.max())))


def _below(width: int | None, space: SearchSpace, fits: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Ranks below the model's width: more give an adapter nothing."""
    rank = space.values(space.candidates).get("rank")
    if width is None or rank is None:
        return fits
    return without(fits, rank >= width)


def _alternatives(
    space: SearchSpace, believed: Floats, fits: npt.NDArray[np.bool_], best: int
) -> list[Alternative]:
    values = space.values(space.candidates)
    found: list[Alternative] = []
    taken = {best}

    def add(name: str, among: npt.NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(among)
        if len(rows) and (row := int(rows[np.argmax(believed[rows])])) not in taken:
            taken.add(row)
            config = space.config(int(space.candidates[row]))
            found.append(Alternative(name, config, _better(believed, row)))

    if "rank" in values:
        add("smaller rank", fits & (values["rank"] <= _SMALL_RANK) & (values["rank"] < values["rank"][best]))
    if "learning_rate" in values:
        rate, same = values["learning_rate"], np.ones(len(believed), dtype=bool)
        for name in ("rank", "alpha_ratio", "alpha", "batch_size"):
            if name in values:
                same &= values[name] == values[name][best]
        add("smaller steps", fits & same & (rate < rate[best] / _SMALLER_STEP * 1.01))
    add("usual settings", np.arange(len(believed)) == usual_row(space))
    return found
