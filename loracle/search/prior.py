"""What measured searches teach before the first trial: a feature map, a mean, and the scales of a kernel.

How large the base model is moves all of it along the learning rate: small models want larger steps.

`benchmarks/pretrain.py` fits a prior to many landscapes by the marginal likelihood of small samples of them
("few-shot" deep kernel, Wistuba and Grabocka 2021, arXiv 2101.07667); a file of a few kilobytes ships with
the package. The surrogate of `ensemble.py` conditions it on the user's trials.

Notation: n configs, k numbers that describe one, d learned features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from loracle.config.spellings import meant_by
from loracle.errors import ModelError
from loracle.records.space import NUMERIC, SearchSpace
from loracle.search.kernel import Floats, Inputs

SHIPPED = Path(__file__).parent / "priors" / "lora-v2.safetensors"
EARLIER = Path(__file__).parent / "priors" / "lora-v1.safetensors"  # of runs that were begun with it
NUMBERS = ("rank", "alpha / rank", "batch size", "learning rate", "dropout")
RATE = NUMBERS.index("learning rate")
WIDTH, FEATURES = 32, 6  # of the learned map
# Parameters of the smallest and the largest model that a prior was fitted to: beyond, nothing is known.
SMALLEST, LARGEST = 1e5, 1e12
# Tensors of a file. A prior without a shift knows nothing of the size of a model.
SHAPES: Mapping[str, tuple[int, ...]] = {
    "hidden.0.weight": (WIDTH, len(NUMBERS)),
    "hidden.0.bias": (WIDTH,),
    "hidden.2.weight": (WIDTH, WIDTH),
    "hidden.2.bias": (WIDTH,),
    "features.weight": (FEATURES, WIDTH),
    "features.bias": (FEATURES,),
    "mean.weight": (1, WIDTH),
    "mean.bias": (1,),
    "step": (len(NUMBERS),),
    "scales": (5,),
    "lengthscales": (len(NUMBERS),),
    "shift": (1,),
}

_FAR = 8.0  # units: 1e-12 as a learning rate, say


def size_of(parameters: float) -> float:
    """How large a model of so many parameters is, in units of two decades; 0 at 32 million."""
    return (math.log10(min(max(parameters, SMALLEST), LARGEST)) - 7.5) / 2


def describe(space: SearchSpace) -> npt.NDArray[np.float64]:
    """All candidates as numbers of about unit size, (N, k): the five of `NUMBERS`, then any other knobs.

    The five mean the same in every space, so what was learnt on one holds for another: logarithms, 0 at rank
    16, alpha / rank 4, batch 16 and learning rate 3e-4; one unit is four doublings, or one decade of the
    learning rate. A knob that the space lacks takes the middle. Other knobs count by their place in their
    range, names by a column each: one unit between any two.
    """
    values = space.values(space.candidates)
    ones = np.ones(len(space.candidates))
    rank = values.get("rank", 16 * ones)
    ratio = values.get("alpha_ratio", values["alpha"] / rank if "alpha" in values else 4 * ones)
    known = [
        (np.log2(rank) - 4) / 4,
        (np.log2(np.maximum(ratio, 2.0**-6)) - 2) / 4,
        (np.log2(values.get("batch_size", 16 * ones)) - 4) / 4,
        np.log10(np.maximum(values.get("learning_rate", 3e-4 * ones), 1e-300)) + 3.5,
        5 * values.get("dropout", 0.1 * ones).clip(-1e300, 1e300) - 0.5,
    ]
    others = [
        (knob.coordinates() if knob.named else 2 * knob.coordinates() - 1)[places]
        for knob, places in zip(space.knobs, space.positions(space.candidates), strict=True)
        if knob.name not in NUMERIC
    ]
    return np.column_stack([*map(_within_reason, known), *others])


def knows(space: SearchSpace) -> tuple[str, ...]:
    """Names of the knobs with several values that a prior says something of."""
    return tuple(knob.name for knob in space.knobs if knob.name in NUMERIC and len(knob.values) > 1)


def misnamed_knobs(space: SearchSpace) -> str | None:
    """What to call knobs that a prior would know under their own names; None: there are none."""
    free = {*NUMERIC} - set(space.names)
    if {"alpha", "alpha_ratio"} & set(space.names):  # the space has one of them, and may have no other
        free -= {"alpha", "alpha_ratio"}
    meant = {knob.name: meant_by(knob.name, free) for knob in space.knobs if len(knob.values) > 1}
    found = {name: known for name, (known, usual) in meant.items() if usual}
    if not found:
        return None
    own, known = ", ".join(found), ", ".join(map(str, found.values()))
    return (
        f"what is known of LoRA is not used for {own}: it goes by the names of a space's knobs; "
        f"call {'it' if len(found) == 1 else 'them'} {known}"
    )


def _within_reason(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers in their order, those beyond 8 units by their logarithm: a dropout of 1e300 would leave no
    digits for any other difference."""
    beyond = np.maximum(np.abs(numbers) - _FAR, 0.0)
    return np.asarray(np.where(beyond > 0, np.sign(numbers) * (_FAR + np.log1p(beyond)), numbers))


@dataclass(frozen=True)
class Prior:
    """The learned parts, in double precision.

    Attributes:
        weights: arrays by the names in `SHAPES`.
        provenance: how it was made.
    """

    weights: Mapping[str, Floats]
    provenance: Mapping[str, Any]

    def inputs(self, numbers: Floats, parameters: float | None = None) -> Inputs:
        """Configs by their numbers, (n, k), as the kernel sees them.

        Args:
            numbers: as `describe` gives them.
            parameters: of the base model; None: as many as are 0 in `size_of`.
        """
        known = numbers[:, : len(NUMBERS)]
        moved = known.copy()
        if parameters is not None:
            moved[:, RATE] += self.weights["shift"] * size_of(parameters)
        hidden = np.tanh(self._linear("hidden.2", np.tanh(self._linear("hidden.0", moved))))
        step = (known * self.weights["step"]).sum(axis=1, keepdims=True)
        return Inputs(self._linear("features", hidden), numbers, step, self._linear("mean", hidden)[:, 0])

    def parameters_for(self, k: int) -> Floats:
        """The kernel's parameters for configs of k numbers; knobs never met get a long lengthscale."""
        step_and_mean = [0.0, 1.0]  # log lengthscale of the step, factor on the mean
        others = np.full(k - len(NUMBERS), 0.5)
        scales, lengthscales = self.weights["scales"], self.weights["lengthscales"]
        return np.concatenate([scales, step_and_mean, lengthscales, others])

    def _linear(self, name: str, x: Floats) -> Floats:
        return np.asarray(x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"])


@cache
def load_prior(path: Path = SHIPPED) -> Prior:
    """Reads a prior; do not change it, it is shared.

    Raises:
        ModelError: the file is missing, damaged, or of another layout.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            names = set(file.keys())
            if names | {"shift"} != set(SHAPES):
                raise ValueError(f"its tensors are not those of a prior: {', '.join(sorted(names))[:200]}")
            weights = {name: file.get_tensor(name).astype(np.float64) for name in names}
            weights.setdefault("shift", np.zeros(1))
            provenance = json.loads((file.metadata() or {}).get("provenance", "{}"))
        for name, shape in SHAPES.items():
            if weights[name].shape != shape:
                raise ValueError(f"{name} has the shape {weights[name].shape}, not {shape}")
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"prior: {path} cannot be read ({reason}); make it with benchmarks/pretrain.py"
        ) from None
    return Prior(weights, provenance)
